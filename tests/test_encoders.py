"""BERT and ModernBERT: packed rows, windows, and equal forms of the same network. Their published
outputs: test_published.py."""

import os
import random
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import on_devices
from published_cases import Case
from test_models import params_of

from diffusion.mdlm import MDLM
from experiments import cli
from experiments.config import Experiment
from experiments.data.text import Text
from models.backbone import Network
from models.bert import Bert
from models.modernbert import ModernBert
from samplers.sliding_window import SlidingWindow

BERT = Bert(11, 2, 16, 2, 24, learned_positions=12)
MODERN = ModernBert(11, 4, 16, 2, 24, local_attention=4, local_base=100.0)
NETWORKS = {"bert": BERT, "modernbert": MODERN}


CASES = ("bert_mlm", "modernbert")


@pytest.mark.parametrize("case", CASES)
def test_the_gelu_is_the_exact_one(case, monkeypatch):
    """The published outputs tell it from its approximation."""
    case = Case(case)
    read = case.open()
    z = jnp.asarray(case.arrays["input_ids"])
    exact = jax.nn.gelu
    monkeypatch.setattr("models.encoder.jax.nn.gelu", lambda x, approximate: exact(x))
    with jax.disable_jit():
        out = read.architecture.model.apply(read.params(), z, jnp.ones((len(z), 1)))
    assert np.abs(out - case.arrays["logits"]).max() > 1e-4


def inputs(model, rows=4, length=10):
    z = jax.random.randint(jax.random.key(5), (rows, length), 0, model.vocab_size + 1)
    return params_of(model), z, jnp.full((rows, 1), 0.4)


@pytest.mark.representatives("modernbert")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_text_that_is_packed_comes_out_as_alone(name):
    model = NETWORKS[name]
    params, z, t = inputs(model, 1, 12)
    segments = jnp.array([[1] * 5 + [2] * 6 + [0]])
    packed = model.apply(params, z, t, segments=segments)
    for part in (slice(0, 5), slice(5, 11)):
        alone = model.apply(params, z[:, part], t)
        np.testing.assert_allclose(packed[:, part], alone, atol=1e-4)
    assert np.abs(packed - model.apply(params, z, t)).max() > 0.01


def test_the_window_is_of_so_many_positions_to_each_side():
    """Of one global layer and one local; a window of 4 reaches 2 to each side."""
    model = replace(MODERN, num_layers=2)
    params, z, t = inputs(model, 1, 8)
    # Nothing leaves the first layer, so that only the second one's window is seen.
    for name in ("attention", "mlp"):
        for part in params["layers"][name].values():
            if part["kernel"].shape[-1] == model.width:
                part["kernel"] = part["kernel"].at[0].set(0)
    out = model.apply(params, z, t)
    for i in range(8):
        changed = model.apply(params, z.at[0, i].set((z[0, i] + 1) % 11), t)
        seen = np.abs(changed - out).max((0, 2)) > 1e-4
        np.testing.assert_array_equal(seen, np.abs(np.arange(8) - i) <= 2)
    everything = replace(model, global_every=1).apply(params, z, t)
    assert np.abs(everything - out).max() > 1e-3


@pytest.mark.representatives("modernbert")
@pytest.mark.parametrize("name", NETWORKS)
def test_scan_remat_and_attention_forms_agree(name):
    model = replace(NETWORKS[name], dropout=0.3)
    params, z, t = inputs(model)
    keys = jax.random.split(jax.random.key(0), len(z))

    def value_and_grad(model):
        def total(p):
            return jnp.sin(model.apply(p, z, t, keys)).sum()

        return jax.jit(jax.value_and_grad(total))(params)

    expected = value_and_grad(model)
    for changed in (dict(remat=True), dict(scan=True, remat=True), dict(attention="xla")):
        got = value_and_grad(replace(model, **changed))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
    assert np.abs(model.apply(params, z, t, keys) - model.apply(params, z, t)).max() > 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_of_masked_tokens_alone_are_those_of_the_whole_head(name):
    model = NETWORKS[name]
    params, z, t = inputs(model)
    x0 = jnp.where(z == model.vocab_size, 3, z)

    def value_and_grad(chunked):
        network = replace(model, chunked_head=chunked)
        loss = lambda p: MDLM(11).loss_of(Network(network, p), x0, z, t).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    found, expected = value_and_grad(True), value_and_grad(False)
    assert expected[0] > 1
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_is_near(name):
    model = NETWORKS[name]
    params, z, t = inputs(model)
    exact, half = model.apply(params, z, t), replace(model, dtype="bfloat16").apply(params, z, t)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_flops_are_those_xla_counts(name):
    model = replace(NETWORKS[name], vocab_size=32, width=64, num_heads=4, hidden=128)
    if name == "bert":
        model = replace(model, learned_positions=32)
    params, z, t = inputs(model, 4, 32)
    cost = jax.jit(model.apply).lower(params, z, t).compile().cost_analysis()
    counted = model.flops_per_token(32) * z.size
    assert counted < cost["flops"] < 1.2 * counted  # the exact GELU is a polynomial


