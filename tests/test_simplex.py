"""Processes on the simplex: exact distributions, the exact denoiser's bound, the vector field, samplers.

Where enumeration ends (states are continuous) draws are compared with closed forms by SciPy, and means
with their standard errors.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracle import Toy, assert_distribution

from diffusion.bfn import BFN, PowerAccuracy
from diffusion.dirichlet import DirichletFlow
from diffusion.dirichlet_coefficient import coefficient_over_x, quadrature
from diffusion.linear_flow import LinearFlow
from samplers.ancestral import Ancestral
from samplers.ode import ODE

PROCESSES = {
    "dirichlet": DirichletFlow(),
    "dirichlet-scale": DirichletFlow(scale=5.0),
    "linear": LinearFlow(),
    "bfn": BFN(schedule=PowerAccuracy(3.0)),
    "bfn-power": BFN(schedule=PowerAccuracy(3.0, 1.5)),
}
ROWS = 10_000


def process_of(name, vocab_size):
    return replace(PROCESSES[name], vocab_size=vocab_size)


@pytest.fixture
def toy():
    return Toy.named()


def data(toy, rows, seed=0):
    """(rows, L) sequences in the proportions of the toy, to within one, in random order."""
    counts = np.diff(np.floor(np.append(0, np.cumsum(toy.p)) * rows + 0.5)).astype(int)
    x0 = np.repeat(toy.states, counts, axis=0)
    return jnp.asarray(np.random.default_rng(seed).permutation(x0))


def assert_same_distribution(a, b, sigmas=5.0):
    """Samples a and b (N, V) agree in means, squares and products of two components."""
    for f in (lambda x: x, lambda x: x * x, lambda x: x * np.roll(x, 1, -1), np.sqrt):
        x, y = f(np.asarray(a, np.float64)), f(np.asarray(b, np.float64))
        error = np.sqrt(x.var(0) / len(x) + y.var(0) / len(y)) + 1e-12
        assert np.max(np.abs(x.mean(0) - y.mean(0)) / error) < sigmas


@pytest.mark.parametrize("name", PROCESSES)
def test_ends_of_the_path_are_the_prior_and_the_vertex(name):
    process = process_of(name, 5)
    x0 = jnp.tile(jnp.arange(5), (ROWS // 5, 1))
    at_noise = process.corrupt(jax.random.key(0), x0, jnp.ones((len(x0), 1)))
    assert_same_distribution(at_noise[:, 2], process.prior(jax.random.key(1), x0.shape)[:, 3])
    np.testing.assert_allclose(at_noise.sum(-1), 1, rtol=1e-5)
    if not name.startswith("bfn"):  # which ends at accuracy_1, and pays reconstruction for it
        at_data = process.corrupt(jax.random.key(0), x0, jnp.zeros((len(x0), 1)))
        np.testing.assert_array_equal(at_data, process.space.pure(x0))


@pytest.mark.parametrize("name", PROCESSES)
def test_bridge_carries_the_marginal_of_t_to_that_of_s(name):
    process = process_of(name, 4)
    x0 = jnp.full((ROWS, 1), 2)
    for t, s in ((1.0, 0.6), (0.6, 0.55), (0.5, 0.1)):
        t, s = (jnp.full((ROWS, 1), time) for time in (t, s))
        keys = jax.random.split(jax.random.key(int(100 * s[0, 0])), 3)
        z = process.bridge(keys[1], x0, process.corrupt(keys[0], x0, t), t, s)
        assert_same_distribution(z[:, 0], process.corrupt(keys[2], x0, s)[:, 0])
    if not name.startswith("bfn"):
        at_vertex = process.bridge(keys[1], x0, z, s, jnp.zeros_like(s))
        np.testing.assert_array_equal(at_vertex, process.space.pure(x0))


def test_marginals_are_the_published_ones():
    conc, V = 6.5, 5
    t = jnp.full((ROWS, 1), np.exp((1 - conc) / 2))
    z = DirichletFlow(V).corrupt(jax.random.key(0), jnp.full((ROWS, 1), 3), t)[:, 0]
    for component, shape in ((3, conc), (0, 1.0)):
        total = conc + V - 1
        distribution = scipy.stats.beta(shape, total - shape)
        assert (
            scipy.stats.kstest(np.asarray(z[:, component], np.float64), distribution.cdf).pvalue
            > 1e-4
        )
    a = 1.7
    z = BFN(V).corrupt(
        jax.random.key(0), jnp.full((ROWS, 1), 3), jnp.full((ROWS, 1), 1 - np.sqrt(a / 0.5625))
    )
    y = np.log(np.asarray(z[:, 0], np.float64))
    distribution = scipy.stats.norm(
        a * V, np.sqrt(2 * a * V)
    )  # of a difference of two, one of them x0's
    assert scipy.stats.kstest(y[:, 3] - y[:, 1], distribution.cdf).pvalue > 1e-4


def test_evidence_is_the_density_of_the_state(x64):
    V = 4
    z = np.random.default_rng(0).dirichlet(np.ones(V), (3, 2))
    t = jnp.array([[0.1], [0.5], [0.9]])
    process = DirichletFlow(V)
    found = process.log_likelihood(jnp.asarray(z), t)
    for i, j in np.ndindex(3, 2):
        conc = float(process.conc(t[i, 0]))
        exact = [
            scipy.stats.dirichlet(1 + (conc - 1) * np.eye(V)[v]).logpdf(z[i, j]) for v in range(V)
        ]
        np.testing.assert_allclose(found[i, j] - found[i, j, 0], exact - exact[0], rtol=1e-9)
    y = np.random.default_rng(1).normal(size=(3, 2, V))
    process = BFN(V)
    found = process.log_likelihood(jax.nn.softmax(jnp.asarray(y)), t)
    for i, j in np.ndindex(3, 2):
        a = float(process.schedule.accuracy(t[i, 0]))
        exact = [
            scipy.stats.norm(a * (V * np.eye(V)[v] - 1), np.sqrt(a * V)).logpdf(y[i, j]).sum()
            for v in range(V)
        ]
        np.testing.assert_allclose(found[i, j] - found[i, j, 0], exact - exact[0], rtol=1e-9)


def test_coefficient_table_holds_its_accuracy(x64):
    rng = np.random.default_rng(0)
    for V in (2, 3, 4, 20, 27, 1000):
        x = np.exp(rng.uniform(np.log(1e-9), 0, (2000, 1, 1)))
        x[:100] = 1 - np.exp(rng.uniform(-20, 0, (100, 1, 1)))
        a = np.exp(rng.uniform(0, np.log(20), (2000, 1)))
        table = coefficient_over_x(jnp.asarray(x), jnp.asarray(a), V, 20.0)
        np.testing.assert_allclose(table, quadrature(x, a[..., None], V), rtol=2e-8)
        low = coefficient_over_x(jnp.float32(x), jnp.float32(a), V, 20.0)
        np.testing.assert_allclose(low, table, rtol=3e-6)
        assert (
            abs(float(quadrature(1.0, 1.0, V)) * (V - 1) / (1 / np.arange(1, V)).sum() - 1) < 1e-12
        )


@pytest.mark.parametrize("V", [2, 3, 4, 20, 27])
def test_coefficient_transports_the_quantiles_of_the_beta_distribution(V, x64):
    quantiles = np.array([1e-6, 1e-3, 0.02, 0.3, 0.7, 0.98, 1 - 1e-3])
    steps, start, end = 200, 1.0, 6.0
    log_x = jnp.log(jnp.asarray(scipy.stats.beta(start, V - 1).ppf(quantiles)))[:, None, None]

    def slope(log_x, a):
        a = jnp.full((len(quantiles), 1), a)
        return coefficient_over_x(jnp.exp(log_x), a, V, 20.0) * -jnp.expm1(log_x)

    h = (end - start) / steps

    def step(log_x, a):
        k1 = slope(log_x, a)
        k2 = slope(log_x + h / 2 * k1, a + h / 2)
        k3 = slope(log_x + h / 2 * k2, a + h / 2)
        return log_x + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(log_x + h * k3, a + h)), None

    log_x, _ = jax.lax.scan(step, log_x, start + h * jnp.arange(steps))
    expected = scipy.stats.beta(end, V - 1).ppf(quantiles)
    np.testing.assert_allclose(jnp.exp(log_x).ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["dirichlet", "dirichlet-scale", "linear"])
def test_flow_is_a_small_step_of_the_velocity_which_sums_to_zero(name, x64):
    process = process_of(name, 5)
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.dirichlet(np.ones(5), (4, 3)))
    log_p0 = jnp.log(jnp.asarray(rng.dirichlet(np.ones(5), (4, 3))))
    t = jnp.asarray([[0.9], [0.5], [0.2], [0.05]])
    velocity = process.velocity(log_p0, z, t)
    assert np.abs(velocity.sum(-1)).max() < 1e-12 and np.abs(velocity).max() > 0.1
    moved = process.flow(log_p0, z, t, t * (1 - 1e-6))
    np.testing.assert_allclose((moved - z) / (-1e-6 * t)[..., None], velocity, atol=1e-4)
    whole = process.flow(log_p0, z, t, t * 1e-3)
    assert whole.min() >= 0 and np.abs(whole.sum(-1) - 1).max() < 1e-12


@pytest.mark.parametrize("conc", [8.0, 19.0])
def test_dirichlet_bound_equals_nll_for_exact_denoiser_one_by_one(conc, toy, x64):
    """With the exact denoiser the three terms are log p of the whole by Bayes, for each z: no average
    is needed, up to what the tokens share given z (0.02 nats at conc 8)."""
    process = DirichletFlow(toy.vocab_size, bound_conc=conc, bound_steps=32, bound_probes=None)
    x0 = data(toy, 200)
    u = jnp.full((len(x0), 1), 0.5)
    terms = process.bound_terms(jax.random.key(0), toy.denoiser(process), x0, u)
    excess = sum(terms.values()).sum(1) - toy.neg_logp[toy.index(x0)]
    if conc == 19.0:
        assert np.abs(excess).max() < 2e-3 and np.abs(excess.mean()) < 1e-4
    else:
        assert -1e-3 < excess.mean() < 0.02


@pytest.mark.representatives()
def test_dirichlet_bound_with_a_wrong_denoiser_is_above_and_true_to_its_model(x64):
    """One position: the model's own distribution of x0, by quadrature of its ODE, is what is bounded."""
    V, rows = 2, 4000
    process = DirichletFlow(V, bound_conc=12.0, bound_steps=64, bound_probes=None)

    def model(z, t):  # about the exact one of another distribution, and not quite
        evidence = process.log_likelihood(z, t) * 0.9
        return evidence + jnp.log(jnp.array([0.7, 0.3]))[None, None] + 0.3 * jnp.sin(5 * z)

    # The model's distribution of z at conc 12: an even grid of noise moved by small steps of its ODE.
    edges = jnp.linspace(1e-6, 1 - 1e-6, 2001)
    times = jnp.exp((1 - jnp.exp(jnp.linspace(0, np.log(12.0), 4001))) / 2)

    def move(z, step):
        t, s = (jnp.full((len(edges), 1), time) for time in step)
        return process.flow(process.predict(model(z, t), z, t), z, t, s), None

    start = jnp.stack([edges, 1 - edges], -1)[:, None]
    z, _ = jax.lax.scan(move, start, (times[:-1], times[1:]))
    t = jnp.full((len(z), 1), times[-1])
    p0 = jnp.exp(process.predict(model(z, t), z, t))[:, 0]
    distribution = (p0[1:] + p0[:-1]).mean(0) / 2
    for token in range(V):
        x0 = jnp.full((rows, 1), token)
        bound = process.bound(jax.random.key(token), model, x0, jnp.full((rows, 1), 0.5))[:, 0]
        assert bound.mean() > -np.log(distribution[token]) - 5 * bound.std() / np.sqrt(rows)
        weights = jnp.exp(-bound)  # importance weights, whose mean is p(x0) itself
        error = weights.std() / np.sqrt(rows) / distribution[token]
        assert abs(weights.mean() / distribution[token] - 1) < 5 * error + 2e-3 and error < 0.02


