"""Normal noise on embeddings by quadrature over all of z: its bound, steps, schedules and samplers."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, assert_distribution

from diffusion.gaussian import GivenEmbeddings, LearnedEmbeddings
from diffusion.log_snr import LearnedLogSNR, LinearLogSNR, LogSNR, NoiseRescaled, SqrtLogSNR
from diffusion.numerics import gather_last
from diffusion.plaid import Plaid
from experiments.sampling.grid import information
from samplers.ancestral import Ancestral
from samplers.mean_ancestral import MeanAncestral
from samplers.ode import ODE
from samplers.twisted_smc import TwistedSMC


@dataclass(frozen=True)
class Quadratic(LogSNR):
    """A schedule of one's own."""

    start: float = -5.0
    end: float = 2.0

    def gamma(self, t):
        return self.start + (self.end - self.start) * (0.1 * t + 0.9 * t**2)


LINE = GivenEmbeddings(((-1.3,), (0.2,), (0.9,)), normalised=False)  # of different norms
SCHEDULES = {
    "linear": LinearLogSNR(-5.0, 2.0),
    "quadratic": Quadratic(),
    "learned": LearnedLogSNR(-5.0, 2.0, width=16),
}
PAIRS = Toy(np.array([0.3, 0.02, 0.08, 0.05, 0.2, 0.05, 0.1, 0.05, 0.15]), 3, 2)


def line(name, **settings):
    return Plaid(3, LINE, SCHEDULES[name], self_conditioning=0.0, **settings)


def over_noise(toy, process, t, nodes=44, reach=6.0):
    """(z, weights): states (N * Q, L, 1) of every text at t, and their weights, of sum 1."""
    eps, step = np.linspace(-reach, reach, nodes, retstep=True)
    weight = step * np.exp(-(eps**2) / 2) / np.sqrt(2 * np.pi)
    grid = np.stack(np.meshgrid(*[eps] * toy.length, indexing="ij"), -1).reshape(-1, toy.length)
    weights = np.prod(np.stack(np.meshgrid(*[weight] * toy.length)), 0).reshape(-1)
    gamma = process.gamma(jnp.full((1, 1), t), toy.length)[None, ..., None]
    alpha, sigma = jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))
    x = process.embeddings[toy.states]  # (N, L, 1)
    z = alpha * x[:, None] + sigma * grid[None, :, :, None]
    return z.reshape(-1, toy.length, 1), jnp.asarray(toy.p[:, None] * weights).reshape(-1)


