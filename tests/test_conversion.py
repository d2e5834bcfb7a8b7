"""Runs that begin as other networks: imported ones, and autoregressive ones that become masked."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN

from configs.smoke import get_config
from experiments import cli
from experiments.data.tokenizers import Letters27
from experiments.overrides import override, resolve
from experiments.published import BASE
from experiments.published.card import card_of
from experiments.published.family import Options
from experiments.published.importing import import_run
from experiments.published.source import keep_base, read_source
from experiments.run import load_run
from experiments.training.annealing import opening, visible
from experiments.training.train_step import init_state, make_train_step
from models.classifier import Classifier
from models.energy import EnergyTransformer
from models.transformer import Transformer

LENGTH = 8


def imported(family, folder):
    """The run of a small published checkpoint."""
    source = GOLDEN / "checkpoints" / family
    if family == "a2d_qwen3":  # as Qwen's own, from left to right
        source = shutil.copytree(source, folder / "files")
        config = json.loads((source / "config.json").read_text()) | {"model_type": "qwen3"}
        (source / "config.json").write_text(json.dumps(config))
    options = Options(length=LENGTH)
    import_run(source, folder / "run", options=options, log=lambda line: None)
    return folder / "run"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return imported("gpt2", tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return imported("a2d_qwen3", tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def numbers(tmp_path):
    path = tmp_path / "text.txt"
    rows = np.random.default_rng(0).integers(0, 14, (40, 50))
    path.write_text("\n".join(" ".join(map(str, row)) for row in rows))
    return path


def convert(config, run, workdir, text, *settings):
    small = (
        "data=Text", f"data.path={text}", "data.document=line", f"data.length={LENGTH}",
        f"init_from={run}",
        "train.num_steps=1", "train.batch_size=4", "train.log_every=1", "evaluation.max_sequences=4",
        "optimizer.schedule.warmup_steps=0", "model.remat=False", "model.scan=False",
    )  # fmt: skip
    sets = [word for setting in (*small, *settings) for word in ("--set", setting)]
    return cli.guarded(
        "train", ["--config", f"configs/convert/{config}.py", "--workdir", str(workdir), *sets]
    )


def logged(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {k: v for line in lines for k, v in json.loads(line).items()}


def evaluated(experiment, params, tokens, step=0):
    """The loss of a step's batch by the process alone, with the step's own keys."""
    train = experiment.train
    key = jax.random.fold_in(jax.random.key(train.seed), step)
    key_offset, key = jax.random.split(key)
    offset = jax.random.uniform(key_offset, minval=1e-6, maxval=1 - 1e-6)
    rows = jnp.arange(train.batch_size)
    keys = jnp.stack([jax.random.split(jax.random.fold_in(key, row))[0] for row in rows])
    network = experiment.network(params)
    loss = experiment.bind(params).loss(
        keys, network, tokens, ((rows + offset) / train.batch_size)[:, None]
    )
    return float(loss.mean())


@pytest.mark.representatives("gpt2", "sedd")
@pytest.mark.parametrize("family", ["gpt2", "mdlm", "dream", "sedd_uniform", "bd3lm_a"])
def test_the_first_loss_of_an_imported_run_is_that_of_evaluation(family, tmp_path):
    run = load_run(str(imported(family, tmp_path)))
    e = override(run.experiment, ["train.batch_size=4", "train.ema_decay=0"])
    tokens = np.random.default_rng(0).integers(0, e.process.vocab_size, (4, LENGTH))
    tokens = jnp.asarray(tokens, jnp.int32)
    state = init_state(e, run.params)
    state, loss = jax.jit(make_train_step(e))(state, tokens[None])
    np.testing.assert_allclose(loss, evaluated(e, run.params, tokens), rtol=1e-5)
    assert 0 < state["totals"]["grad_norm"] < np.inf


def test_gpt2_becomes_masked_with_sizes_and_tokens_of_its_run(gpt2, numbers, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert convert("gpt2", gpt2, workdir, numbers) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "  gradient norm " in said
    assert f"the mask replaces the start token of {gpt2}" in said
    assert f"arrays loaded from {gpt2} (16): ends/embedding, " in said
    assert "fresh" not in said and "another shape" not in said and "not used" not in said
    source, run = load_run(str(gpt2)), load_run(str(workdir), ema=False)
    model, whole = run.experiment.model, source.experiment.model
    assert model.shifted and model.block_length is None and whole.block_length == 1
    assert (model.width, model.learned_positions) == (whole.width, whole.learned_positions)
    assert run.experiment.data.tokenizer == source.experiment.data.tokenizer
    assert 0 < logged(workdir)["train/grad_norm"] < np.inf
    # It says where its network is from, and so does its card, with the licence.
    assert read_source(workdir, BASE) == read_source(gpt2)
    keep_base(workdir, tmp_path)
    assert read_source(tmp_path, BASE) == read_source(gpt2)
    card = card_of(run, workdir, "ddlm", None)
    assert "Trained from a checkpoint of the family `gpt2`" in card
    assert all(digest in card for digest in read_source(gpt2).files.values())
    # A continuation needs neither the run it began with nor another word.
    shutil.copytree(gpt2, tmp_path / "gone")
    where = tmp_path / "again"
    assert convert("gpt2", tmp_path / "gone", where, numbers, "train.num_steps=0") == 0
    shutil.rmtree(tmp_path / "gone")
    assert convert("gpt2", tmp_path / "gone", where, numbers) == 0
    assert (
        logged(where)["train/loss_nats_per_token"] == logged(workdir)["train/loss_nats_per_token"]
    )


def test_qwen_becomes_masked_at_once(qwen, numbers, tmp_path, capsys):
    assert convert("qwen", qwen, tmp_path / "run", numbers) == 0, capsys.readouterr().err
    model = load_run(str(tmp_path / "run")).experiment.model
    assert not model.shifted and model.qk_norm and model.num_key_heads == 2


def test_a_network_takes_the_form_of_another_and_stays_what_it_is():
    other = Transformer(num_layers=3, width=48, norm="layer", block_length=1, remat=True)
    like = Classifier(dropout=0.1, scan=True).like(other)
    assert like == Classifier(num_layers=3, width=48, norm="layer", dropout=0.1, scan=True)
    with pytest.raises(ValueError, match="EnergyTransformer"):
        Transformer().like(EnergyTransformer())


def test_the_mask_begins_as_the_mean_of_all_tokens(gpt2, numbers, tmp_path):
    assert convert("gpt2", gpt2, tmp_path / "run", numbers, "train.num_steps=0") == 0
    ours, theirs = (load_run(str(w)).params["ends"]["embedding"] for w in (tmp_path / "run", gpt2))
    np.testing.assert_array_equal(ours[:-1], theirs[:-1])
    np.testing.assert_allclose(ours[-1], theirs[:-1].mean(0), atol=1e-6)
    assert np.abs(ours[-1] - theirs[-1]).max() > 0.1


@pytest.mark.parametrize("source", ["gpt2", "qwen"])
def test_shifted_and_causal_it_is_the_next_token_distribution_of_before(source, request):
    """Of a text that begins with the start token, where all that is left of a position is clean."""
    run = load_run(str(request.getfixturevalue(source)))
    network, size = run.experiment.network(run.params), run.experiment.process.vocab_size
    start = 13 if source == "gpt2" else 1
    after = jnp.asarray(np.random.default_rng(1).integers(0, 13, (2, LENGTH - 1)))
    before = jnp.concatenate([jnp.full((2, 1), size), after[:, :-1]], axis=1)
    expected = network(before, jnp.zeros((2, 1)))  # of `after`, at its own places
    params = run.experiment.model.with_mean_mask(run.params)
    text = jnp.concatenate([jnp.full((2, 1), start), after], axis=1)
    causal = visible(jax.random.key(0), LENGTH, 0.0)
    for place in range(1, LENGTH):
        z = jnp.where(jnp.arange(LENGTH) < place, text, size)
        outs = [
            Transformer(shifted=shifted)
            .like(run.experiment.model)
            .apply(params, z, jnp.ones((2, 1)), visible=causal)
            for shifted in (True, False)
        ]
        np.testing.assert_allclose(outs[0][:, place], expected[:, place - 1], atol=2e-5)
        assert np.abs(outs[1][:, place] - expected[:, place - 1]).max() > 0.1


def test_attention_opens_from_causal_to_full():
    length, causal = 64, np.tri(64, dtype=bool)
    key = jax.random.key(3)
    np.testing.assert_array_equal(visible(key, length, 0.0), causal)
    assert visible(key, length, 1.0).all() and opening(key, length, jnp.int32(5), 0) == {}
    for step, count in ((0, 0), (25, 0.25), (100, 1), (400, 1)):
        seen = np.asarray(opening(key, length, jnp.int32(step), 100)["visible"])
        assert seen[causal].all()
        share, error = seen[~causal].mean(), (count * (1 - count) / (~causal).sum()) ** 0.5
        assert abs(share - count) <= 4 * error


def step_of(*settings):
    e = resolve(override(get_config(), settings), Letters27())
    shape = (e.train.accumulation, e.train.batch_size // e.train.accumulation, e.data.length)
    tokens = np.random.default_rng(0).integers(0, 27, (e.train.batch_size, e.data.length))
    return e, jnp.asarray(tokens.reshape(shape), jnp.int32)


@pytest.mark.representatives()
def test_annealed_attention_is_that_of_the_step_and_nothing_of_the_batch():
    """The same network causal at the first step, full at the last, however it is cut into microbatches,
    layers in a loop and computed again."""
    annealed = ("train.attention_annealing=4", "model.num_layers=2")
    losses = {}
    for name, settings in {
        "whole": annealed,
        "cut": (*annealed, "train.accumulation=4", "model.scan=True", "model.remat=True"),
        "full": annealed[1:],
        "causal": (*annealed[1:], "model.block_length=1"),
    }.items():
        e, tokens = step_of(*settings)
        step, state = jax.jit(make_train_step(e)), init_state(e)
        state["params"]["ends"]["head"]["kernel"] = jax.random.normal(
            jax.random.key(1), state["params"]["ends"]["head"]["kernel"].shape
        )
        losses[name] = [float(step({**state, "step": jnp.int32(n)}, tokens)[1]) for n in (0, 2, 4)]
    np.testing.assert_allclose(losses["whole"], losses["cut"], rtol=1e-5)
    np.testing.assert_allclose(losses["whole"][0], losses["causal"][0], rtol=1e-6)
    np.testing.assert_allclose(losses["whole"][2], losses["full"][2], rtol=1e-6)
    for name in ("causal", "full"):
        assert abs(losses["whole"][1] - losses[name][1]) > 1e-3


@pytest.mark.parametrize(
    "settings, message",
    [
        (["init_from="], "init_model = run"),
        (["init_from=nowhere"], "nowhere"),
        (["process=Autoregressive", "sampler=LeftToRight"], "attention_annealing"),
        (["model=EnergyTransformer"], "EnergyTransformer"),
    ],
)
def test_what_cannot_be_converted_is_one_line(settings, message, gpt2, numbers, tmp_path, capsys):
    assert convert("gpt2", gpt2, tmp_path / "run", numbers, *settings) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()
