"""Schedules that depend on the token, GenMD4 and Spindle: identities and distributions."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_distribution

from diffusion.genmd4 import GenMD4
from diffusion.mdlm import MDLM
from diffusion.numerics import divergence, gather_last, log_one_hot
from diffusion.schedules import Linear
from diffusion.spindle import Spindle

# Distributions of every schedule that depends on the token

COUNTS = (40, 25, 15, 12, 8)
SKEWED = (100_000, 30, 20, 5, 0)  # the first token is cut at the default strength already
THETA = (0.7, -0.5, 0.1, 1.3, -2.0)


def genmd4(**settings):
    return GenMD4(len(THETA), **settings).bind({"theta": jnp.array(THETA)})


def spindle(counts=COUNTS, **settings):
    return Spindle(len(counts), unigram=counts, **settings)


SCHEDULES = {  # "cut": alpha_v would leave [0, 1] for some v and t
    "genmd4": genmd4,
    "spindle": spindle,
    "spindle-cut": lambda **settings: spindle(strength=3.0, **settings),
    "spindle-skewed-cut": lambda **settings: spindle(SKEWED, **settings),
    "spindle-skewed-strong-cut": lambda **settings: spindle(SKEWED, strength=3.0, **settings),
}
GRIDS = [(name, None) for name in SCHEDULES]
GRIDS += [(name, T) for name in SCHEDULES if name != "genmd4" for T in (7, 1000)]


def batch(process, rows=6, length=4, seed=0):
    """Random out, data and a noisy state in which most positions are masked."""
    rng = np.random.default_rng(seed)
    V = process.vocab_size
    x0 = jnp.asarray(rng.integers(V, size=(rows, length)))
    z = jnp.where(jnp.asarray(rng.random((rows, length)) < 0.7), V, x0)
    return jnp.asarray(2 * rng.normal(size=(rows, length, V))), x0, z


def times(rows, num_steps=None):
    """(rows, 1) times that rise in (0, 1]; on the grid where there is one, its first step included."""
    u = (np.arange(rows)[:, None] + 0.1) / rows
    return jnp.asarray(u if num_steps is None else np.ceil(u * num_steps) / num_steps)


@pytest.mark.parametrize(
    "make, num_steps",
    [
        (lambda _: GenMD4(len(COUNTS), initial_power=1.0), None),
        (lambda _: GenMD4(len(COUNTS), initial_power=1.0, head="leave_one_out"), None),
        *((lambda T: spindle(strength=0.0, num_steps=T), T) for T in (None, 1, 7)),
    ],
)
def test_one_schedule_for_all_tokens_is_mdlm(make, num_steps, x64):
    process = make(num_steps)
    out, x0, z = batch(process)
    t = times(len(x0), num_steps)
    expected = MDLM(process.vocab_size, Linear(), num_steps).token_loss(out, x0, z, t)
    assert (np.asarray(expected) > 0).any()
    for same in (process, process.bind(process.init(jax.random.key(0)))):
        np.testing.assert_allclose(same.token_loss(out, x0, z, t), expected, rtol=1e-10, atol=1e-12)


def test_grid_divergence_tends_to_the_continuous_integrand(x64):
    continuous = spindle()
    out, x0, _ = batch(continuous)
    z = jnp.full_like(x0, continuous.vocab_size)
    t = jnp.asarray([1, 2, 3, 4, 5, 7])[:, None] / 8  # on every grid below
    limit = continuous.token_loss(out, x0, z, t)
    errors = [
        spindle(num_steps=T).token_loss(out, x0, z, t) - limit for T in (1024, 2048, 4096, 8192)
    ]
    assert (np.abs(errors[-1]) < 2e-3 * np.asarray(limit)).all()
    size = [np.abs(e).max() for e in errors]
    np.testing.assert_allclose(np.divide(size[:-1], size[1:]), 2, rtol=0.01)


@pytest.mark.parametrize("name, num_steps", [(n, T) for n, T in GRIDS if T is not None])
def test_grid_loss_is_the_divergence_of_reverse_steps(name, num_steps, x64):
    process = SCHEDULES[name](num_steps=num_steps)
    out, x0, z = batch(process)
    t = times(len(x0), num_steps)
    z = jnp.where(
        jnp.isneginf(gather_last(process.log_masked(t), x0)), x0, z
    )  # a cut token is never masked
    log_q, log_p = (
        process.log_posterior(log_p0, z, t, t - 1 / num_steps)
        for log_p0 in (log_one_hot(x0, process.vocab_size), process.predict(out, z, t))
    )
    loss = process.token_loss(out, x0, z, t)
    assert (np.asarray(loss) > 0).any()
    np.testing.assert_allclose(loss, num_steps * divergence(log_q, log_p), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_alpha_falls_from_exactly_1_to_exactly_0_for_every_token(name, x64):
    process = SCHEDULES[name]()
    t = jnp.linspace(0, 1, 2001)
    masked = np.exp(process.log_masked(t))  # (N, V)
    for dtype in (jnp.float32, jnp.float64):
        ends = np.exp(process.log_masked(jnp.array([0, 1], dtype)))
        assert ends.dtype == dtype and (ends == np.array([[0], [1]])).all()
    steps, inside = np.diff(masked, axis=0), (masked[1:] > 0) & (masked[1:] < 1)
    assert (steps >= 0).all() and (steps[inside] > 0).all()
    assert ((masked[1:-1] == 0) | (masked[1:-1] == 1)).any() == name.endswith("cut")


@pytest.mark.parametrize("name", SCHEDULES)
def test_weight_is_the_derivative_of_log_masked(name, x64):
    process = SCHEDULES[name]()
    t = jnp.linspace(0, 1, 402)[1:-1]
    slope = np.asarray(jax.vmap(jax.jacfwd(process.log_masked))(t))
    weight, log_masked = np.asarray(process.weight(t)), np.asarray(process.log_masked(t))
    inside = (log_masked > -np.inf) & (log_masked < 0)
    assert inside.any(0).all()
    np.testing.assert_allclose(weight[inside], slope[inside], rtol=1e-9)
    assert (weight[inside] > 0).all() and (weight[~inside] == 0).all()


@pytest.mark.parametrize("strength", [0.1, 0.3, 3.0])
def test_spindle_masks_rare_tokens_earlier(strength, x64):
    by_rarity = np.argsort(COUNTS)[::-1]
    masked = np.exp(spindle(strength=strength).log_masked(jnp.linspace(0, 1, 102)[1:-1]))
    rise = np.diff(masked[:, by_rarity], axis=1)
    both_cut = (rise == 0) & np.isin(masked[:, by_rarity[1:]], (0, 1))
    assert ((rise > 0) | both_cut).all() and (rise > 0).any(0).all()
    published = spindle(strength=strength, num_steps=100, posterior="published")
    keep = published.published_keep(jnp.asarray(by_rarity)[None], jnp.full((1, 1), 0.5))
    assert (np.diff(keep) < 0).all()


@pytest.mark.parametrize("name, num_steps", GRIDS)
def test_heads_differ_by_the_likelihood_of_the_mask(name, num_steps, x64):
    grid = {} if num_steps is None else {"num_steps": num_steps}
    leave_one_out = SCHEDULES[name](head="leave_one_out", **grid)
    posterior = SCHEDULES[name](head="posterior", **grid)
    out, x0, z = batch(posterior)
    t = times(len(x0), num_steps)
    log_masked = leave_one_out.log_masked(t)
    z = jnp.where(jnp.isneginf(gather_last(log_masked, x0)), x0, z)  # a cut token is never masked
    shifted = out + log_masked
    for method in ("predict", "log_ratio"):
        np.testing.assert_allclose(
            getattr(leave_one_out, method)(out, z, t),
            getattr(posterior, method)(shifted, z, t),
            rtol=1e-10,
            atol=1e-12,
        )
    loss = leave_one_out.token_loss(out, x0, z, t)
    np.testing.assert_allclose(loss, posterior.token_loss(shifted, x0, z, t), rtol=1e-9, atol=1e-12)
    assert np.abs(loss - posterior.token_loss(out, x0, z, t)).max() > 0.01


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_ratio_is_that_of_the_marginals_of_one_position(name, x64):
    # With one position, nothing is left of z_t without z_t^i: the leave-one-out distribution is the
    # data's.
    process = SCHEDULES[name](head="leave_one_out")
    V = process.vocab_size
    t = times(9)
    log_p = jnp.broadcast_to(jnp.log(jnp.arange(1, V + 1) / (V * (V + 1) / 2)), (9, 1, V))
    alpha = 1 - jnp.exp(process.log_masked(t))
    masked = (jnp.exp(log_p) * (1 - alpha)).sum(-1, keepdims=True)
    marginal = jnp.concatenate([jnp.exp(log_p) * alpha, masked], -1)
    ratio = jnp.exp(process.log_ratio(log_p, jnp.full((9, 1), V), t))
    # A token that is cut at t is not revealed at t; what its ratio is makes no difference.
    revealed = np.append(np.asarray(alpha) < 1, np.ones((9, 1, 1), bool), -1)
    assert revealed[..., :V].any()
    expected = marginal / marginal[..., -1:]
    np.testing.assert_allclose(ratio[revealed], expected[revealed], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_genmd4_prior_term_is_the_divergence_from_its_prior(eps, x64):
    process = genmd4(eps=eps)
    V = process.vocab_size
    x0, u = jnp.arange(V)[:, None], jnp.full((V, 1), 0.5)
    model = lambda z, t: jnp.zeros((V, 1, V))  # noqa: E731
    terms = jax.jit(lambda key: process.bound_terms(key, model, x0, u))(jax.random.key(0))
    states = jnp.arange(V + 1)[:, None]
    log_q = process.log_likelihood(states, jnp.ones((V + 1, 1)))[:, 0].T  # (x0, z_1)
    log_prior = jax.nn.logsumexp(log_q, axis=0, keepdims=True) - np.log(V)
    expected = divergence(log_q, jnp.broadcast_to(log_prior, log_q.shape))[:, None]
    np.testing.assert_allclose(terms.get("prior", jnp.zeros((V, 1))), expected, atol=1e-12)
    assert ("prior" in terms) == (eps > 0)
    z = jax.jit(process.prior, static_argnums=1)(jax.random.key(1), (40_000, 1))
    assert_distribution(np.bincount(np.asarray(z).ravel(), minlength=V + 1), np.exp(log_prior[0]))


@pytest.mark.parametrize("name, num_steps", GRIDS)
def test_loss_is_a_divergence_with_a_finite_gradient(name, num_steps):
    # In float32, for states that occur; the first step of a grid and cut tokens are among them.
    grid = {} if num_steps is None else {"num_steps": num_steps}
    process = SCHEDULES[name](head="leave_one_out", **grid)
    out, x0, _ = batch(process, rows=200)
    t = times(len(x0), num_steps)
    z = process.corrupt(jax.random.key(0), x0, t)
    loss, back = jax.vjp(lambda out: process.token_loss(out, x0, z, t), out)
    (gradient,) = map(np.asarray, back(jnp.ones_like(loss)))
    loss = np.asarray(loss)
    assert loss.dtype == np.float32
    assert np.isfinite(loss).all() and (loss > -1e-3).all()
    assert (loss[np.asarray(z) != process.vocab_size] == 0).all()
    assert np.isfinite(gradient).all() and (gradient != 0).any()


# The gradient of a bound whose noise is learned


@pytest.mark.parametrize("head", ["posterior", "leave_one_out"])
def test_reinforce_gradient_is_unbiased(head, x64):
    V, L, rows, time = 3, 2, 200_000, 0.6
    theta, x = jnp.array([0.4, -0.6, 1.5]), jnp.array([0, 2])
    process = GenMD4(V, head=head)
    states = jnp.asarray(list(itertools.product(range(V + 1), repeat=L)))
    table = jnp.asarray(2 * np.random.default_rng(0).normal(size=(len(states), L, V)))

    def model(z, t):
        return table[z @ (V + 1) ** jnp.arange(L)[::-1]]

    def expected(theta):
        t = jnp.full((len(states), 1), time)
        masked = time ** jax.nn.softplus(theta)[x][None]
        reachable = jnp.where(states == x[None], 1 - masked, 0)
        q = jnp.where(states == V, masked, reachable).prod(1)
        x0 = jnp.broadcast_to(x, states.shape)
        loss = process.bind({"theta": theta}).token_loss(model(states, t), x0, states, t)
        return q @ loss.sum(1)

    @jax.jit
    def estimates(theta):
        """(rows,) values and (rows, V) gradients: of the loss, and of the bound, which is without."""

        def of_rows(theta):
            x0, t = jnp.broadcast_to(x, (rows, L)), jnp.full((rows, 1), time)
            learned, key = process.bind({"theta": theta}), jax.random.key(1)
            values = [f(key, model, x0, t).sum(1) for f in (learned.loss, learned.bound)]
            return values, values

        gradients, values = jax.jacfwd(of_rows, has_aux=True)(theta)
        return values, gradients

    bound, exact = jax.jit(jax.value_and_grad(expected))(theta)
    values, gradients = estimates(theta)
    for value in values:
        error = abs(value.mean() - bound) / (value.std() / rows**0.5)
        assert error < 5, f"the value is {error:.1f} standard errors off"
    off, missing = (np.abs(g.mean(0) - exact) / (g.std(0) / rows**0.5 + 1e-12) for g in gradients)
    assert (off < 5).all(), f"{off} standard errors"
    # The path through the integrand alone misses the distribution of the noise, for the tokens of x0.
    assert (missing[np.unique(x)] > 20).all(), f"{missing} standard errors"


# Settings that cannot be meant


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GenMD4(eps=1.0), "eps = 1.0"),
        (lambda: GenMD4(eps=-0.1), "eps = -0.1"),
        (lambda: GenMD4(initial_power=0.0), "initial_power = 0.0"),
        (lambda: Spindle(posterior="published"), "num_steps"),
        (lambda: Spindle(num_steps=0), "num_steps = 0"),
        (lambda: Spindle(strength=-0.1), "strength = -0.1"),
        (lambda: Spindle(3, unigram=(1.0, 2.0)), "2 entries, the data 3 tokens"),
    ],
)
def test_impossible_settings_are_rejected(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_possible_settings_are_accepted():
    GenMD4(eps=0.0)
    Spindle(strength=0.0, posterior="published", num_steps=1)
    Spindle(unigram=(1.0, 2.0))
    Spindle(2, unigram=(1.0, 2.0))