def at(toy, process, t, integrand):
    """E over texts and noise of the integrand (B, L) of the exact denoiser, summed over positions."""
    z, weights = over_noise(toy, process, t)
    times = jnp.full((len(z), 1), t)
    x0 = jnp.repeat(jnp.asarray(toy.states), len(z) // len(toy.p), axis=0)
    return weights @ integrand(toy.denoiser(process)(z, times), x0, z, times).sum(-1)


def decoding(process):
    return lambda out, x0, z, t: -gather_last(process.predict(out, z, t), x0)


def diffusion_term(toy, process, nodes=48, start=0.0, end=1.0):
    times, weights = np.polynomial.legendre.leggauss(nodes)
    rate = jax.jit(lambda t: at(toy, process, t, process.token_loss))
    times = start + (end - start) * (times + 1) / 2
    return sum((end - start) * w / 2 * rate(t) for t, w in zip(times, weights, strict=True))


def divergence_from_the_prior(toy, process):
    """KL(q(z_1) || N(0, I)), of the marginal over texts."""
    z, weights = over_noise(toy, process, 1.0)
    gamma = process.schedule.gamma(jnp.ones((1, 1)))[0, 0]
    alpha, variance = jnp.sqrt(jax.nn.sigmoid(-gamma)), jax.nn.sigmoid(gamma)
    gap = z[:, None] - alpha * process.embeddings[toy.states][None]
    log_q = -(gap**2).sum((2, 3)) / (2 * variance) - toy.length / 2 * jnp.log(variance)
    log_q = jax.nn.logsumexp(log_q + jnp.log(toy.p)[None], axis=1)
    return weights @ (log_q + (z**2).sum((1, 2)) / 2)


@pytest.mark.parametrize(
    ("name", "head"),
    [("linear", "posterior"), ("quadratic", "leave_one_out"), ("learned", "leave_one_out")],
)
def test_the_bound_of_the_exact_denoiser_is_the_entropy_whatever_the_schedule(name, head, x64):
    """H(p) + KL(q(z_1) || N(0, I)), of one position, which is decoded exactly."""
    toy = Toy(np.array([0.5, 0.2, 0.3]), 3, 1)
    process = line(name, head=head)
    prior = toy.p @ process.prior_term(jnp.asarray(toy.states), jnp.float64)[:, 0]
    bound = diffusion_term(toy, process) + at(toy, process, 0.0, decoding(process)) + prior
    exact = toy.entropy + divergence_from_the_prior(toy, process)
    np.testing.assert_allclose(bound, exact, atol=1e-5)
    assert exact > toy.entropy + 1e-3


@pytest.mark.usefixtures("optimized")
def test_the_bound_of_texts_is_the_entropy_where_they_are_decoded_jointly(x64):
    process = replace(line("quadratic"), schedule=Quadratic(-1.0, 3.0))
    prior = PAIRS.p @ process.prior_term(jnp.asarray(PAIRS.states), jnp.float64).sum(1)
    z, weights = over_noise(PAIRS, process, 0.0)
    start = jnp.zeros((len(z), 1))
    log_joint = jnp.log(PAIRS.p)[None] + PAIRS.log_likelihoods(process, z, start).sum(-1)
    text = jnp.repeat(jnp.arange(len(PAIRS.p)), len(z) // len(PAIRS.p))
    jointly = -weights @ gather_last(jax.nn.log_softmax(log_joint)[:, None], text[:, None])[:, 0]
    exact = PAIRS.entropy + divergence_from_the_prior(PAIRS, process)
    term = diffusion_term(PAIRS, process, 16)
    np.testing.assert_allclose(term + jointly + prior, exact, atol=1e-4)
    assert at(PAIRS, process, 0.0, decoding(process)) > jointly + 1e-4  # by position costs more


@pytest.mark.usefixtures("optimized")
def test_estimates_of_bound_and_loss_have_the_enumerated_mean():
    """Without self-conditioning, the loss of a batch is split between two terms of the bound; a fitted
    grid has the integrand of one."""
    process, rows = replace(line("linear"), schedule=LinearLogSNR(-1.0, 2.0)), 20_000
    start = jax.jit(lambda: at(PAIRS, process, 0.0, decoding(process)))()
    diffusion = diffusion_term(PAIRS, process, 16)
    exact = start + diffusion
    assert start > 0.1
    x0 = PAIRS.states[np.random.default_rng(0).choice(9, rows, p=PAIRS.p)]
    u = ((np.random.default_rng(1).permutation(rows) + 0.5) / rows).astype(np.float32)[:, None]
    prior = process.prior_term(jnp.asarray(x0), jnp.float32).sum(1).mean()
    for method in (process.bound, process.loss):
        total = jax.jit(lambda f=method: f(jax.random.key(0), PAIRS.denoiser(process), x0, u))()
        nats = np.asarray(total).sum(1)
        assert abs(nats.mean() - prior - exact) < 4 * nats.std() / rows**0.5
    keys = jax.random.split(jax.random.key(1), rows)
    model = PAIRS.denoiser(process)
    told = np.asarray(jax.jit(lambda: information(process, model, keys, x0, u, 2))()).mean(0)
    assert abs(2 * told.mean() - diffusion) < 8 * told.std() / rows**0.5


def test_any_denoiser_has_a_larger_bound(x64):
    process = line("linear")
    times = [0.1, 0.4, 0.8]
    exact = [at(PAIRS, process, t, process.token_loss) for t in times]
    wrong = [
        at(PAIRS, process, t, lambda out, *a: process.token_loss(0.7 * out + 0.2, *a))
        for t in times
    ]
    assert all(w > e + 1e-5 for w, e in zip(wrong, exact, strict=True))


def test_a_bridge_and_noise_anew_are_the_noise_of_one_step():
    """Of q(z_s | x0): by the bridge from z_t; and the probability of a step averages to 1."""
    process, rows = line("quadratic"), 50_000
    x0 = jnp.zeros((rows, 1), jnp.int32)
    t, s = (jnp.full((rows, 1), u) for u in (0.9, 0.85))
    keys = jax.random.split(jax.random.key(0), 4)
    z = process.corrupt(keys[0], x0, t)
    moved = process.bridge(keys[1], x0, z, t, s)
    direct = process.corrupt(keys[2], x0, s)
    for power in (1, 2):
        a, b = np.asarray(moved**power), np.asarray(direct**power)
        assert abs(a.mean() - b.mean()) < 5 * (a.std() + b.std()) / rows**0.5
    correlation = [np.corrcoef(z.ravel(), m.ravel())[0, 1] for m in (moved, direct)]
    gamma = process.schedule.gamma(jnp.array([0.9, 0.85]))
    np.testing.assert_allclose(correlation[0], np.exp((gamma[1] - gamma[0]) / 2), atol=0.01)
    log_p0 = jnp.log(jnp.broadcast_to(jnp.array([0.2, 0.5, 0.3]), (rows, 1, 3)))
    ratio = np.exp(process.log_transition(log_p0, x0, z, moved, t, s))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / rows**0.5
    # All of it on the token itself: the ratio is its share.
    sure = jnp.where(jnp.arange(3)[None, None] == 0, jnp.log(0.25), -jnp.inf)
    alone = process.log_transition(jnp.broadcast_to(sure, log_p0.shape), x0, z, moved, t, s)
    np.testing.assert_allclose(alone, np.log(0.25), atol=1e-5)


def test_small_steps_of_the_flow_follow_the_velocity(x64):
    process = line("quadratic")
    z, log_p0 = jnp.array([[[0.3], [-1.1]]]), jnp.log(jnp.full((1, 2, 3), 1 / 3))
    t, step = jnp.full((1, 1), 0.6), 1e-6
    moved = process.flow(log_p0, z, t, t - step)
    np.testing.assert_allclose((z - moved) / step, process.velocity(log_p0, z, t), rtol=1e-5)
    np.testing.assert_allclose(process.flow(log_p0, z, t, t), z, rtol=1e-12)


TOY = Toy.named()
SPREAD = GivenEmbeddings(((2.0, 0.0), (-1.0, 1.7), (-1.0, -1.7)))
EXACT = Plaid(3, SPREAD, LinearLogSNR(-6.0, 8.0), self_conditioning=0.0)
SAMPLERS = {  # with what its finite steps may err by
    "ancestral": (Ancestral(64), 0.01),
    "mean": (MeanAncestral(64), 0.015),
    "ode": (ODE(96, grid="uniform"), 0.015),
}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_draw_the_data_with_the_exact_denoiser(name):
    (sampler, error), rows = SAMPLERS[name], 3000
    run = jax.jit(lambda k: sampler.sample(k, EXACT, TOY.denoiser(EXACT), (rows, 3)))
    counts = np.bincount(TOY.index(run(jax.random.key(0))), minlength=len(TOY.p))
    assert_distribution(counts, TOY.p, bias=error)


def test_a_score_temperature_exaggerates_the_noise_that_is_seen():
    z, x, t = jnp.full((1, 1, 2), 0.7), jnp.full((1, 1, 2), 0.4), jnp.full((1, 1), 0.5)
    gamma = EXACT.schedule.gamma(t)[0, 0]
    alpha, sigma = (float(jax.nn.sigmoid(g)) ** 0.5 for g in (-gamma, gamma))
    noise = (0.7 - alpha * 0.4) / sigma
    sharpened = EXACT.sharpened(x, z, t, 0.9)
    np.testing.assert_allclose(sharpened, (0.7 - sigma * noise / 0.9) / alpha, rtol=1e-5)
    assert MeanAncestral(4, score_temperature=0.9).compatibility(EXACT).kind == "approximate"
    assert TwistedSMC(4).compatibility(EXACT).kind == "exact"


def test_a_learned_schedule_rises_between_its_ends():
    schedule = LearnedLogSNR(-2.0, 7.0, width=64)
    bound = schedule.bind(schedule.init(jax.random.key(3)))
    t = jnp.linspace(0, 1, 101)[:, None]
    gamma = np.asarray(bound.gamma(t))[:, 0]
    np.testing.assert_allclose(gamma[[0, -1]], [-2, 7], atol=1e-5)
    assert (np.diff(gamma) > 0).all()
    np.testing.assert_allclose(
        np.asarray(bound.rate(t))[1:-1, 0], (gamma[2:] - gamma[:-2]) / 0.02, rtol=2e-3
    )


def test_a_schedule_that_learns_faster_begins_as_the_same():
    slow, fast = (LearnedLogSNR(width=16, speed=speed) for speed in (1.0, 7.0))
    key, t = jax.random.key(0), jnp.array([[0.3]])
    for bound in (fast, fast.bind(fast.init(key))):
        np.testing.assert_allclose(bound.gamma(t), slow.gamma(t), rtol=1e-5)
    moved = fast.bind(fast.init(key) | {"ends": fast.init(key)["ends"] + 1e-2}).gamma(t)
    np.testing.assert_allclose(moved, slow.gamma(t) + 7e-2, rtol=1e-5)


def test_the_square_root_schedule_is_that_of_the_paper(x64):
    """alpha^2 = 1 - sqrt(t + 1e-4), up to what is left of the data at t = 1."""
    t = jnp.linspace(0, 0.9, 10)[:, None]
    signal = jax.nn.sigmoid(-SqrtLogSNR(signal=1e-8).gamma(t))
    np.testing.assert_allclose(signal, 1 - np.sqrt((1 - 1e-4) * t + 1e-4), rtol=1e-6)
    ends = jax.nn.sigmoid(-SqrtLogSNR().gamma(jnp.array([[0.0], [1.0]])))
    np.testing.assert_allclose(ends[:, 0], [0.99, 2e-4], rtol=1e-9)


def test_a_rescaled_schedule_has_so_many_times_the_noise(x64):
    """z = alpha x + F sigma eps, divided by its deviation, has alpha'^2 = a / (F^2 - (F^2 - 1) a)."""
    t = jnp.linspace(0, 1, 7)[:, None]
    for base in (SqrtLogSNR(), LinearLogSNR()):
        scaled, squared = NoiseRescaled(base, 4.0), jax.nn.sigmoid(-base.gamma(t))
        found = jax.nn.sigmoid(-scaled.gamma(t))
        np.testing.assert_allclose(found, squared / (16 - 15 * squared), rtol=1e-9)
        slope = jax.jvp(scaled.gamma, (t,), (jnp.ones_like(t),))[1]
        np.testing.assert_allclose(scaled.rate(t), slope, rtol=1e-9)


INVERTED = [*SCHEDULES.values(), SqrtLogSNR(), NoiseRescaled(), NoiseRescaled(Quadratic(), 0.5)]


@pytest.mark.parametrize("schedule", INVERTED, ids=repr)
def test_time_is_the_inverse_of_log_snr(schedule, x64):
    t = jnp.array([[0.0], [1e-5], [0.2], [0.77], [1.0]])
    found = jax.jit(lambda t: schedule.time(schedule.gamma(t)))
    np.testing.assert_allclose(found(t), t, atol=1e-11)
    np.testing.assert_allclose(found(t.astype(jnp.float32)), t, atol=1e-5)


def test_ends_learn_by_the_loss_and_the_shape_by_its_square(x64):
    process = Plaid(3, SPREAD, LearnedLogSNR(-2.0, 5.0, width=8), self_conditioning=0.0)
    params = jax.tree.map(jnp.float64, process.init(jax.random.key(1)))
    x0, u = jnp.array([[0, 1], [2, 2], [1, 0]]), jnp.array([[0.3], [0.6], [0.9]])
    key, share = jax.random.key(2), process.reconstruction_share
    t = (u - share) / (1 - share)

    def model(z, t):
        return jnp.sin(z @ jnp.array([[1.0, 0.3, -0.2], [0.1, -0.8, 1.1]]))

    def plain(params):
        bound = process.bind(params)
        z = bound.corrupt(jax.random.split(key)[0], x0, t)
        nats = bound.token_loss(model(z, t), x0, z, t)
        return nats, nats.sum() / (1 - share) + bound.prior_term(x0, nats.dtype).sum()

    def ours(process):
        return jax.value_and_grad(lambda p: process.bind(p).loss(key, model, x0, u).sum())

    @jax.jit
    def all_of(params):
        squares = jax.grad(lambda p: 2 * (plain(p)[0].mean(1) ** 2).sum() / (1 - share))(params)
        means = jax.value_and_grad(lambda p: plain(p)[1])(params)
        return ours(process)(params), ours(fixed)(params)[1], means, squares

    fixed = replace(process, schedule=replace(process.schedule, learns_ends=False))
    (loss, got), still, (value, means), squares = all_of(params)
    np.testing.assert_allclose(loss, value, rtol=1e-10)
    np.testing.assert_allclose(got["schedule"]["ends"], means["schedule"]["ends"], rtol=1e-8)
    for name in ("inner", "offset", "outer"):
        np.testing.assert_allclose(got["schedule"][name], squares["schedule"][name], rtol=1e-6)
    assert not np.any(still["schedule"]["ends"]) and np.any(still["schedule"]["inner"])


def test_embeddings_are_learned_and_have_one_norm():
    process = Plaid(5, LearnedEmbeddings(4), self_conditioning=0.0)
    params = process.init(jax.random.key(1))
    bound = process.bind(params)
    np.testing.assert_allclose(np.linalg.norm(bound.embeddings, axis=-1), 2, rtol=1e-6)
    assert np.abs(bound.embeddings - process.embeddings).max() > 0.1  # before: those of the key 0
    x0, u = jnp.array([[0, 1]]), jnp.full((1, 1), 0.5)

    def loss(params):
        return process.bind(params).loss(jax.random.key(0), lambda z, t: z @ W, x0, u).sum()

    W = jnp.ones((4, 5)) * jnp.arange(5)[None]
    assert np.any(jax.jit(jax.grad(loss))(params)["embedding"]["embeddings"])


def test_embeddings_are_normalised_as_asked():
    """Layer normalisation: each row of mean 0 and variance 1; or rows as they are."""
    layer, none = (LearnedEmbeddings(4, kind) for kind in ("layer", "none"))
    params = layer.init(jax.random.key(1), 5)
    rows = np.asarray(params["embeddings"])
    np.testing.assert_array_equal(none.table(params, 5), rows)
    by_hand = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
    np.testing.assert_allclose(layer.table(params, 5), by_hand, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Falling(LogSNR):
    def gamma(self, t):
        return 4 * (t - 0.4) ** 2


BAD = {
    "falls": (lambda: Falling(), "must rise, and never fall"),
    "constant": (lambda: LinearLogSNR(1.0, 1.0), "must rise"),
    "backwards": (lambda: LearnedLogSNR(3.0, -3.0), "must rise"),
    "too certain": (lambda: LinearLogSNR(-50.0, 5.0), "between -20 and 20"),
    "no number": (lambda: LinearLogSNR(float("nan"), 5.0), "between -20 and 20"),
    "no terms": (lambda: LearnedLogSNR(width=0), "LearnedLogSNR.width = 0 must be at least 1"),
    "no speed": (lambda: LearnedLogSNR(speed=0.0), "speed = 0.0 must be positive"),
    "no width": (lambda: Plaid(embedding=LearnedEmbeddings(0)), "width = 0 must be at least 1"),
    "one number": (lambda: Plaid(embedding=LearnedEmbeddings(1, "layer")), "must be at least 2"),
    "all noise": (lambda: SqrtLogSNR(signal=0.0), "signal = 0.0 must lie between 0 and 1"),
    "sqrt backwards": (lambda: SqrtLogSNR(noise=0.9, signal=0.5), "must rise"),
    "no factor": (lambda: NoiseRescaled(factor=0.0), "factor = 0.0 must be positive"),
    "learned base": (lambda: NoiseRescaled(LearnedLogSNR()), "LearnedLogSNR is learned"),
    "rows": (lambda: Plaid(4, SPREAD), r"has 3 rows of widths \[2\].* each of 4 tokens"),
    "ragged": (lambda: Plaid(2, GivenEmbeddings(((1.0,), (1.0, 2.0)))), r"widths \[1, 2\]"),
    "share": (lambda: Plaid(self_conditioning=1.5), r"self_conditioning = 1.5 is outside"),
    "rows of terms": (lambda: Plaid(reconstruction_share=1.0), r"reconstruction_share = 1.0 is"),
    "temperature": (lambda: MeanAncestral(score_temperature=0.0), "score_temperature = 0.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_process_is_rejected_in_a_line(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
