"""GIDD beside its limits, its noise between two times, its rates, and what its samplers draw."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import after
from oracle import Toy, assert_distribution, quadrature

from configs.sotu import gidd as config
from diffusion.gidd import GIDD
from diffusion.mdlm import MDLM
from diffusion.numerics import log_one_hot
from diffusion.udlm import UDLM
from experiments.time_weights.dynamic import Dynamic
from samplers.ancestral import Ancestral
from samplers.posterior import Posterior
from samplers.predictor_corrector import PredictorCorrector
from samplers.unmask import Tokens, Unmask

KINDS = {
    "published": dict(p_uniform=0.2),
    "masks": dict(p_uniform=0.0),
    "smooth": dict(p_uniform=0.4, gamma=2.0),
    "fixed": dict(p_uniform=0.1 / 1.9, gamma=2.0, gamma_end=0.0),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def matrix(V, t, p_uniform, gamma=1.0, gamma_end=None):
    """q(z_t | z_0) of every state, the mask too, (S, S), from the formula: nothing of the package."""
    gamma_end = gamma if gamma_end is None else gamma_end
    scale = p_uniform / (1 - p_uniform) * 2 ** ((gamma + gamma_end) / 2)
    c = scale * t ** (gamma / 2) * (1 - t) ** (gamma_end / 2)
    noise = np.append(np.full(V, c / V), t)
    return ((1 - t) * np.eye(V + 1) + noise) / (1 + c)


def columns(V, t):
    """Every state as one position, (S, 1), and the time."""
    return jnp.arange(V + 1)[:, None], jnp.full((V + 1, 1), t)


@kinds
def test_noise_is_that_of_the_formula_from_any_time_to_any_later_one(kind, x64):
    V = 4
    chain = GIDD(V, **KINDS[kind]).chain
    for s, t in [(0.0, 0.3), (0.3, 0.31), (1e-6, 0.9), (0.5, 1.0), (0.7, 0.7)]:
        states, now = columns(V, t)
        then = jnp.full(now.shape, s)
        first, whole = (matrix(V, u, **KINDS[kind]) for u in (s, t))
        step = np.exp(chain.log_step(states, now, then))[:, 0].T
        np.testing.assert_allclose(first @ step, whole, atol=1e-14)
        assert (step >= 0).all()
        np.testing.assert_allclose(step.sum(1), 1, rtol=1e-12)
        np.testing.assert_allclose(
            np.exp(chain.log_likelihood(states, now))[:, 0].T, whole[:V], atol=1e-15
        )


@kinds
@pytest.mark.parametrize("T", [10, 10_000, 1_000_000])
def test_small_steps_have_all_their_digits_in_float32(kind, T):
    settings = {"gamma": 1.0, "gamma_end": None} | KINDS[kind]
    gamma = np.longdouble(settings["gamma"])
    end = gamma if settings["gamma_end"] is None else np.longdouble(settings["gamma_end"])
    p = np.longdouble(settings["p_uniform"])
    k = np.unique(np.r_[1:34, T // 3, T // 2, T - 32 : T].clip(1, T - 1))
    t, s = ((x / T).astype(np.float32)[:, None] for x in (k, k - 1))
    step = GIDD(3, **KINDS[kind]).chain.step(jnp.asarray(t), jnp.asarray(s))
    t, s = (x.astype(np.longdouble) for x in (t, s))

    def c(t):
        return p / (1 - p) * 2 ** ((gamma + end) / 2) * t ** (gamma / 2) * (1 - t) ** (end / 2)

    masked = (t - s) / (1 - s) / (1 + c(t))
    np.testing.assert_allclose(np.exp(step.mask), masked.astype(float), rtol=2e-5)
    anew = (c(t) - c(s) * (1 - t) / (1 - s)) / (1 + c(t))
    np.testing.assert_allclose(np.exp(step.anew), anew.astype(float), rtol=2e-5)


def test_rates_are_those_of_small_steps(x64):
    V, process = 4, GIDD(4, 0.3)
    z = jnp.asarray([[0, V, 2, V]])
    out = jax.random.normal(jax.random.key(0), (1, 4, V))
    for now in (0.1, 0.5, 0.9):
        t, dt = jnp.full((1, 1), now), 1e-7
        log_p0 = process.predict(out, z, t)
        step = np.exp(process.log_posterior(log_p0, z, t, t - dt)) / dt
        rate = np.exp(process.log_reverse_rate(out, z, t))
        moves = np.isfinite(process.log_reverse_rate(out, z, t))
        assert (~moves == (log_one_hot(z, V + 1) == 0)).all()
        np.testing.assert_allclose(rate[moves], step[moves], rtol=1e-5)
        assert rate[0, 0, V] > 0 and rate[0, 1, :V].min() > 0 and rate[0, 0, 1] > 0


def bounds_of(process, out):
    """The bound of a network out (Z, L, V) that tells states apart and not times, for every x0 of two
    tokens, (N,); the states without the mask come first."""
    toy = Toy(np.full(9, 1 / 9), 3, 2)
    z = jnp.asarray(toy.all_states(process))
    out = jnp.asarray([out[tuple(state)] for state in np.asarray(z)])

    @jax.jit
    def at(t):
        t = jnp.full((len(z), 1), t)
        q = toy.transition(process, z, t)
        losses = [
            process.token_loss(out, jnp.broadcast_to(x, z.shape), z, t).sum(1) for x in toy.states
        ]
        return (q * jnp.where(q > 0, jnp.stack(losses), 0)).sum(1)

    return sum(w * at(t) for t, w in zip(*quadrature(160, low=-60), strict=True))


@pytest.mark.representatives()
def test_between_masks_and_uniform_tokens_the_bound_goes_from_mdlms_to_udlms(x64):
    """Of a network that is wrong: for the right one all bounds are equal."""
    out = np.random.default_rng(0).normal(size=(4, 4, 2, 3))
    masks, uniform = bounds_of(MDLM(3), out), bounds_of(UDLM(3), out)
    np.testing.assert_allclose(bounds_of(GIDD(3, 0.0), out), masks, rtol=1e-9)
    assert np.abs(masks - uniform).max() > 0.3
    to_masks, to_uniform = (
        [np.abs(bounds_of(GIDD(3, p), out) - limit).max() for p in shares]
        for limit, shares in ((masks, (0.5, 0.1, 1e-3)), (uniform, (0.5, 0.9, 0.999)))
    )
    for gaps in (to_masks, to_uniform):
        assert gaps[0] > gaps[1] > gaps[2]
    assert to_masks[2] < 0.01 and to_uniform[2] < 0.01


def test_a_fixed_mixture_is_one_of_its_settings(x64):
    """XDLM's kernel, k uniform tokens to 1 - k masks, at every time."""
    k = 0.1
    process = GIDD(4, k / (2 - k), gamma=2.0, gamma_end=0.0)
    now = process.chain.at(jnp.linspace(0.01, 1, 20)[:, None])
    np.testing.assert_allclose(np.exp(now.anew - now.mask), k / (1 - k), rtol=1e-12)
    z = process.prior(jax.random.key(0), (20_000, 2))
    counts = np.bincount(np.asarray(z).reshape(-1), minlength=5)
    assert_distribution(counts, np.append(np.full(4, k / 4), 1 - k))


