"""EDLM by enumeration: the distribution of its sampler, its bound on that very distribution, and its
training."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, assert_distribution

from diffusion.edlm import EDLM, EDLMAutoregressive
from diffusion.mdlm import MDLM
from diffusion.numerics import gather_last
from diffusion.random import split
from samplers.ancestral import Ancestral

ROWS = 10_000
STEPS = 2


@pytest.fixture(scope="module")
def toy():
    return Toy.named()


class Networks:
    """The exact factorised denoiser, and an energy that is `scale` times the exact one."""

    def __init__(self, toy, scale=1.0):
        self.toy, self.scale, self.base = toy, scale, MDLM(toy.vocab_size)
        self.denoise = toy.denoiser(self.base)

    def __call__(self, z, t):
        return self.denoise(z, t)

    def energy(self, x, t, state):
        log_p0 = self.base.predict(self.denoise(state, t), state, t)
        log_base = gather_last(log_p0, x).sum(1)
        agrees = (state[:, None] == self.toy.states[None]) | (state == self.base.mask)[:, None]
        evidence = jnp.log(agrees.all(-1) @ self.toy.p)  # of what is seen of the state
        log_q = jnp.log(self.toy.p)[self.toy_index(x)] - evidence
        return self.scale * (log_base - log_q)

    def toy_index(self, x):
        return x @ (self.toy.vocab_size ** np.arange(self.toy.length)[::-1])


def exact_distribution(toy, networks, process, steps):
    """The distribution of the sampler's output, summed over all states and all k-tuples of
    candidates."""
    V, L = toy.vocab_size, toy.length
    states = np.array(list(itertools.product(range(V + 1), repeat=L)))
    number = {tuple(z): i for i, z in enumerate(states)}
    mass = np.zeros(len(states))
    mass[number[(V,) * L]] = 1
    for step in range(steps):
        t, s = 1 - step / steps, 1 - (step + 1) / steps
        reveal = (t - s) / t
        log_p0, energies = tables(toy, networks, states, t)
        after = np.zeros(len(states))
        for i, here in enumerate(states):
            if mass[i] == 0:
                continue
            p = np.exp(sum(log_p0[i, j, toy.states[:, j]] for j in range(L)))
            if t > 1 - process.window + 1e-6 and process.candidates > 1:
                w = np.where(p > 0, np.exp(-energies[i] / process.temperature), 0)
                p = kept(p, w, process.candidates)
            masked = np.flatnonzero(here == V)
            for chosen in itertools.product([False, True], repeat=len(masked)):
                share = np.prod([reveal if c else 1 - reveal for c in chosen])
                for n, x in enumerate(toy.states):
                    new = here.copy()
                    new[masked[list(chosen)]] = x[masked[list(chosen)]]
                    after[number[tuple(new)]] += mass[i] * share * p[n]
        mass = after
    distribution = np.array([mass[number[tuple(x)]] for x in toy.states])
    assert abs(distribution.sum() - 1) < 1e-5
    return distribution


_TABLES = {}


def tables(toy, networks, states, t):
    """log_p0 (Z, L, V) and the energies (Z, N) of every sequence in every state, at time t."""
    if t not in _TABLES:
        _TABLES[t] = exact_tables(toy, Networks(toy), states, t)
    log_p0, energies = _TABLES[t]
    return log_p0, networks.scale * energies


def exact_tables(toy, networks, states, t):
    @jax.jit
    def both(z):
        time = jnp.full((len(z), 1), t)
        x = jnp.tile(toy.states, (len(z), 1))
        rows = jnp.repeat(z, len(toy.states), axis=0)
        energy = networks.energy(x, jnp.full((len(x), 1), t), rows)
        return networks.base.predict(networks(z, time), z, time), energy.reshape(len(z), -1)

    return [np.asarray(table, np.float64) for table in both(jnp.asarray(states))]


def kept(p, w, k):
    """The distribution of the candidate kept out of k independent draws of p, with weights w."""
    total = np.zeros_like(p)
    support = np.flatnonzero(p > 0)
    for others in itertools.combinations_with_replacement(support, k - 1):
        counts = np.unique(others, return_counts=True)[1]
        ways = np.prod(np.arange(1, k)) / np.prod([np.prod(np.arange(1, c + 1)) for c in counts])
        total += ways * np.prod(p[list(others)]) * p * k * w / (w + w[list(others)].sum())
    return total


_COMPILED = {}


def bound(toy, process, networks, draws=1000, seed=0):
    """(N,) means of the bound of each sequence, and standard errors."""

    if (process, draws) not in _COMPILED:

        def values(key, scale):
            rows = jnp.repeat(toy.states, draws, axis=0)
            u = jnp.tile((jnp.arange(draws) + 0.5) / draws, len(toy.p))[:, None]
            nats = process.bound(key, Networks(toy, scale), rows, u)
            return nats.sum(1).reshape(-1, draws)

        _COMPILED[process, draws] = jax.jit(values)
    nats = np.asarray(_COMPILED[process, draws](jax.random.key(seed), networks.scale), np.float64)
    return nats.mean(1), nats.std(1) / np.sqrt(draws)


CASES = {
    "two": EDLM(MDLM(3), candidates=2, num_steps=STEPS),
    "three": EDLM(MDLM(3), candidates=3, num_steps=STEPS),
    "window": EDLM(MDLM(3), candidates=2, window=0.5, num_steps=STEPS),
    "temperature": EDLM(MDLM(3), candidates=2, temperature=2.0, num_steps=STEPS),
    "samples": EDLM(MDLM(3), candidates=2, num_steps=STEPS, bound_samples=4),
}


@pytest.mark.representatives("two", "samples")
@pytest.mark.parametrize("name", CASES)
def test_bound_is_one_on_the_exact_distribution_of_the_sampler(name, toy):
    """For every sequence, also where the energy is bad (here the exact one turned round)."""
    for scale in (1.0, -0.5):
        networks = Networks(toy, scale)
        distribution = exact_distribution(toy, networks, CASES[name], STEPS)
        mean, error = bound(toy, CASES[name], networks)
        assert np.all(mean > -np.log(distribution) - 4 * error - 1e-4)


def test_distribution_of_the_samples_is_the_enumerated_one(toy):
    networks = Networks(toy)
    for name in ("three", "window", "temperature"):
        process = CASES[name]
        draw = jax.jit(
            lambda key, process=process: Ancestral(STEPS).sample(
                key, process, networks, (ROWS, toy.length)
            )
        )
        counts = np.bincount(toy.index(draw(jax.random.key(1))), minlength=len(toy.p))
        assert_distribution(counts, exact_distribution(toy, networks, process, STEPS))


@pytest.mark.representatives()
@pytest.mark.usefixtures("optimized")
def test_a_good_energy_brings_distribution_and_bound_nearer_to_the_data(toy):
    """In the mean over the data: H(p) < bound with more candidates < bound with fewer < the base's."""
    networks, base = Networks(toy), MDLM(3, num_steps=STEPS)
    means, noise, gaps = [], 0, []
    for k in (1, 2, 6):
        process = EDLM(MDLM(3), candidates=k, num_steps=STEPS, bound_samples=4)
        mean, error = bound(toy, process, networks, 2500)
        means.append(float(mean @ toy.p))
        noise = max(noise, float(np.sqrt(error**2 @ toy.p**2)))
        if k < 6:
            gaps.append(
                float(toy.p @ np.log(toy.p / exact_distribution(toy, networks, process, STEPS)))
            )
    assert gaps[1] < gaps[0]
    assert means[0] > means[1] + 5 * noise > means[2] + 10 * noise
    assert means[2] > toy.entropy - 5 * noise
    mean, error = bound(toy, base, networks)
    assert abs(mean @ toy.p - means[0]) < 5 * noise + 1e-4