@pytest.mark.representatives()
def test_hutchinson_is_unbiased_and_its_noise_averages_out(toy, x64):
    x0 = data(toy, 2000)
    u = jnp.full((len(x0), 1), 0.5)
    spread = []
    for probes in (1, 4):
        process = DirichletFlow(toy.vocab_size, bound_steps=16, bound_probes=probes)
        bound = jax.jit(lambda k, p=process: p.bound(k, toy.denoiser(p), x0, u).sum(1))
        excess = bound(jax.random.key(probes)) - toy.neg_logp[toy.index(x0)]
        spread.append(excess.std())
        assert abs(excess.mean()) < 5 * excess.std() / np.sqrt(len(x0)) + 1e-3
    assert 1.5 < spread[0] / spread[1] < 2.7


@pytest.mark.parametrize("name", ["bfn", "bfn-power"])
def test_bfn_bound_equals_the_entropy_for_exact_denoiser(name, toy, x64):
    process = BFN(toy.vocab_size, PowerAccuracy(8.0, PROCESSES[name].schedule.power))
    x0 = data(toy, ROWS)
    u = jax.random.permutation(jax.random.key(1), (jnp.arange(len(x0))[:, None] + 0.5) / len(x0))
    terms = jax.jit(lambda k: process.bound_terms(k, toy.denoiser(process), x0, u))(
        jax.random.key(0)
    )
    excess = sum(terms.values()).sum(1) - toy.neg_logp[toy.index(x0)]
    assert abs(excess.mean()) < 4 * excess.std() / np.sqrt(len(x0))
    assert terms["reconstruction"].mean() < 0.005