def reverse(toy, times, settings):
    """The distribution after reverse steps from the times on to 0, by Bayes on matrices alone."""
    V, states = toy.vocab_size, toy.sequences(toy.vocab_size + 1)
    start = np.prod(matrix(V, 1.0, **settings)[0][states], axis=1)
    steps = []
    for t, s in pairwise(times):
        now, then = (matrix(V, u, **settings) for u in (t, s))
        step = np.linalg.solve(then, now)  # q(z_t | z_s)
        q = now[toy.states][:, :, states]  # (N, L, Z, L)
        q = np.stack([q[:, i, :, i] for i in range(toy.length)], -1)  # (N, Z, L)
        joint = toy.p[:, None, None] * q.prod(-1, keepdims=True) / np.maximum(q, 1e-300)
        weights = np.einsum("nzl,nlv->zlv", joint, toy.one_hot)
        p = step.T[states] * (weights @ then[:V])
        steps.append(p / p.sum(-1, keepdims=True))
    return after(start, steps, states).reshape((V + 1,) * toy.length)[:V, :V, :V].reshape(-1)


@pytest.mark.parametrize("sampler", [Ancestral, Posterior])
@pytest.mark.parametrize("kind", ["published", "fixed"])
def test_distribution_of_few_steps_is_the_enumerated_one(kind, sampler):
    toy = Toy.named()
    process, rows = GIDD(toy.vocab_size, **KINDS[kind]), 20_000
    draw = jax.jit(
        lambda key: sampler(4).sample(key, process, toy.table(process), (rows, toy.length))
    )
    counts = np.bincount(toy.index(draw(jax.random.key(0))), minlength=len(toy.p))
    expected = reverse(toy, np.linspace(1 - 1e-12, 0, 5), KINDS[kind])
    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-9)
    assert np.abs(expected - toy.p).sum() > 0.05
    assert_distribution(counts, expected)


