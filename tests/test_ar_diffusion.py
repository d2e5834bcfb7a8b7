"""AR-Diffusion: the times of positions, its bound along them, its loss, and what samplers draw."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, assert_distribution
from test_gaussian import LINE, PAIRS, SPREAD, at, decoding, diffusion_term
from test_gaussian import divergence_from_the_prior as divergence
from test_sampler_table import CONDITIONAL, share_of_the_first

from diffusion.ar_diffusion import ARDiffusion
from diffusion.gaussian import GivenEmbeddings, LearnedEmbeddings
from diffusion.log_snr import LearnedLogSNR, LinearLogSNR
from diffusion.numerics import gather_last
from experiments.config import Experiment
from models.transformer import Transformer
from samplers.mean_ancestral import MeanAncestral
from samplers.ode import ODE
from samplers.twisted_smc import TwistedSMC

V, N = 5, 8
LONG = ARDiffusion(V)
PUBLISHED = {  # f(n, s) of N = 8 and T = 2000
    0: [0] * 8,
    4: [0, 0, 0, 0, 154, 308, 461, 615],
    8: [1, 126, 251, 376, 500, 625, 750, 875],
    2006: [1999] * 8,
}


def published(n, s, length, steps):
    """f(n, s), as the paper writes it, before it is rounded."""
    anchor = np.clip(length - 1 - s, 0, length - 1), np.clip(s - length + 1, 0, steps - 1)
    slope = (anchor[1] - (steps - 1)) / (anchor[0] - 2 * length)
    return np.clip((n - 2 * length) * slope + steps - 1, 0, steps - 1)


def own_times(process, s, length):
    """tau (S, L) at the steps s (S,) of the sentence."""
    last = length + process.token_steps - 2
    return np.asarray(process.times(jnp.asarray(s / last, jnp.float32)[:, None], length))


def test_times_of_positions_are_the_published_ones_between_whole_steps():
    s = np.array(sorted([*PUBLISHED, 1, 6, 7, 100, 1000, 1999, 2005]))
    steps = own_times(LONG, s, N) * 1999
    by_formula = published(np.arange(N)[None], s[:, None], N, 2000)
    np.testing.assert_allclose(steps, by_formula, atol=2e-3)
    for k, row in PUBLISHED.items():
        np.testing.assert_array_equal(np.round(steps[s == k][0]), row)
    assert (
        published(np.arange(N), N + 1999, N, 2000) == 1999
    ).all()  # the paper's last step is idle


@pytest.mark.parametrize(("length", "steps"), [(1, 2), (2, 2), (8, 2000), (128, 500)])
def test_times_rise_from_0_to_1_and_are_later_on_the_left(length, steps):
    process = ARDiffusion(V, token_steps=steps)
    tau = own_times(process, np.linspace(0, length + steps - 2, 1001), length)
    assert (tau[0] == 0).all() and (tau[-1] == 1).all()
    assert (np.diff(tau, axis=0) >= 0).all() and (np.diff(tau, axis=1) >= 0).all()
    np.testing.assert_array_equal(process.times(jnp.asarray(tau), length), tau)


# The kink of the clock is at t = (N - 1) / (N + T - 2).
TWO = ARDiffusion(3, LINE, LinearLogSNR(-1.0, 3.0), token_steps=3)


def enumerated(process):
    """The diffusion term of the exact denoiser."""
    if process.num_steps is None:
        pieces = (0.0, 1 / 3), (1 / 3, 1.0)
        return sum(diffusion_term(PAIRS, process, 12, *piece) for piece in pieces)
    places = process.num_steps - 1
    u = (np.arange(places)[:, None] + 0.5) / places
    rate = jax.jit(lambda t: at(PAIRS, process, t, process.token_loss))
    return sum(rate(t) for t in process.time(jnp.asarray(u))[:, 0]) / places


@pytest.mark.representatives()
@pytest.mark.usefixtures("optimized")
def test_the_bound_along_sentence_times_is_the_entropy(x64):
    """H(p) + KL(q(z_1) || N(0, I)) where the text is decoded jointly, as with one time for all tokens;
    more in K steps, which are those of a sampler."""
    prior = PAIRS.p @ TWO.prior_term(jnp.asarray(PAIRS.states), jnp.float64).sum(1)
    exact = PAIRS.entropy + divergence(PAIRS, TWO)

    def excess(process, decoded):
        start = at(PAIRS, process, process.first_time, decoded(process))
        return enumerated(process) + start + prior - exact

    np.testing.assert_allclose(excess(TWO, jointly), 0, atol=1e-4)
    by_position = excess(TWO, decoding)
    in_steps = [excess(TWO.in_steps(k), decoding) - by_position for k in (4, 8, 32)]
    assert in_steps[0] > 1.5 * in_steps[1] > 4 * in_steps[2] > 0 < by_position


def jointly(process):
    """-log p(x0 | z) of the whole text, at the first position."""

    def nats(out, x0, z, t):
        log_joint = jnp.log(PAIRS.p)[None] + PAIRS.log_likelihoods(process, z, t).sum(-1)
        text = (x0 * jnp.array([[3, 1]])).sum(-1)
        value = -gather_last(jax.nn.log_softmax(log_joint)[:, None], text[:, None])
        return jnp.concatenate([value, jnp.zeros_like(value)], axis=1)

    return nats


@pytest.mark.representatives()
@pytest.mark.usefixtures("optimized")
def test_the_bound_in_two_steps_is_that_of_the_sampler():
    """At least the cross entropy of what it draws, whose last call draws the tokens; less than with a
    normal step in the place of that."""
    two, rows = TWO.in_steps(2), 20_000
    run = jax.jit(lambda k: MeanAncestral(2).sample(k, two, PAIRS.denoiser(two), (rows, 2)))
    share = np.bincount(PAIRS.index(run(jax.random.key(0))), minlength=9) / rows
    error = 4 * np.sqrt((PAIRS.p**2 / share).sum() / rows)
    cross_entropy = -PAIRS.p @ np.log(share)
    prior = PAIRS.p @ two.prior_term(jnp.asarray(PAIRS.states), jnp.float32).sum(1)
    last = jax.jit(lambda: at(PAIRS, two, 0.5, decoding(two)))()
    bound = enumerated(two) + last + prior
    assert PAIRS.entropy + error < cross_entropy < bound - error
    assert bound < cross_entropy + 0.3
    x0 = PAIRS.states[np.random.default_rng(0).choice(9, rows, p=PAIRS.p)]
    u = (jnp.arange(rows)[:, None] + 0.5) / rows
    estimate = jax.jit(lambda k: two.bound(k, PAIRS.denoiser(two), x0, u).sum(1))
    nats = np.asarray(estimate(jax.random.key(1)))
    assert abs(nats.mean() - bound) < 4 * nats.std() / rows**0.5
    gamma = two.gamma(jnp.array([[0.0], [0.5]]), 2)
    charge = (jnp.exp(-gamma[:1]) - jnp.exp(-gamma[1:])) / 2
    step = jax.jit(lambda: at(PAIRS, two, 0.5, lambda *a: charge * two.squares(*a)))()
    assert step + at(PAIRS, two, 0.0, decoding(two)) > last + 0.05


def test_a_step_is_charged_its_divergence():
    """Of q(z_s | z_t, v) from q(z_s | z_t, x0), by draws; nothing where a token is finished."""
    process, rows, steps = TWO.in_steps(6), 40_000, 6
    x0, other = (jnp.full((rows, 2), v) for v in (0, 2))
    keys = jax.random.split(jax.random.key(0))
    for k, finished in ((4, False), (2, True)):
        t, s = jnp.full((rows, 1), k / steps), jnp.full((rows, 1), (k - 1) / steps)
        z = process.corrupt(keys[0], x0, t)
        moved = process.bridge(keys[1], x0, z, t, s)
        sure = jnp.log(jax.nn.one_hot(other, 3))
        ratio = np.asarray(process.log_transition(sure, x0, z, moved, t, s))
        charged = process.charge(t[:1], 2)[0] * 2.2**2 / (steps - 1)  # of vectors -1.3 and 0.9
        error = 5 * ratio.std(0) / rows**0.5 + 1e-6
        assert (np.abs(-ratio.mean(0) - charged) < error).all()
        assert (charged[0] == 0) == finished and charged[1] > 0
        assert (np.abs(moved - z)[:, 0].max() < 1e-6) == finished


def noised(x, gamma, noise):
    return (x + np.exp(gamma / 2) * np.asarray(noise)) / np.sqrt(1 + np.exp(gamma))


def evidence(z, table, gamma):
    gap = np.sqrt(1 + np.exp(gamma))[..., None] * z[:, :, None] - table[None, None]
    return -(gap**2).sum(-1) / (2 * np.exp(gamma))


def test_the_loss_is_that_of_a_few_lines(x64):
    """Squares and rounding in numpy, of the same noise; the other objective is the integrand of the
    bound and its other terms."""
    process = ARDiffusion(V, LearnedEmbeddings(4), token_steps=6)
    x0, u = np.array([[0, 3, 1], [4, 4, 2]]), np.array([[0.2], [0.7]])
    table, key = np.asarray(process.embeddings, np.float64), jax.random.key(3)
    out = np.random.default_rng(0).normal(size=(2, 3, V))
    keys = jax.random.split(key, 3)
    noise, other = (jax.random.normal(k, (2, 3, 4), jnp.float64) for k in (keys[0], keys[2]))
    tau = jnp.asarray(published(np.arange(3)[None], 7 * u, 3, 6) / 5)
    gamma, start = (np.asarray(process.schedule.gamma(t))[..., None] for t in (tau, 0 * tau))
    logits = out + evidence(noised(table[x0], gamma, noise), table, gamma)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    squares = ((table[x0] - p @ table) ** 2).sum(-1)
    says = evidence(noised(table[x0], start, other), table, start)
    right = np.take_along_axis(says, x0[..., None], -1)[..., 0]
    rounding = np.log(np.exp(says).sum(-1)) - right

    def loss(process):
        return process.loss(key, lambda z, t: out, jnp.asarray(x0), jnp.asarray(u))

    np.testing.assert_allclose(loss(process), squares / 4 + rounding, rtol=1e-6)
    prior = process.prior_term(jnp.asarray(x0), jnp.float64)
    bound = process.charge(jnp.asarray(u), 3) * squares + rounding + prior
    weighted = replace(process, objective="bound")
    np.testing.assert_allclose(loss(weighted), bound, rtol=1e-6)
    np.testing.assert_array_equal(loss(replace(weighted, num_steps=3)), loss(weighted))


MODEL = Transformer(V, 1, 16, 2, time_conditioning=True, condition_width=8, dtype="float32")
X0 = jnp.array([[0, 3, 1], [4, 4, 2], [1, 0, 0], [2, 3, 4]])


def test_the_network_is_told_the_time_of_each_position():
    """Also in chunks of positions, where what each is charged depends on its place."""
    process = ARDiffusion(V, LearnedEmbeddings(4), token_steps=6, self_conditioning=0.5)
    model = MODEL.for_process(None, process.traits.vector_width)
    experiment = Experiment(process, model)
    params = experiment.init_params(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape), params)
    process, network = experiment.bind(params), experiment.network(params)
    chunked = replace(experiment, model=replace(model, chunked_head=True)).network(params)
    t = jnp.full((4, 1), 0.4)

    @jax.jit
    def computed():
        z = process.corrupt(jax.random.key(2), X0, t)
        told = [network(z, time) for time in (t, process.times(t, 3), jnp.repeat(t, 3, 1))]
        ways = [process, process.in_steps(4)]
        whole = [one.token_loss(told[1], X0, z, t) for one in ways]
        return told, whole, [one.loss_of(chunked, X0, z, t) for one in ways]

    told, whole, in_chunks = computed()
    np.testing.assert_allclose(told[0], told[1], atol=1e-6)
    assert np.abs(told[1] - told[2]).max() > 1e-3  # one time for all
    np.testing.assert_allclose(in_chunks, whole, rtol=1e-5)
    assert np.abs(whole[0] - whole[1]).max() > 1e-3
    np.testing.assert_array_equal(process.in_steps(4).embeddings, process.embeddings)


TOY = Toy.named()
EXACT = ARDiffusion(3, SPREAD, LinearLogSNR(-6.0, 8.0), token_steps=6)
SAMPLERS = {"mean": (MeanAncestral(64), 0.015), "ode": (ODE(96, grid="uniform"), 0.02)}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_draw_the_data_with_the_exact_denoiser(name):
    (sampler, error), rows = SAMPLERS[name], 3000
    run = jax.jit(lambda k: sampler.sample(k, EXACT, TOY.denoiser(EXACT), (rows, 3)))
    counts = np.bincount(TOY.index(run(jax.random.key(0))), minlength=len(TOY.p))
    assert_distribution(counts, TOY.p, bias=error)


def test_particles_bring_known_tokens_to_the_conditional_distribution():
    signs = GivenEmbeddings(((1.0,), (-1.0,)))
    process = ARDiffusion(2, signs, LinearLogSNR(-6.0, 8.0), token_steps=4)
    rows = 1000
    found = share_of_the_first(process, TwistedSMC(24, particles=32), rows)
    assert abs(found - CONDITIONAL) < 4 * np.sqrt(0.15 / rows) + 0.03


BAD = {
    "steps of a token": (lambda: ARDiffusion(token_steps=1), "token_steps = 1 must be at least 2"),
    "objective": (lambda: ARDiffusion(objective="mse"), "'mse' is not one of squares, bound"),
    "schedule": (lambda: ARDiffusion(schedule=LearnedLogSNR()), "LearnedLogSNR is learned"),
    "steps": (lambda: ARDiffusion(num_steps=0), "ARDiffusion.num_steps = 0 must be at least 1"),
    "no steps": (lambda: LONG.in_steps(-1), "ARDiffusion.num_steps = -1 must be at least 1"),
    "share": (lambda: ARDiffusion(self_conditioning=2.0), "ARDiffusion.self_conditioning = 2.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_process_is_rejected_in_a_line(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