@pytest.mark.representatives()
@pytest.mark.usefixtures("optimized")
def test_more_samples_tighten_the_bound(toy):
    networks = Networks(toy)
    one, many = (
        bound(toy, replace(CASES["three"], bound_samples=m), networks, 1200)[0] @ toy.p
        for m in (1, 8)
    )
    distribution = exact_distribution(toy, networks, CASES["three"], STEPS)
    assert one > many > -toy.p @ np.log(distribution) - 0.01
    assert one - many > 0.01


def test_one_candidate_is_the_base(toy):
    networks, process = Networks(toy), EDLM(MDLM(3), candidates=1, num_steps=STEPS)
    x0, u = jnp.asarray(toy.states), jnp.linspace(0.01, 0.99, len(toy.p))[:, None]
    terms = jax.jit(lambda key: process.bound_terms(key, networks, x0, u))(jax.random.key(0))
    np.testing.assert_allclose(terms["energy"], 0, atol=1e-6)
    assert set(terms) == {"diffusion", "energy"}
    base = jax.jit(lambda key: MDLM(3, num_steps=STEPS).bound(key, networks, x0, u))
    np.testing.assert_allclose(terms["diffusion"], base(split(jax.random.key(0))[0]), rtol=1e-6)


def test_contrastive_loss_is_least_at_the_exact_energy(toy):
    """Also that its minimum has the sign of the sampler: low for data."""
    rows = np.random.default_rng(0).choice(len(toy.p), size=20_000, p=toy.p / toy.p.sum())
    x0 = jnp.asarray(toy.states[rows])
    u = ((jnp.arange(len(rows)) + 0.5) / len(rows))[:, None]
    process = EDLM(MDLM(3))

    compiled = jax.jit(lambda scale: process.loss(jax.random.key(0), Networks(toy, scale), x0, u))

    def loss(scale):
        values = compiled(scale)
        assert values.shape == x0.shape
        np.testing.assert_array_equal(values[:, 0], values[:, -1])
        return float(values[:, 0].mean())

    losses = {scale: loss(scale) for scale in (-1.0, 0.0, 0.5, 1.0, 1.5)}
    assert abs(losses[0.0] - np.log(4)) < 1e-5
    assert min(losses, key=losses.get) == 1.0 and losses[-1.0] > losses[0.0] > losses[0.5]