def test_bfn_steps_bound_exactly_on_one_position_and_fall_to_continuous_time(toy, x64):
    """A single position has no factorisation error: the T-step bound is tight for every T."""
    one = Toy.__new__(Toy)
    one.p, one.states = np.array([0.6, 0.3, 0.1]), np.arange(3)[:, None]
    one.vocab_size, one.length, one.one_hot = 3, 1, np.eye(3)[:, None]
    entropy = -(one.p * np.log(one.p)).sum()
    x0 = data(one, ROWS)
    u = jax.random.permutation(jax.random.key(1), (jnp.arange(len(x0))[:, None] + 0.5) / len(x0))
    for steps in (1, 3, 10):
        process = BFN(3, PowerAccuracy(1.5), num_steps=steps)
        bound = process.bound(jax.random.key(steps), one.denoiser(process), x0, u)
        assert abs(bound.mean() - entropy) < 4 * bound.std() / np.sqrt(len(x0))
    x0, means = data(toy, ROWS), []
    for steps in (1, 3, 30, None):
        process = BFN(toy.vocab_size, PowerAccuracy(8.0), num_steps=steps)
        bound = jax.jit(lambda k, p=process: p.bound(k, toy.denoiser(p), x0, u).sum(1))
        found = bound(jax.random.key(0))
        means.append(float(found.mean() - toy.p @ toy.neg_logp))
        error = float(found.std() / np.sqrt(len(x0)))
    assert means[0] > means[1] + 3 * error > means[2] + 3 * error
    assert abs(means[2] - means[3]) < 0.05 + 4 * error


