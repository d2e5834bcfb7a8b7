"""DGLM: its soft prompt, its loss, and the whole of it through the commands, on a small text."""

import random
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL

import ddlm
from diffusion.dglm import DGLM
from diffusion.model import at_positions
from experiments import cli
from experiments.errors import UserError
from experiments.run import load_run
from models.backbone import Network
from models.planned import PlannedTransformer
from models.residual_mlp import ResidualMLP
from models.sentence_encoder import SentenceEncoder
from models.transformer import Transformer
from samplers.autoregressive import LeftToRight
from samplers.plan_and_write import PlanAndWrite, Steered

CONFIGS = Path(__file__).parent.parent / "configs" / "sotu"
TRUNK = Transformer(vocab_size=5, num_layers=1, width=8, num_heads=2)
MODEL = PlannedTransformer(
    replace(TRUNK, num_layers=2),
    SentenceEncoder(TRUNK),
    ResidualMLP(1, 8),
    ResidualMLP(1, 8),
    prompt_length=3,
    everywhere=True,
).for_process(1, None)
DGLM5 = DGLM(5, longest_prefix=3)


@pytest.fixture(scope="module")
def network():
    """With a head, and parts, that say something, as none does before training."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [0.5 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    params = jax.tree.unflatten(tree, drawn)
    encoder = params["encoder"] | {"deviation": jnp.ones(8), "mean": jnp.zeros(8)}
    return Network(MODEL, params | {"encoder": encoder})


def test_a_soft_prompt_stands_before_the_text_with_and_without_a_cache(network):
    plan = jax.random.normal(jax.random.key(1), (2, 8))
    level = jnp.full((2, 1), 0.1)
    writer = DGLM5.prompted(network, plan, level)
    z, t = jnp.array([[5, 1, 2, 3], [5, 0, 0, 4]]), jnp.zeros((2, 1))
    out = writer(z, t)
    # As if the vectors were embeddings of tokens of their own: by hand, with a table that has them.
    table = network.params["decoder"]["ends"]["embedding"]
    vectors, each = writer.prompt[1] + table[5][None], writer.everywhere[1]
    assert np.abs(each).max() > 0.1
    longer = jnp.concatenate([table[:-1] + each, vectors, table[-1:] + each])
    ends = network.params["decoder"]["ends"]
    padded = {
        name: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 3)]) for name, a in ends["head"].items()
    }
    told = {"ends": ends | {"embedding": longer, "head": padded}}
    by_hand = replace(MODEL.decoder, vocab_size=8).apply(
        network.params["decoder"] | told, jnp.array([[5, 6, 7, 8, 0, 0, 4]]), t[:1]
    )
    np.testing.assert_allclose(out[1], by_hand[0, 3:, :5], atol=1e-4)
    assert np.abs(out[0] - out[1]).max() > 0.1
    cache = writer.cache(2, 4)
    decode = jax.jit(writer.decode)
    for place in range(4):
        step, cache = decode(z[:, place : place + 1], t, cache, place)
        np.testing.assert_allclose(step[:, 0], out[:, place], atol=1e-4)
    where = jnp.array([[True, False, True, True]] * 2)

    def first(out, x0, z, t):
        return out[..., 0]

    chunked = replace(MODEL, decoder=replace(MODEL.decoder, chunked_head=True))
    told = replace(writer, model=Network(chunked, network.params))
    np.testing.assert_allclose(
        at_positions(told, first, where, z, z, t), jnp.where(where, out[..., 0], 0), atol=1e-4
    )


def test_the_decoder_learns_what_follows_the_prefix_and_the_plan_is_learned_everywhere(network):
    key = jax.random.split(jax.random.key(3), 64)
    x0 = jax.random.randint(jax.random.key(4), (64, 8), 0, 5)
    u = (jnp.arange(64)[:, None] + 0.5) / 64
    first = DGLM5.cut(jax.random.split(jax.random.key(5), 4000), (4000, 8))[:, 0]
    shares = np.bincount(first, minlength=4) / 4000
    np.testing.assert_allclose(shares, [0.1, 0.3, 0.3, 0.3], atol=0.04)
    whole = jnp.ones_like(x0).at[:, 2:].set(2)
    changed = x0.at[:, 0].set((x0[:, 0] + 1) % 5)

    @jax.jit
    def asked(x0, changed):
        both = (DGLM5.embeddings(network, x, whole) for x in (x0, changed))
        return DGLM5.loss(key, network, x0, u), *both

    loss, (given, told), other = asked(x0, changed)
    constant = loss == loss[:, :1]  # nothing but the plan, the same at each position of a prefix
    found = np.bincount(np.argmin(np.asarray(constant), axis=1), minlength=5) / 64
    assert set(np.flatnonzero(found)) == {1, 2, 3} and np.isfinite(loss).all()
    # A change of the prefix changes what is given of the plan, not what is to be said of it.
    np.testing.assert_allclose(told, other[1], atol=1e-5)
    assert np.abs(given - other[0]).max(1).min() > 1e-3


def test_guidance_moves_the_plan_that_the_text_is_written_by(network):
    known = jnp.array([[1, 2, -1, -1, -1, -1]] * 8)
    keys = jax.random.split(jax.random.key(6), 8)
    sampler = PlanAndWrite(steps=4, noise=0.0)

    @jax.jit
    def sample(strength):
        steered = Steered(network, (lambda x: x[:, 0], lambda x: -x[:, 3]), strength)
        return sampler.sample(keys, DGLM5, steered, (8, 6), known)

    free, guided = np.asarray(sample(0.0)), np.asarray(sample(20.0))
    assert (free[:, :2] == [1, 2]).all() and (guided[:, :2] == [1, 2]).all()
    assert (free[:, 2:] != guided[:, 2:]).any()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{"text": ..., "ar": ..., "dglm": ..., "labels": ...}: run directories by what they hold."""
    root = tmp_path_factory.mktemp("dglm")
    for number, words in enumerate((["the", "state", "of"], ["union", "and", "people"])):
        (root / "text" / f"kind-{number}").mkdir(parents=True)
        text = " ".join(random.Random(number).choices(words, k=800))
        (root / "text" / f"kind-{number}" / "text.txt").write_text(text)

    def train(config, name, *settings):
        small = [s for s in SMALL if not (name == "labels" and s.startswith("model."))]
        changes = [*small, "data.length=16", f"data.path={root / 'text'}", *settings]
        if name == "dglm":
            changes = [s.replace("model.", "model.decoder.") for s in changes]
            changes += ["model.denoiser.width=8", "model.prompter.width=8", "sampler.steps=2"]
        sets = [word for s in changes for word in ("--set", s)]
        where = ["--workdir", str(root / name)]
        config = ["--config", str(CONFIGS / f"{config}.py")]
        assert cli.guarded("train", [*config, *where, *sets]) == 0
        return str(root / name)

    found = {"root": root, "ar": train("autoregressive", "ar", "train.num_steps=0")}
    found["dglm"] = train("dglm", "dglm", f"init_from={found['ar']}")
    labelled = ("data.labels=folder", f"init_from={found['dglm']}")
    found["labels"] = train("dglm_classifier", "labels", *labelled)
    return found