def test_autoregressive_energy_of_the_exact_distribution_makes_the_exact_weights(toy):
    from test_autoregressive import conditionals

    networks, ar = Networks(toy), conditionals(toy)

    class WithAutoregressive:
        def __call__(self, z, t):
            return networks(z, t)

        energy = staticmethod(ar)

    z = jnp.array([[3, 1, 3], [3, 3, 3], [0, 3, 2]])
    t = jnp.full((3, 1), 0.5)
    x = jnp.array([[2, 1, 0], [1, 1, 2], [0, 0, 2]])
    log_p0 = networks.base.predict(networks(z, t), z, t)
    weight = EDLMAutoregressive(MDLM(3)).log_weight(WithAutoregressive(), log_p0, x, z, t)
    other = EDLMAutoregressive(MDLM(3)).log_weight(
        WithAutoregressive(), log_p0, x.at[0, 0].set(1), z, t
    )
    exact = -networks.energy(x, t, z)
    exact_other = -networks.energy(x.at[0, 0].set(1), t, z)
    # Up to a constant of the state, which the choice among candidates does not see.
    np.testing.assert_allclose((weight - other)[0], (exact - exact_other)[0], rtol=1e-4)
    assert abs(float((weight - other)[0])) > 0.01


def test_rows_do_not_mix_their_candidates(toy):
    """A row's sample depends on its own key and state alone."""
    networks, process = Networks(toy, 3.0), EDLM(MDLM(3), candidates=3)
    keys = jax.random.split(jax.random.key(5), 16)
    z = jnp.asarray(np.random.default_rng(1).integers(0, 4, (16, 3)))
    t = jnp.ones((16, 1))
    draw = jax.jit(lambda keys, z, t: process.draw(keys, networks, z, t))
    together = draw(keys, z, t)
    for i in (0, 7, 15):
        alone = draw(keys[i : i + 1], z[i : i + 1], t[:1])
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.parametrize(
    "wrong",
    [
        dict(candidates=0),
        dict(window=1.5),
        dict(temperature=0.0),
        dict(num_steps=0),
        dict(bound_samples=0),
    ],
)
def test_impossible_settings_are_rejected(wrong):
    with pytest.raises(ValueError, match="EDLM"):
        EDLM(**wrong)


def test_steps_in_which_all_candidates_agree_cost_nothing(toy):
    """Where nothing is revealed: nearly every one of 1000 steps, whatever the weights are."""
    networks = Networks(toy, -2.0)
    process = EDLM(MDLM(3), candidates=4, num_steps=1000)
    x0, u = jnp.asarray(toy.states), jnp.full((len(toy.p), 1), 0.5)
    gain = jax.jit(lambda key: process._gain(key, networks, x0, process.time(u)))
    seen = gain(jax.random.key(0))
    assert (np.asarray(seen) == 0).mean() > 0.9