def test_corrections_bring_few_steps_nearer_to_the_data():
    toy = Toy.named()
    process, rows = GIDD(toy.vocab_size, 0.2), 8000

    def distance(sampler):
        draw = jax.jit(
            lambda key: sampler.sample(key, process, toy.table(process), (rows, toy.length))
        )
        counts = np.bincount(toy.index(draw(jax.random.key(0))), minlength=len(toy.p))
        return np.abs(counts / rows - toy.p).sum()

    assert distance(PredictorCorrector(4, corrections=6)) < 0.9 * distance(Ancestral(4))


def test_noise_added_again_follows_its_distribution():
    V, t, s = 3, 0.8, 0.3
    step = np.linalg.solve(matrix(V, s, 0.3), matrix(V, t, 0.3))
    z = jnp.tile(jnp.arange(V + 1)[None], (20_000, 1))
    now, then = (jnp.full((len(z), 1), u) for u in (t, s))
    process = GIDD(V, 0.3)
    drawn = process.chain.draw_step(jax.random.key(0), z, now, then)
    for state in range(V + 1):
        counts = np.bincount(np.asarray(drawn)[:, state], minlength=V + 1)
        assert_distribution(counts, step[state])
    np.testing.assert_array_equal(process.chain.draw_step(jax.random.key(0), z, now, now), z)
    assert (
        PredictorCorrector(corrector="forward_backward").compatibility(process).kind
        != "unsupported"
    )


def test_with_masks_alone_samplers_of_masks_take_it_and_known_tokens_are_exact():
    alone, both = GIDD(3, 0.0), GIDD(3)
    for sampler in (Unmask("random", Tokens(1)), Ancestral(4, cached=True)):
        assert sampler.compatibility(alone).kind == "exact"
    assert Unmask().compatibility(both).kind == "unsupported"
    assert (alone.known_tokens, both.known_tokens) == ("exact", "biased")
    z = jnp.asarray([[0, 3, 3]])
    assert alone.counted(z).tolist() == [[False, True, True]] and both.counted(z) is None


def test_dynamic_weighs_the_states_that_the_loss_has_drawn():
    process, seen = GIDD(5, 0.3), []
    x0 = jax.random.randint(jax.random.key(0), (8, 6), 0, 5)
    u, keys = (jnp.arange(8)[:, None] + 0.5) / 8, jax.random.split(jax.random.key(1), 8)

    def model(z, t):
        seen.append((z, t))
        return jnp.zeros((*z.shape, 5))

    process.loss(keys, model, x0, u)
    ((z, t),) = seen
    weight = Dynamic()(process, u, x0, keys)
    np.testing.assert_array_equal(weight, process.training_weight(x0, z, t))
    counted = np.asarray(weight * process.weight(x0, z, t))
    np.testing.assert_allclose(counted[z == 5], 2, rtol=1e-6)
    np.testing.assert_allclose(counted[(z != 5) & (z != x0)], 1, rtol=1e-6)
    assert (counted[z == x0] < 0.3).all() and (z == x0).any() and ((z != 5) & (z != x0)).any()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: GIDD(p_uniform=1.0), r"GIDD.p_uniform = 1.0 is outside \[0, 1\).*use UDLM"),
        (lambda: GIDD(p_uniform=-0.1), "GIDD.p_uniform = -0.1"),
        (lambda: GIDD(gamma=0.0), "GIDD.gamma = 0.0 must be positive"),
        (lambda: GIDD(gamma=2.5), r"GIDD.gamma = 2.5 is outside \[0, 2\]"),
        (lambda: GIDD(gamma_end=3.0), r"GIDD.gamma_end = 3.0 is outside \[0, 2\]"),
        (
            lambda: replace(config.get_config(), process=MDLM()),
            "time_weight = Dynamic: MDLM has no weights of its states, as GIDD has; use AsBound",
        ),
    ],
)
def test_what_cannot_be_is_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()