def test_bfn_loss_of_many_steps_is_the_continuous_one(x64):
    """At one time and for one output, to the order 1 / T: no average over draws of the state."""
    V, rows = 5, 200_000
    out = jnp.tile(jnp.array([0.3, -0.2, 1.0, 0.0, 0.5]), (rows, 1, 1))
    t, x0, z = jnp.full((rows, 1), 0.4), jnp.full((rows, 1), 2), None
    exact = BFN(V).token_loss(out[:1], x0[:1], z, t[:1])[0, 0]
    for steps in (100, 1000):
        process = BFN(V, num_steps=steps)
        gained = process.schedule.accuracy(t - 1 / steps) - process.schedule.accuracy(t)
        y = process.send(jax.random.key(steps), x0, gained)
        loss = steps * process.step_loss(out, x0, z, t, gained, y)
        error = loss.std() / np.sqrt(rows)
        assert error < 4e-3 * exact
        assert abs(loss.mean() / exact - 1) < 2 / steps + 4 * error / exact


@pytest.mark.parametrize("process", [DirichletFlow(3), BFN(3)])
def test_heads_hold_the_same_distribution_when_converted(process, toy, x64):
    own = replace(process, head="leave_one_out")
    x0, t = data(toy, 20), jnp.full((20, 1), 0.4)
    z = process.corrupt(jax.random.key(0), x0, t)
    a, b = (np.exp(p.predict(toy.denoiser(p)(z, t), z, t)) for p in (process, own))
    np.testing.assert_allclose(a, b, atol=1e-12)
    mixed = np.exp(own.predict(toy.denoiser(process)(z, t), z, t))
    assert np.abs(mixed - a).max() > 0.01


