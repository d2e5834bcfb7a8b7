"""Duo's curriculum: the noise that argmax makes of normal noise, and what is minimised of it."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_distribution

from configs.sotu import duo
from diffusion.duo import Duo, kept_by_argmax
from diffusion.schedules import Cosine, Linear
from diffusion.stationary import Unigram
from diffusion.udlm import UDLM
from experiments.errors import UserError
from experiments.overrides import override

V, B, L = 4, 8, 6
SETTINGS = {"curriculum_steps": 10, "gamma_min": -2.0, "gamma_max": 1.0}
KEYS = jax.random.split(jax.random.key(0), B)
X0 = np.random.default_rng(0).integers(0, V, (B, L))
U = (np.arange(B)[:, None] + 0.5) / B


def network(z, t):
    """Some function of tokens or of their weights, (B, L, V)."""
    weights = jax.nn.one_hot(z, V, dtype=t.dtype) if z.ndim == 2 else z
    table = jnp.sin(jnp.arange(V * V, dtype=t.dtype)).reshape(V, V)
    return weights @ table + t[..., None]


def test_what_argmax_keeps_has_the_closed_form_of_two_tokens_and_the_values_of_many(x64):
    ratio = np.geomspace(1e-6, 8, 40)[:, None]
    of = jax.jit(kept_by_argmax, static_argnums=1)
    kept, moved = of(-2 * np.log(ratio), 2)
    erf, erfc = (np.vectorize(f)(ratio / 2) for f in (math.erf, math.erfc))
    np.testing.assert_allclose(kept, erf, rtol=1e-9)  # to all digits where nearly nothing is kept,
    np.testing.assert_allclose(moved, erfc, rtol=1e-6)  # and where nearly all is
    of_many = of(-2 * np.log([[3.0], [4.5], *ratio]), 50_258)
    np.testing.assert_allclose(
        of_many[0][:2], [[0.1175], [0.603]], atol=1e-4
    )  # computed apart from this
    np.testing.assert_allclose(sum(of_many), 1, rtol=1e-9)


def test_the_range_of_gamma_is_the_published_one_at_its_vocabulary_and_wider_for_letters():
    np.testing.assert_allclose(Duo(50_258).gammas, (-3.55, -1.85), atol=0.002)
    given = duo.get_config().process
    np.testing.assert_allclose(Duo(27).gammas, (given.gamma_min, given.gamma_max), atol=0.03)


@pytest.mark.parametrize("vocab_size", [27, 50_258])
def test_float32_keeps_the_digits_of_both_ends(vocab_size):
    gamma = np.linspace(-4, 4, 33)[:, None]
    of = jax.jit(kept_by_argmax, static_argnums=1)
    rough = of(jnp.asarray(gamma, jnp.float32), vocab_size)
    with jax.enable_x64(True):
        fine = of(jnp.asarray(gamma), vocab_size)
    for a, b in zip(rough, fine, strict=True):
        visible = np.asarray(b) > 1e-12
        np.testing.assert_allclose(np.asarray(a)[visible], np.asarray(b)[visible], rtol=2e-3)


def test_argmax_of_what_the_network_reads_is_noise_of_the_time_that_it_is_told():
    process, x0 = Duo(V, Cosine(), **SETTINGS), jnp.full((40_000, 1), 2)

    @jax.jit
    def drawn(u):
        gamma, t, _ = process.curriculum_times(u)
        gamma = jnp.broadcast_to(gamma, x0.shape)
        read = [replace(process, tau=tau).soft_tokens(KEYS[0], x0, gamma) for tau in (1e-3, 1.0)]
        return *read, jnp.exp(process.chain.log_marginal(x0[:1], t))[0, 0]

    for u in (0.1, 0.9):
        sharp, soft, expected = map(np.asarray, drawn(jnp.full((1, 1), u)))
        counts = np.bincount(sharp.argmax(-1)[:, 0], minlength=V)
        assert_distribution(counts, expected, bias=1e-6)
        np.testing.assert_array_equal(soft.argmax(-1), sharp.argmax(-1))
        np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-5)
        assert sharp.max(-1).mean() > 0.99 and soft.max(-1).mean() < 0.7


def test_without_temperature_it_is_the_part_of_the_bound_between_two_times(x64):
    """Summed over times: the weights integrate dt, and the loss is the bound's integrand at argmax."""
    process = Duo(V, Cosine(), tau=1e-9, **SETTINGS)
    key, x0, u = jax.random.key(2), jnp.asarray(X0), jnp.asarray(U)

    @jax.jit
    def both():
        gamma, t, density = process.curriculum_times(u)
        z = jnp.argmax(process.soft_tokens(key, x0, gamma), -1)
        expected = density * process.token_loss(network(z, t), x0, z, t)
        return process.curriculum_loss(key, network, x0, u), expected

    np.testing.assert_allclose(*both(), rtol=1e-6)
    nodes, weights = np.polynomial.legendre.leggauss(30)
    u = np.concatenate([(nodes[:, None] + 1) / 2, [[0.0], [1.0]]])
    _, t, density = jax.jit(process.curriculum_times)(u)
    ends, density = t[-2:], density[:-2]
    assert 0.01 < ends[0, 0] < ends[1, 0] < 0.95
    np.testing.assert_allclose(weights @ density / 2, ends[1] - ends[0], rtol=1e-6)


