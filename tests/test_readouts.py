"""What logits are made of: the values, the gradients and the minimum of each form."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.autoregressive import Autoregressive
from diffusion.mdlm import MDLM
from experiments import cli, train
from experiments.run import load_run
from models.backbone import Network
from models.harmonic import Harmonic
from models.rare_gating import RareGating
from models.readout import DotProduct
from models.transformer import Transformer

V, D = 5, 16
MODEL = Transformer(vocab_size=V, num_layers=1, width=D, num_heads=2)
COUNTS = (0.0, 1.0, 4.0, 45.0, 50.0)
Q = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
X = jax.random.normal(jax.random.key(0), (7, D))
KERNEL = jax.random.normal(jax.random.key(1), (D, V))
X0 = jnp.array([0, 1, 2, 3, 4, 4, 3])


def nats(out, x0=X0):
    return -jax.nn.log_softmax(out)[jnp.arange(len(x0)), x0].mean()


def test_harmonic_probabilities_are_powers_of_distances():
    apart = np.linalg.norm(np.asarray(X)[:, None] - np.asarray(KERNEL).T, axis=-1)
    for power, n in ((3.0, 3), (None, 4)):
        p = jax.nn.softmax(Harmonic(power, floor=1e-9)(X, KERNEL, None))
        wanted = apart**-n / (apart**-n).sum(1, keepdims=True)
        np.testing.assert_allclose(p, wanted, rtol=1e-5)


def test_harmonic_loss_has_the_true_distribution_as_its_minimum():
    readout = Harmonic(2.0, floor=1e-9)
    kernel = X[:1].T + np.eye(D, V) * Q[None] ** -0.5

    def loss(x, kernel):
        return -(Q * jax.nn.log_softmax(readout(x, kernel, None)[0])).sum()

    gradients = jax.grad(loss, (0, 1))
    for found in gradients(X[:1], kernel):
        np.testing.assert_allclose(found, 0, atol=1e-5)
    moved = gradients(X[:1], kernel.at[0, 0].add(1.0))
    assert min(abs(found).max() for found in moved) > 0.05
    # A certain token is reached, with a gradient that is finite.
    at_the_point = jax.grad(lambda x: Harmonic()(x, KERNEL, None)[0, 2])(KERNEL[:, 2][None])
    assert np.isfinite(at_the_point).all()
    assert jax.nn.softmax(Harmonic()(KERNEL[:, 2][None], KERNEL, None))[0, 2] > 0.999


def test_gating_holds_back_what_pushes_rare_vectors_and_nothing_else():
    gated, bias = RareGating(0.1, COUNTS), jnp.arange(V) / 7.0
    np.testing.assert_allclose(gated.gates, [0, 0.1, 0.4, 1, 1])
    both = [
        jax.value_and_grad(lambda x, kernel, bias, f=f: nats(f(x, kernel, bias)), (0, 1, 2))
        for f in (DotProduct(), gated)
    ]
    (value, plain), (same, found) = (f(X, KERNEL, bias) for f in both)
    assert value == same
    np.testing.assert_allclose(found[0], plain[0], rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(found[2], plain[2])
    p = np.asarray(jax.nn.softmax(X @ KERNEL + bias[None]))
    push = np.where(np.eye(V)[np.asarray(X0)] > 0, p - 1, p * gated.gates) / len(X0)
    np.testing.assert_allclose(found[1], X.T @ push, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1][:, 3:], plain[1][:, 3:], rtol=1e-6)
    assert abs(found[1][:, :3] - plain[1][:, :3]).max() > 0.01


@pytest.mark.parametrize("gate", [0.0, 0.4, 1.0])
def test_gated_vectors_alone_learn_what_the_formula_says(gate):
    readout, q = RareGating(0.5, (gate, 2 - gate)), np.array([0.2, 0.8])
    np.testing.assert_allclose(readout.gates, [gate, 1])
    x = jnp.ones((2, 1))

    def loss(kernel):
        log_p = jax.nn.log_softmax(readout(x, kernel, None))
        return -(q * jnp.diagonal(log_p)).sum()

    p = 2 * q[0] / (1 + q[0] + gate * q[1])
    assert p >= q[0]
    upward = jax.grad(loss)(jnp.log(jnp.array([[p, 1 - p]])))[0]
    # Vectors that move alike leave the distribution where it is.
    assert upward[0] == pytest.approx(float(upward[1]), abs=1e-6)


@pytest.mark.parametrize("readout", [Harmonic(), RareGating(0.5, COUNTS)])
@pytest.mark.parametrize("tied", [False, True])
def test_a_network_reads_out_so_wherever_logits_are_made(readout, tied):
    model = replace(MODEL, readout=readout, tied=tied)
    params = model.init(jax.random.key(2))
    assert ("bias" in params["ends"].get("head", {})) == (readout.has_bias and not tied)
    assert jax.tree.structure(model.roles()) == jax.tree.structure(params)
    params = jax.tree.map(lambda p: p + 0.1 * jnp.sin(jnp.arange(p.size)).reshape(p.shape), params)
    x0 = jax.random.randint(jax.random.key(3), (2, 6), 0, V)
    causal = Network(model.for_process(1, None), params)
    ends = params["ends"]
    kernel = ends["embedding"][:-1].T if tied else ends["head"]["kernel"]
    bias = None if tied else ends["head"].get("bias")
    process, z = Autoregressive(V), jnp.pad(x0[:, :-1], ((0, 0), (1, 0)), constant_values=V)
    t = jnp.zeros((2, 1))
    features = causal.backbone.features(params, z, t)
    wanted = readout(features.reshape(-1, D), kernel, bias).reshape(2, 6, V)
    np.testing.assert_allclose(causal(z, t), wanted, rtol=1e-5, atol=1e-5)
    out, _ = causal.decode(z[:, :1], t, causal.cache(2, 6), 0)
    np.testing.assert_allclose(out, wanted[:, :1], rtol=1e-4, atol=1e-4)
    if not tied:
        whole, parts = (
            MDLM(V).loss(
                jax.random.key(4),
                Network(replace(model, chunked_head=chunked), params),
                x0,
                jnp.array([[0.4], [0.9]]),
            )
            for chunked in (False, True)
        )
        np.testing.assert_allclose(whole, parts, rtol=1e-4)
    chances = jnp.exp(process.log_p(causal, x0))
    assert ((chances > 0) & (chances < 1)).all()


def test_a_run_takes_the_counts_of_its_text_and_stores_them(tmp_path):
    settings = ["train.num_steps=1", "train.eval_every=1", "evaluation.max_sequences=8"]
    settings += ["data.length=16", "model.readout=RareGating", "model.readout.frequency=0.01"]
    words = [word for setting in settings for word in ("--set", setting)]
    train.main(["--config", "configs/smoke.py", "--workdir", str(tmp_path / "run"), *words])
    gates = load_run(str(tmp_path / "run")).experiment.model.readout.gates
    assert gates.shape == (27,) and 0 < gates.min() < 1 == gates.max()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Harmonic(power=0.0), "Harmonic.power = 0.0 must be above 0, or None"),
        (lambda: Harmonic(floor=0.0), "Harmonic.floor = 0.0 must be above 0"),
        (lambda: RareGating(frequency=0.0), r"RareGating.frequency = 0.0 is outside \(0, 1\]"),
        (lambda: RareGating().gates, "RareGating.unigram = None is filled in"),
    ],
)
def test_mistakes_are_said_at_construction(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_an_unknown_form_names_the_others(capsys):
    options = ["--config", "configs/smoke.py", "--dry-run", "--set", "model.readout=Cosine"]
    assert cli.guarded("train", options) == 2
    assert "expected one of DotProduct, Harmonic, RareGating" in capsys.readouterr().err