SAMPLERS = [
    ("dirichlet", Ancestral(64)),
    ("dirichlet-scale", ODE(150, end=0.03)),
    ("linear", Ancestral(128)),
    ("linear", ODE(200, end=0.01)),
    ("bfn-power", Ancestral(64)),
]


@pytest.mark.representatives("bfn-power")
@pytest.mark.parametrize("name, sampler", SAMPLERS)
@pytest.mark.usefixtures("optimized")
def test_distribution_of_the_sampler_approaches_the_data(name, sampler, toy):
    """Total variation to the data's distribution: falls with the steps, to the noise of counting."""
    process, rows = process_of(name, toy.vocab_size), 3000
    distance = []
    for steps in (2, sampler.steps):
        chosen = replace(sampler, steps=steps)
        draw = jax.jit(
            lambda key, s=chosen: s.sample(key, process, toy.denoiser(process), (rows, toy.length))
        )
        counts = np.bincount(toy.index(draw(jax.random.key(0))), minlength=len(toy.p))
        distance.append(np.abs(counts / rows - toy.p).sum() / 2)
    noise = np.sqrt(toy.p / rows).sum() / 2
    assert distance[1] < noise + 0.01 and distance[0] > distance[1]


@pytest.mark.representatives()
@pytest.mark.parametrize("name", ["dirichlet", "bfn"])
@pytest.mark.usefixtures("optimized")
def test_known_tokens_stand_as_vertices_and_condition_exactly(name, toy):
    process = process_of(name, toy.vocab_size)
    known = jnp.broadcast_to(jnp.array([-1, 2, -1]), (ROWS, 3))
    draw = jax.jit(
        lambda key: Ancestral(64).sample(
            key, process, toy.denoiser(process), (ROWS, 3), known=known
        )
    )
    counts = np.bincount(toy.index(draw(jax.random.key(0))), minlength=len(toy.p))
    agrees = toy.states[:, 1] == 2
    assert counts[~agrees].sum() == 0
    conditional = np.where(agrees, toy.p, 0) / toy.p[agrees].sum()
    assert_distribution(counts, conditional, bias=0.01)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: DirichletFlow(1), "vocab_size"),
        (lambda: DirichletFlow(3, scale=0.0), "scale"),
        (lambda: DirichletFlow(3, bound_conc=25.0), "bound_conc"),
        (lambda: DirichletFlow(3, bound_steps=0), "bound_steps"),
        (lambda: DirichletFlow(3, bound_probes=0), "bound_probes"),
        (lambda: BFN(3, num_steps=0), "num_steps"),
        (lambda: PowerAccuracy(0.0), "accuracy_1"),
        (lambda: PowerAccuracy(power=0.5), "power"),
        (lambda: LinearFlow(1), "vocab_size"),
        (lambda: ODE(4, end=0.0), "end"),
        (lambda: ODE(4, grid="log"), "grid"),
    ],
)
def test_impossible_settings_are_rejected(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