def test_after_the_curriculum_and_in_its_bound_it_is_udlm():
    process, plain = Duo(V, Linear(), **SETTINGS), UDLM(V, Linear())
    x0, u = jnp.asarray(X0), jnp.asarray(U, jnp.float32)

    @jax.jit
    def losses(step):
        at_step = process.at_step(step)
        return {
            "trained": at_step.loss(KEYS, network, x0, u),
            "curriculum": process.curriculum_loss(KEYS, network, x0, u),
            "plain": plain.loss(KEYS, network, x0, u),
            "no step": process.loss(KEYS, network, x0, u),
            "bound": at_step.bound(KEYS, network, x0, u),
            "bound of UDLM": plain.bound(KEYS, network, x0, u),
        }

    for step, name in ((0, "curriculum"), (9, "curriculum"), (10, "plain"), (11, "plain")):
        found = losses(step)
        np.testing.assert_allclose(found["trained"], found[name], rtol=1e-5)
    assert np.abs(found["curriculum"] - found["plain"]).max() > 0.1
    np.testing.assert_allclose(found["no step"], found["plain"], rtol=1e-6)
    np.testing.assert_allclose(losses(0)["bound"], found["bound of UDLM"], rtol=1e-6)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"kernel": Unigram()}, "Duo.kernel = Unigram: the curriculum is of uniform noise"),
        ({"curriculum_steps": -1}, "curriculum_steps = -1 must not be negative"),
        ({"tau": 0.0}, "tau = 0.0 must be positive"),
        ({"vocab_size": 50_258, "gamma_min": 0.0}, "gamma_min = 0 must be below gamma_max = -1.8"),
        ({"gamma_min": 2.0, "gamma_max": 1.0, "vocab_size": 27}, "gamma_min = 2 must be below"),
    ],
)
def test_settings_without_a_meaning_are_told(settings, words):
    with pytest.raises(ValueError, match=words):
        Duo(**settings)


def test_what_the_curriculum_does_not_go_with_is_told():
    with pytest.raises(UserError, match=r"does not take weights of tokens.*process=UDLM"):
        override(duo.get_config(), ["model=Bert"])
    with pytest.raises(UserError, match="no clean prompts; use process=UDLM"):
        override(duo.get_config(), ["data.rows=pair", "data.path=pairs.jsonl", "data.end=0"])
    with pytest.raises(UserError, match="time_weight = Tempered"):
        override(duo.get_config(), ["train.time_weight=Tempered"])