@pytest.mark.parametrize(
    ("model", "wrong", "said"),
    [
        (BERT, dict(hidden=0), "Bert.hidden = 0 must be at least 1"),
        (BERT, dict(num_heads=3), "Bert.width = 16 must be a multiple of 2 x num_heads = 6"),
        (BERT, dict(dropout=1.0), r"Bert.dropout = 1.0 is outside"),
        (BERT, dict(num_types=0), "Bert.num_types = 0 must be at least 1"),
        (MODERN, dict(width=18), "ModernBert.width = 18 must be a multiple of 2 x num_heads = 4"),
        (MODERN, dict(global_every=0), "ModernBert.global_every = 0 must be at least 1"),
    ],
)
def test_impossible_settings_are_said(model, wrong, said):
    with pytest.raises(ValueError, match=said):
        replace(model, **wrong)


def test_a_row_beyond_the_learned_positions_is_said():
    params, z, t = inputs(BERT, 1, 13)
    with pytest.raises(ValueError, match="13 positions, but the network has learned 12"):
        BERT.apply(params, z, t)
    with pytest.raises(ValueError, match=r"data.length = 13, but model Bert has .* 12 tokens"):
        Experiment(MDLM(11), BERT, Text(length=13))
    assert Experiment(MDLM(11), MODERN, Text(length=13)).model.max_length is None
    windows = SlidingWindow(window=12, stride=6)
    assert Experiment(MDLM(11), BERT, Text(length=13), windows).data.length == 13


@pytest.mark.representatives()
def test_diffusion_bert_goes_on_from_a_run_of_bert(tmp_path, capsys):
    """The spindle schedule on BERT over WordPiece, from command to command."""
    words = ["the", "state", "of", "union", "##s", "new", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", *words]) + "\n")
    rng = random.Random(0)
    lines = (" ".join(rng.choices([*words[:4], "news", "unions"], k=6)) for _ in range(300))
    (tmp_path / "text.txt").write_text("\n".join(lines))
    settings = [
        f"data.path={tmp_path}/text.txt", "data.tokenizer=Subwords", "data.length=12",
        f"data.tokenizer.path={tmp_path}/vocab.txt", "model.num_layers=1", "model.width=16",
        "model.num_heads=2", "model.hidden=24", "model.learned_positions=12", "sampler.steps=2",
        "train.batch_size=4", "train.num_steps=2", "evaluation.max_sequences=4",
        "optimizer.schedule.warmup_steps=0",
    ]  # fmt: skip
    where = ["--config", "configs/lm1b/diffusion_bert.py"]

    def train(name, *more):
        sets = [word for setting in [*settings, *more] for word in ("--set", setting)]
        return cli.guarded("train", [*where, "--workdir", str(tmp_path / name), *sets])

    assert train("bert", "process=MDLM") == 0
    assert train("own", f"init_from={tmp_path}/bert") == 0
    assert "arrays loaded from" in capsys.readouterr().out
    assert cli.guarded("sample", ["--workdir", str(tmp_path / "own"), "--num", "1"]) == 0
    assert train("long", "data.length=13") == 2
    assert "learned positions for 12 tokens" in capsys.readouterr().err


MESH = """
import jax, jax.numpy as jnp, numpy as np
from test_encoders import BERT, MODERN
from experiments import cli
from experiments.config import Experiment, Mesh, Train
from experiments.data.text import Text
from experiments.devices.sharding import make_mesh, tree_shardings
from experiments.training.train_step import init_state, make_train_step
from diffusion.mdlm import MDLM

x0 = jax.random.randint(jax.random.key(2), (1, 16, 12), 0, 11)
segments = jnp.broadcast_to(jnp.arange(12)[None, None] // 5 + 1, x0.shape)
for model in (BERT, MODERN):
    found = []
    for sizes in (None, (2, 2, 2)):
        experiment = Experiment(MDLM(11), model, Text(length=12), train=Train(batch_size=16))
        mesh = make_mesh(Mesh(*sizes)) if sizes else None
        state = init_state(experiment)
        if mesh is not None:
            state = jax.device_put(state, tree_shardings(mesh, state, experiment.roles()))
        step = jax.jit(make_train_step(experiment, mesh))
        new, loss = step(state, x0, {"segments": segments})
        found.append((float(loss), float(jax.device_get(new["totals"]["grad_norm"]))))
    np.testing.assert_allclose(*found, rtol=1e-5)
    assert np.isfinite(found).all() and min(found[0]) > 0.1
print("equal")
"""


@pytest.mark.representatives()
def test_meshes_compute_the_same():
    env = on_devices(8) | {"PYTHONPATH": os.pathsep.join([*sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", MESH], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