def test_it_trains_from_a_run_and_keeps_its_encoder(runs):
    ar, dglm, labels = (load_run(runs[name]) for name in ("ar", "dglm", "labels"))
    jax.tree.map(np.testing.assert_array_equal, ar.params, dglm.params["encoder"]["trunk"])
    jax.tree.map(np.testing.assert_array_equal, dglm.params["encoder"], labels.params["encoder"])
    assert dglm.params["encoder"]["deviation"].min() > 0 and dglm.params["encoder"]["mean"].any()
    table = "ends", "embedding"
    moved = dglm.params["decoder"][table[0]][table[1]] - ar.params[table[0]][table[1]]
    assert 0 < np.abs(moved).max() < 0.1  # the decoder begins with the run's parameters


def test_samples_with_a_prompt_a_label_and_several_of_them(runs, capsys):
    where = ["--workdir", runs["dglm"], "--num", "2", "--prompt", "the "]
    one = ["--classifier", runs["labels"], "--label", "kind-0", "--guidance", "9e4"]
    assert cli.guarded("sample", [*where, *one]) == 0, capsys.readouterr().err
    lines = [x[4:] for x in capsys.readouterr().out.splitlines() if x.startswith("[")]
    assert len(lines) == 2 and all(x.startswith("the ") and len(x) == 16 for x in lines)
    both = {"classifier": runs["labels"], "label": ["kind-0", "kind-1"], "guidance": 9.0}
    texts = ddlm.load(runs["dglm"]).sample(2, regex="the [a-f ]*", **both)
    assert all(text.startswith("the ") and set(text[4:]) <= set("abcdef ") for text in texts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": "kind-0"}, "DGLM is guided by classifiers of embeddings; train one"),
        ({"label": "kind-7", "classifier": "labels"}, "has no such label; it has kind-0, kind-1"),
        ({"label": "kind-0", "classifier": "ar"}, "classifies no embeddings; train one"),
        ({"label": ["kind-0"] * 3, "classifier": ["labels"] * 2}, "one classifier for each label"),
        ({"classifier": "labels"}, "--classifier needs a label"),
        ({"guidance": 2.0, "prompt": "the"}, "name it with --label"),
        ({"label": "kind-0", "classifier": "labels", "exact": True}, "--exact: DGLM is guided by"),
        ({"stop": ["e"], "min_tokens": 2}, "--min-tokens 2: DGLM cannot keep"),
        ({"sampler": "LeftToRight"}, "LeftToRight does not support process DGLM"),
        ({"changes": ("sampler.noise=2",)}, "PlanAndWrite.noise = 2.0 is outside"),
    ],
    ids=lambda value: "",
)
def test_what_it_cannot_do_is_said_in_a_line(runs, options, said):
    options = dict(options)
    if given := options.get("classifier"):
        names = [given] if isinstance(given, str) else given
        options["classifier"] = [runs[name] for name in names]
    with pytest.raises(UserError, match=said) as error:
        ddlm.load(runs["dglm"]).sample(1, **options)
    assert "\n" not in str(error.value)


def test_other_mistakes_end_in_a_line(runs, capsys):
    assert cli.guarded("evaluate", ["--workdir", runs["dglm"]]) == 2
    assert "DGLM has no likelihood bound" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Transformer has no encoder, denoiser, prompter"):
        ddlm.Experiment(DGLM(), TRUNK, sampler=ddlm.PlanAndWrite(LeftToRight()))
    for settings, said in (
        ({"longest_prefix": 0}, "DGLM.longest_prefix = 0"),
        ({"alone": 2.0}, "DGLM.alone = 2.0"),
    ):
        with pytest.raises(ValueError, match=said):
            DGLM(**settings)
