"""Samplers of masked processes on enumerable toys: exact distributions, or enumerations of their rules.

The exact denoiser of a masked process does not depend on time, so it is a table over the states here.
"""

import itertools
import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import reference
from oracle import Toy, assert_distribution

from diffusion.mdlm import MDLM
from diffusion.schedules import Cosine, Linear, RescaledSchedule
from diffusion.sedd import SEDD
from samplers.ancestral import Ancestral
from samplers.euler import Euler, TauLeaping
from samplers.first_hitting import FirstHitting
from samplers.logits_processor import LogitsProcessor
from samplers.path_planning import PathPlanning
from samplers.posterior import Posterior
from samplers.predictor_corrector import PredictorCorrector
from samplers.remask import ReMDM
from samplers.sampler import State
from samplers.sliding_window import SlidingWindow
from samplers.unmask import EntropyBudget, Steps, Threshold, Tokens, Unmask

ROWS = 60_000


class Table:
    """A toy whose exact denoiser is looked up."""

    def __init__(self, name="V3L3"):
        self.arrays = reference(f"toy_{name}")
        self.toy = Toy(self.arrays)
        self.size, self.length = self.toy.vocab_size, self.toy.length
        mask = self.size
        self.states = np.array(list(itertools.product(range(mask + 1), repeat=self.length)))
        agrees = (self.states[:, None] == self.toy.states[None]) | (self.states[:, None] == mask)
        weights = np.where(agrees.all(-1), self.toy.p, 0)  # (Z, N)
        p0 = np.einsum("zn,nlv->zlv", weights, self.toy.one_hot) / weights.sum(1)[:, None, None]
        self.p0 = p0  # (Z, L, V)
        with np.errstate(divide="ignore"):
            self.log_p0 = np.log(p0)
        self.base = (mask + 1) ** np.arange(self.length)[::-1]

    def model(self, z, t):
        return jnp.asarray(self.log_p0, jnp.float32)[(z * self.base[None]).sum(-1)]

    def number(self, state):
        return int(np.dot(state, self.base))

    def counts(self, sampler, process=None, rows=ROWS, key=0, known=None):
        process = process or MDLM(self.size)
        known = None if known is None else jnp.broadcast_to(np.array(known), (rows, self.length))
        run = jax.jit(lambda k: sampler.run(k, process, self.model, (rows, self.length), known))
        x0, calls, _ = run(jax.random.key(key))
        counts = np.bincount(self.toy.index(x0), minlength=len(self.toy.p))
        return counts, np.asarray(calls)


@pytest.fixture(scope="module")
def table():
    return Table()


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), RescaledSchedule(Linear(), 0.05)])
def test_first_hitting_is_the_distribution_of_the_data_in_one_call_a_token(table, schedule):
    counts, calls = table.counts(FirstHitting(), MDLM(table.size, schedule))
    # A start with random tokens in place of masks (alpha(1) > 0) is the model's own, not the data's.
    loose = schedule == RescaledSchedule(Linear(), 0.05)
    assert_distribution(counts, table.toy.p, bias=0.05 * table.length if loose else 0)
    assert calls.max() == table.length and (loose or calls.min() == table.length)


@pytest.mark.parametrize("name", ["V3L3", "V4L2", "V5L2"])
def test_first_hitting_on_a_grid_is_ancestral_sampling(name):
    table = Table(name)
    found = [k for k in table.arrays if k.startswith("d3pm_absorb_T") and k.endswith("sample_law")]
    for key in found:
        T = int(key.removeprefix("d3pm_absorb_T").removesuffix("_sample_law"))
        counts, calls = table.counts(FirstHitting(steps=T))
        assert_distribution(counts, table.arrays[key])
        assert calls.max() <= min(T, table.length)
        # The number of steps, out of T, in which at least one of L positions is revealed.
        expected = T * (1 - (1 - 1 / T) ** table.length)
        assert abs(calls.mean() - expected) < 5 * calls.std() / math.sqrt(ROWS) + 1e-3
    assert found


def test_first_hitting_on_a_grid_is_ancestral_sampling_with_loose_ends_too(table):
    """Where alpha(1) > 0, a start has tokens, and what is masked then is revealed at times below 1."""
    process = MDLM(table.size, RescaledSchedule(Linear(), 0.4))
    ours, _ = table.counts(FirstHitting(steps=3), process)
    ancestral, _ = table.counts(Ancestral(3), process, key=1)
    error = np.sqrt((ours + ancestral + 1) / ROWS**2)
    assert np.max(np.abs(ours - ancestral) / ROWS / error) < 5


def test_first_hitting_asks_the_network_at_the_times_of_its_reveals(table):
    """The times are those of the schedule: the latest of L uniforms, and so on."""
    process, times = MDLM(table.size, Cosine()), []

    def model(z, t):
        jax.debug.callback(lambda t: times.append(np.asarray(t)), t, ordered=True)
        return table.model(z, t)

    FirstHitting().sample(jax.random.key(0), process, model, (4000, table.length))
    u = np.exp(np.asarray(process.schedule.log1m_alpha(jnp.asarray(times))))[..., 0]
    for number, got in enumerate(u[: table.length]):
        rank = table.length - number  # of the order statistics of L uniforms
        assert abs(got.mean() - rank / (table.length + 1)) < 0.02


def test_first_hitting_in_groups_draws_a_group_apart(table):
    """Two of three tokens from the marginals, then the third: by enumeration over the pairs."""
    counts, calls = table.counts(FirstHitting(group=2))
    distribution = _grouped_distribution(table, 2)
    assert_distribution(counts, distribution)
    assert calls.max() == 2 and np.abs(distribution - table.toy.p).sum() > 0.05


def _grouped_distribution(table, group):
    distribution = {tuple([table.size] * table.length): 1.0}
    while any(table.size in state for state in distribution):
        new = {}
        for state, weight in distribution.items():
            masked = [i for i, v in enumerate(state) if v == table.size]
            sets = list(itertools.combinations(masked, min(group, len(masked))))
            for chosen in sets:
                _reveal(table, new, state, chosen, weight / len(sets))
        distribution = new
    return _as_array(table, distribution)


def _together(rows):
    """The distribution of a state whose positions are independent, each by its row."""
    joint = rows[0]
    for row in rows[1:]:
        joint = np.multiply.outer(joint, row)
    return joint.reshape(-1)


def _reveal(table, distribution, state, chosen, weight, power=1):
    p0 = table.p0[table.number(state)] ** power
    p0 = p0 / p0.sum(-1, keepdims=True)
    for tokens in itertools.product(range(table.size), repeat=len(chosen)):
        after = list(state)
        for i, v in zip(chosen, tokens, strict=True):
            after[i] = v
        p = weight * math.prod(p0[i, v] for i, v in zip(chosen, tokens, strict=True))
        distribution[tuple(after)] = distribution.get(tuple(after), 0) + p


def _as_array(table, distribution):
    result = np.zeros(len(table.toy.p))
    for state, weight in distribution.items():
        result[int(table.toy.index(np.array(state)))] += weight
    return result


def test_cached_ancestral_sampling_is_the_same_with_fewer_calls(table):
    process, keys = MDLM(table.size), jax.random.split(jax.random.key(0), 2)
    plain, cached = (
        Ancestral(200, cached=c).run(keys, process, table.model, (2, table.length)) for c in (0, 1)
    )
    np.testing.assert_array_equal(plain.x0, cached.x0)
    assert (plain.calls == 200).all() and (cached.calls <= 1 + 2 * table.length).all()
    known = jnp.array([[1, -1, -1], [-1, 0, -1]])
    plain, cached = (
        Ancestral(50, cached=c).run(keys, process, table.model, (2, table.length), known)
        for c in (0, 1)
    )
    np.testing.assert_array_equal(plain.x0, cached.x0)


def test_random_order_one_by_one_is_the_distribution_of_the_data(table):
    counts, calls = table.counts(Unmask("random", Tokens(1)))
    assert_distribution(counts, table.toy.p)
    assert (calls == table.length).all()


@pytest.mark.parametrize(
    "order, amount",
    [
        *itertools.product(
            ["confidence", "margin", "entropy"], [Tokens(1), Tokens(2), EntropyBudget(0.9)]
        ),
        ("confidence", Threshold(0.6)),
    ],
)
def test_distribution_of_an_order_is_the_enumerated_one(table, order, amount):
    distribution, most = _ordered_distribution(table, order, amount)
    counts, calls = table.counts(Unmask(order, amount))
    assert_distribution(counts, distribution)
    assert calls.max() == most


@pytest.mark.parametrize("amount", [Tokens(1), Threshold(0.6)])
def test_distribution_at_a_temperature_is_the_enumerated_one(table, amount):
    """Where is decided by the model, what by the tempered model."""
    distribution, most = _ordered_distribution(table, "confidence", amount, power=2)
    sampler = Unmask("confidence", amount, logits_processor=LogitsProcessor(temperature=0.5))
    counts, calls = table.counts(sampler)
    assert_distribution(counts, distribution)
    assert calls.max() == most


def _ordered_distribution(table, order, amount, power=1):
    distribution, calls = {tuple([table.size] * table.length): 1.0}, 0
    while any(table.size in state for state in distribution):
        new, calls = {}, calls + 1
        for state, weight in distribution.items():
            masked = [i for i, v in enumerate(state) if v == table.size]
            if not masked or weight == 0:
                new[state] = new.get(state, 0) + weight
                continue
            p0 = table.p0[table.number(state)]
            entropy = {i: -sum(p * math.log(p) for p in p0[i] if p > 0) for i in masked}
            score = {
                "confidence": {i: p0[i].max() for i in masked},
                "margin": {i: float(np.diff(np.sort(p0[i])[-2:])[0]) for i in masked},
                "entropy": {i: -entropy[i] for i in masked},
            }[order]
            ranked = sorted(masked, key=lambda i: -score[i])
            if isinstance(amount, Tokens):
                count = amount.num
            elif isinstance(amount, Threshold):
                count = sum(p0[i].max() >= amount.probability for i in masked)
            else:
                sums = np.cumsum([entropy[i] for i in ranked])
                most = np.maximum.accumulate([entropy[i] for i in ranked])
                count = int(np.argmin([*(sums - most <= amount.nats), False]))
            _reveal(table, new, state, ranked[: max(count, 1)], weight, power)
        distribution = new
    return _as_array(table, distribution), calls


def test_random_order_is_random_whatever_the_model_is_sure_of():
    p = np.array([[0.99, 0.01], [0.5, 0.5], [0.7, 0.3]])
    start = jnp.full((ROWS, 3), 2)
    state = State(start, jnp.ones((ROWS, 1)), start, jnp.zeros(ROWS, jnp.int32), start[:, :1])
    model = lambda z, t: jnp.log(p)[None] + jnp.zeros((ROWS, 1, 1))  # noqa: E731
    new = Unmask("random", Tokens(1)).advance(jax.random.key(0), 0, state, MDLM(2), model, None)
    assert_distribution((np.asarray(new.z) != 2).sum(0), np.full(3, 1 / 3))


@pytest.mark.parametrize("noise, left", [(0.0, 1.0), (1.0, 1.0), (2.0, 0.25)])
def test_what_was_drawn_decides_and_noise_fades_with_the_masks(noise, left):
    """Of two positions that one is revealed whose drawn token is likelier; with Gumbel noise times
    `left`, the share of masks, one with odds of p to the power 1 / (noise left)."""
    p = np.array([[0.9, 0.1], [0.6, 0.4]])
    process, sampler = MDLM(2), Unmask("drawn", Tokens(1), noise=noise)
    start = jnp.full((ROWS, 2), 2)
    memory = jnp.full((ROWS, 1), 2 / left)
    state = State(start, jnp.ones((ROWS, 1)), start, jnp.zeros(ROWS, jnp.int32), memory)
    model = lambda z, t: jnp.log(p)[None] + jnp.zeros((ROWS, 1, 1))  # noqa: E731
    new = sampler.advance(jax.random.key(1), 0, state, process, model, None)
    z, distribution = np.asarray(new.z), np.zeros((2, 2))  # which position, which token
    for a, b in itertools.product(range(2), range(2)):
        odds = p[[0, 1], [a, b]]
        if noise:
            odds = odds ** (1 / (noise * left))
            share = odds / odds.sum()
        else:
            share = odds == odds.max()
        distribution[0, a] += p[0, a] * p[1, b] * share[0]
        distribution[1, b] += p[0, a] * p[1, b] * share[1]
    where = (z[:, 1] != 2).astype(int)
    assert ((z != 2).sum(1) == 1).all()
    assert_distribution(
        np.bincount(2 * where + z[np.arange(ROWS), where], minlength=4), distribution.ravel()
    )


@pytest.mark.parametrize("grid", ["uniform", "cosine"])
def test_steps_reveal_everything_in_as_many_calls(grid):
    process, V = MDLM(5), 5
    model = lambda z, t: jnp.zeros((*z.shape, V))  # noqa: E731
    sampler = Unmask("drawn", Steps(4, grid), noise=1.0)
    result = sampler.run(jax.random.key(0), process, model, (3, 16), trace=True)
    assert (result.calls == 4).all() and (result.x0 < V).all()
    masked = (result.frames.tokens == V).sum(-1)[:5, 0]
    expected = [16 * (1 - k / 4) for k in range(5)]
    if grid == "cosine":
        expected = [math.floor(16 * math.cos(math.pi / 2 * k / 4) + 1e-4) for k in range(5)]
    np.testing.assert_array_equal(masked, expected)


@pytest.mark.parametrize("rule, eta", [("cap", 0.1), ("rescale", 0.5), ("cap", 0.0)])
def test_distribution_of_remdm_is_the_enumerated_one(table, rule, eta):
    T = 4
    counts, _ = table.counts(ReMDM(T, rule=rule, eta=eta))
    distribution = np.zeros(len(table.states))
    distribution[-1] = 1
    for k in range(T, 0, -1):
        a_t, a_s = 1 - k / T, 1 - (k - 1) / T
        most = min(1, (1 - a_s) / a_t) if a_t else 1
        sigma = min(eta, most) if rule == "cap" else eta * most
        reveal = (a_s - (1 - sigma) * a_t) / (1 - a_t)
        new = np.zeros_like(distribution)
        for z, weight in zip(table.states, distribution, strict=True):
            if weight == 0:
                continue
            rows = np.zeros((table.length, table.size + 1))
            for i, v in enumerate(z):
                if v == table.size:
                    rows[i, :-1] = reveal * table.p0[table.number(z)][i]
                    rows[i, -1] = 1 - reveal
                else:
                    rows[i, v], rows[i, -1] = 1 - sigma, sigma
            new += weight * _together(rows)
        distribution = new
    data = np.array([table.number(x) for x in table.toy.states])
    assert distribution[data].sum() == pytest.approx(1)
    assert_distribution(counts, distribution[data])
    if eta == 0:
        ancestral, _ = table.counts(Ancestral(T), key=1)
        assert_distribution(ancestral, distribution[data])


REMDM = [dict(confidence=True), dict(loop=0.5), dict(eta=1.0), dict(rule="cap", eta=1.0)]


@pytest.mark.parametrize("options", REMDM)
def test_remdm_keeps_known_tokens_and_the_share_of_masks(options):
    process, L = MDLM(4), 400
    model = lambda z, t: jnp.zeros((*z.shape, 4))  # noqa: E731
    sampler = ReMDM(**(dict(steps=20, eta=0.2, rule="rescale") | options))
    known = jnp.full((8, L), -1).at[:, ::4].set(3)
    result = sampler.run(jax.random.key(0), process, model, (8, L), known, trace=True)
    tokens = result.frames.tokens
    assert (tokens[..., ::4] == 3).all() and (result.x0 < 4).all()
    free = np.asarray(tokens)[..., np.arange(L) % 4 > 0]
    share = (free == 4).mean((1, 2))
    error = 4 * np.sqrt(0.25 / free[0].size)
    np.testing.assert_allclose(share, sampler.times(), atol=2 * error)
    remasked = ((free[:-1] < 4) & (free[1:] == 4)).sum()
    assert remasked > 5 and len(sampler.times()) == 21


def test_remdm_by_confidence_masks_what_was_unsure_first():
    """A row's chances of being masked are sigma times softmax(-p), p what tokens were drawn with."""
    sampler = ReMDM(2, eta=0.3, confidence=True)
    drawn_with = np.array([0.9, 0.5, 0.1, 1.0])
    z = jnp.zeros((ROWS, 4), int).at[:, 3].set(2)  # the last is masked
    memory = jnp.broadcast_to(drawn_with, z.shape)
    state = State(z, jnp.full((ROWS, 1), 1.0), z, jnp.zeros(ROWS, jnp.int32), memory)
    model = lambda z, t: jnp.zeros((*z.shape, 2))  # noqa: E731
    new = sampler.advance(jax.random.key(0), 0, state, MDLM(2), model, None).z
    weight = np.exp(-drawn_with[:3])
    chances = 0.3 * weight / weight.sum()
    masked = np.asarray(new[:, :3] == 2).mean(0)
    assert (np.abs(masked - chances) < 5 * np.sqrt(chances / ROWS)).all()


def test_path_planning_keeps_the_share_of_the_schedule_and_with_eta_0_every_token(table):
    process, L = MDLM(5), 40
    logits = jax.random.normal(jax.random.key(1), (L, 5))
    model = lambda z, t: jnp.broadcast_to(logits[None], (*z.shape, 5))  # noqa: E731
    for eta in (0.0, 1.0):
        frames = (
            PathPlanning(8, eta=eta)
            .run(jax.random.key(0), process, model, (4, L), trace=True)
            .frames
        )
        masked = (frames.tokens == 5).sum(-1)
        np.testing.assert_array_equal(masked, np.repeat(40 - 5 * np.arange(9)[:, None], 4, 1))
        before, after = np.asarray(frames.tokens[:-1]), np.asarray(frames.tokens[1:])
        changed = ((before < 5) & (before != after)).sum()
        assert changed == 0 if eta == 0 else changed > 0
    # Known tokens stay though the model thinks nothing of them, and do not count.
    known = jnp.full((4, L), -1).at[:, ::5].set(jnp.argmin(logits[::5], axis=1)[None])
    found = PathPlanning(8).run(jax.random.key(0), process, model, (4, L), known, trace=True)
    assert (found.x0[:, ::5] == known[:, ::5]).all() and (found.x0 < 5).all()
    masked = (found.frames.tokens == 5).sum(-1)
    np.testing.assert_array_equal(masked, np.repeat(32 - 4 * np.arange(9)[:, None], 4, 1))


@pytest.mark.parametrize("positions", [1, 3])
def test_a_gibbs_correction_leaves_the_distribution_at_its_time_as_it_is(table, positions):
    """From exact draws of p_s, one correction; with several positions at once another distribution."""
    process, s = MDLM(table.size), 0.5
    sampler = PredictorCorrector(2, positions=positions)

    @jax.jit
    def corrected(key):
        key_x0, key_z, key = jax.random.split(key, 3)
        x0 = jax.random.choice(key_x0, table.toy.states, (ROWS,), p=table.toy.p)
        z = process.corrupt(key_z, jnp.asarray(x0), jnp.full((ROWS, 1), s))
        known = jnp.full(z.shape, -1)
        time = jnp.full((ROWS, 1), s)
        return sampler._gibbs(key, z, time, time, process, table.model, known)

    z = np.asarray(corrected(jax.random.key(0)))
    counts = np.bincount(z @ table.base, minlength=len(table.states))
    exact = np.asarray(
        table.toy.transition(process, jnp.asarray(table.states), jnp.full((1, 1), s))
    )
    distribution = exact.T @ table.toy.p
    if positions == 1:
        assert_distribution(counts, distribution)
    else:
        assert np.abs(counts / ROWS - distribution).sum() > 0.05


def test_a_gibbs_correction_forgets_the_token_that_it_draws_anew(table):
    """From a state without masks: a position by chance, and there the distribution given the others."""
    process, s = MDLM(table.size), 0.3
    state, distribution = table.states[0], np.zeros(len(table.states))  # all tokens are 0
    for i in range(table.length):
        hidden = state.copy()
        hidden[i] = table.size
        at_s = np.append((1 - s) * table.p0[table.number(hidden), i], s)
        for value, p in enumerate(at_s):
            new = state.copy()
            new[i] = value
            distribution[table.number(new)] += p / table.length
    z, time = jnp.tile(jnp.asarray(state), (ROWS, 1)), jnp.full((ROWS, 1), s)
    known = jnp.full(z.shape, -1)
    z = PredictorCorrector(2)._gibbs(jax.random.key(0), z, time, time, process, table.model, known)
    assert_distribution(
        np.bincount(np.asarray(z) @ table.base, minlength=len(table.states)), distribution
    )


@pytest.mark.parametrize("corrector", ["_gibbs", "_forward_backward"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_corrections_keep_the_share_of_masks_of_their_time(table, corrector, share):
    process, sampler = MDLM(table.size), PredictorCorrector(2, share=share)
    t, s = (jnp.full((ROWS, 1), time) for time in (0.75, 0.5))
    keys = jax.random.split(jax.random.key(0), 4)
    x0 = jax.random.choice(keys[0], table.toy.states, (ROWS,), p=table.toy.p)
    z = process.corrupt(keys[1], jnp.asarray(x0), s)
    known = jnp.full(z.shape, -1)
    correct = jax.jit(lambda k, z: getattr(sampler, corrector)(
        k, z, t, s, process, table.model, known
    ))  # fmt: skip
    for key in keys[2:]:
        before, z = z, correct(key, z)
        assert (before != z).any()
    masked = np.asarray(z == table.size).mean(1)
    assert abs(masked.mean() - 0.5) < 5 * masked.std() / ROWS**0.5


@pytest.mark.parametrize("options", [dict(), dict(corrector="forward_backward")])
@pytest.mark.usefixtures("optimized")
def test_corrections_bring_few_steps_nearer_to_the_data(table, options):
    distance = []
    for corrections in (1, 8):
        sampler = PredictorCorrector(4, corrections=corrections, **options)
        counts, calls = table.counts(sampler)
        distance.append(np.abs(counts / ROWS - table.toy.p).sum() / 2)
        assert (calls == sampler.calls(None, 3)).all()
    plain = np.abs(table.counts(Ancestral(4))[0] / ROWS - table.toy.p).sum() / 2
    assert distance[1] < distance[0] < plain


class OfficialGrid:
    """The official T steps from 1 to 1e-5, and the noise removal that follows as a step to 0."""

    def times(self):
        return jnp.append(jnp.linspace(1, 1e-5, self.steps), 0.0)


class OfficialEuler(OfficialGrid, Euler):
    pass


@pytest.mark.parametrize("name", ["V3L3", "V4L2", "V5L2"])
@pytest.mark.usefixtures("optimized")
def test_linear_euler_steps_are_the_published_ones(name):
    table, distributions = Table(name), reference(f"toy_samplers_{name}")
    process = SEDD(table.size, schedule=Linear(1e-3), head="posterior")
    found = [k for k in distributions if re.fullmatch(r"sedd_euler_absorb_T\d+_law", k)]
    for key in found:
        T = int(key.removeprefix("sedd_euler_absorb_T").removesuffix("_law"))
        counts, _ = table.counts(OfficialEuler(T + 1, rule="linear"), process)
        assert_distribution(counts, distributions[key], bias=1e-4)
    assert found


class StatesOfAncestral(Ancestral):
    """What stands in the state at t = 1e-5, masks among it."""

    def times(self):
        return jnp.linspace(1, 1e-5, self.steps + 1)

    def step(self, key, process, model, z, t, s):
        z_s, _ = super().step(key, process, model, z, t, s)
        return z_s, z_s


@pytest.mark.parametrize("name", ["V3L3", "V4L2", "V5L2"])
@pytest.mark.parametrize("kind, eps", [("ddpm", 1e-3), ("ddpm_cache", 0.0)])
def test_distribution_of_the_states_is_mdlms(name, kind, eps):
    """The caching sampler of the official code leaves the eps of the schedule out."""
    table, distributions = Table(name), reference(f"toy_samplers_{name}")
    found = [k for k in distributions if k.startswith(f"mdlm_{kind}_T") and k.endswith("states")]
    for key in found:
        T = int(key.removeprefix(f"mdlm_{kind}_T").removesuffix("_states"))
        process = MDLM(table.size, Linear(eps))
        shape = (ROWS, table.length)
        draw = jax.jit(lambda k, p=process, T=T, shape=shape: StatesOfAncestral(T).sample(
            k, p, table.model, shape
        ))  # fmt: skip
        z = np.asarray(draw(jax.random.key(0)))
        counts = np.bincount(z @ table.base, minlength=len(table.states))
        # We start from a share of eps random tokens, the official code from masks alone.
        assert_distribution(counts, distributions[key], bias=2 * eps * table.length)
    assert found


@pytest.mark.parametrize("sampler", [Euler(4), TauLeaping(4)])
def test_distribution_of_an_euler_step_is_the_enumerated_one(table, sampler):
    """The reverse rate of a masked position is -alpha' / (1 - alpha) = 1 / t of a linear schedule."""
    distribution = np.zeros(len(table.states))
    distribution[-1] = 1
    for k in range(4, 0, -1):
        total = (1 / 4) / (k / 4)
        leave = 1 - math.exp(-total) if isinstance(sampler, Euler) else total * math.exp(-total)
        if k == 1:
            leave = 1  # the rest is drawn from p(x0 | z_t)
        new = np.zeros_like(distribution)
        for z, weight in zip(table.states, distribution, strict=True):
            rows = np.eye(table.size + 1)[z]
            for i in np.flatnonzero(z == table.size):
                rows[i] = [*(leave * table.p0[table.number(z)][i]), 1 - leave]
            new += weight * _together(rows)
        distribution = new
    data = np.array([table.number(x) for x in table.toy.states])
    assert_distribution(table.counts(sampler)[0], distribution[data], bias=1e-5)


@pytest.mark.parametrize(
    "sampler, leave",
    [
        (Euler(4), 1 - math.exp(-0.5)),
        (Euler(4, rule="linear"), 0.5),
        (TauLeaping(4), 0.5 * math.exp(-0.5)),
    ],
)
def test_a_position_leaves_in_a_step_as_its_rule_says(table, sampler, leave):
    """From t = 1/2 to 1/4 the rate 1 / t stays 2, and rate times dt is 1/2."""
    process, t = MDLM(table.size), jnp.full((ROWS, 1), 0.5)
    z = jnp.full((ROWS, table.length), table.size)
    new, _ = jax.jit(lambda k: sampler.step(k, process, table.model, z, t, t / 2))(
        jax.random.key(0)
    )
    distribution = [*(leave * table.p0[-1, 0]), 1 - leave]
    assert_distribution(np.bincount(new[:, 0], minlength=table.size + 1), np.array(distribution))


STEPWISE = [
    Ancestral(6), Ancestral(6, cached=True), Posterior(6), FirstHitting(), FirstHitting(steps=6),
    FirstHitting(group=2), Unmask(), Unmask("random", Tokens(1)), Unmask("drawn", Steps(2), noise=1.0),
    Unmask("entropy", EntropyBudget(0.5)), ReMDM(6, eta=0.3), PathPlanning(6), PredictorCorrector(4),
    PredictorCorrector(4, corrector="forward_backward"), Euler(6), TauLeaping(6),
    SlidingWindow(FirstHitting(), window=3, stride=3), SlidingWindow(Ancestral(3), window=5, stride=2),
]  # fmt: skip


@pytest.mark.parametrize("sampler", STEPWISE, ids=lambda s: repr(s)[:60])
def test_rows_know_nothing_of_each_other_and_known_tokens_stay(table, sampler):
    process = MDLM(table.size)
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(1), n))(jnp.arange(8))
    known = jnp.array(
        [
            [-1, -1, -1],
            [0, -1, -1],
            [-1, 2, -1],
            [1, 2, 0],
            [-1, -1, 1],
            [2, -1, 2],
            [-1] * 3,
            [-1] * 3,
        ]
    )
    run = jax.jit(lambda keys, known: sampler.run(keys, process, table.model, known.shape, known))
    together, alone = run(keys, known), run(keys[2:4], known[2:4])
    np.testing.assert_array_equal(together.x0[2:4], alone.x0)
    if not getattr(sampler, "cached", False):  # which asks the network once for all rows
        np.testing.assert_array_equal(together.calls[2:4], alone.calls)
    assert ((known < 0) | (together.x0 == known)).all() and (together.x0 < table.size).all()
    assert (together.calls <= sampler.calls(process, table.length)).all()


@pytest.mark.parametrize("sampler", [FirstHitting(), Unmask("random", Tokens(1))])
def test_infilling_follows_the_conditional_distribution_exactly(table, sampler):
    agrees = table.toy.states[:, 1] == 2
    conditional = np.where(agrees, table.toy.p, 0) / table.toy.p[agrees].sum()
    assert_distribution(table.counts(sampler, known=[-1, 2, -1])[0], conditional)


def test_windows_are_a_chain_of_conditional_distributions():
    """SlidingWindow of two tokens, one new token each time: p(x1, x2) p(x3 | x2) p(x4 | x3)."""
    table = Table("V4L2")
    sampler, V = SlidingWindow(FirstHitting(), window=2, stride=1), table.size
    draw = jax.jit(lambda k: sampler.run(k, MDLM(V), table.model, (ROWS, 4)))
    x0, calls, _ = draw(jax.random.key(0))
    p = table.toy.p.reshape(V, V)
    after = p / p.sum(1, keepdims=True)
    distribution = np.einsum("ab,bc,cd->abcd", p, after, after).reshape(-1)
    counts = np.bincount(np.asarray(x0) @ V ** np.arange(4)[::-1], minlength=V**4)
    assert_distribution(counts, distribution)
    assert (calls == 4).all() and sampler.calls(MDLM(V), 4) == 6
    known = jnp.broadcast_to(jnp.array([-1, -1, 2, -1]), (50, 4))
    assert (
        sampler.sample(jax.random.key(0), MDLM(V), table.model, (50, 4), known)[:, 2] == 2
    ).all()


def test_frames_tell_what_happened(table):
    process = MDLM(table.size)
    result = FirstHitting().run(jax.random.key(3), process, table.model, (50, 3), trace=True)
    tokens, probability, times = (
        np.asarray(a)
        for a in (result.frames.tokens, result.frames.probability, result.frames.times)
    )
    assert (tokens[0] == table.size).all() and (tokens[-1] == result.x0).all()
    assert (np.isnan(probability) == (tokens == table.size)).all()
    assert (np.diff(times, axis=0) <= 0).all() and (times[-1] == 0).all()
    for k in range(1, 4):
        for row in range(50):
            for i in np.flatnonzero(tokens[k, row] != tokens[k - 1, row]):
                p = table.p0[table.number(tokens[k - 1, row])][i, tokens[k, row, i]]
                assert probability[k, row, i] == pytest.approx(p, rel=1e-4)


@pytest.mark.parametrize("grid", ["uniform", "cosine", "fitted"])
def test_a_fitted_grid_spends_equal_shares_of_the_loss(grid):
    information = (1.0, 2.0, 5.0, 2.0)
    times = np.asarray(Ancestral(10, grid, information).times(), float)
    assert times[0] == 1 and times[-1] == 0 and (np.diff(times) < 0).all()
    rate = lambda t: np.repeat(information, 25_000)[np.minimum((t * 100_000).astype(int), 99_999)]  # noqa: E731
    t = (np.arange(100_000) + 0.5) / 100_000
    shares = np.histogram(t, times[::-1], weights=rate(t))[0] / rate(t).sum()
    assert (np.abs(shares - 0.1) < 1e-4).all() == (grid == "fitted")


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda: FirstHitting(group=0), "group"),
        (lambda: FirstHitting(group=2, steps=4), "steps"),
        (lambda: Unmask("entropy", Threshold(0.5)), "Threshold"),
        (lambda: Unmask("margin", noise=1.0), "noise"),
        (lambda: Unmask("drawn", noise=math.nan), "noise"),
        (lambda: PathPlanning(eta=math.inf), "eta"),
        (lambda: Threshold(0.0), "probability"),
        (lambda: EntropyBudget(-1.0), "nats"),
        (lambda: Tokens(0), "num"),
        (lambda: Steps(0), "steps"),
        (lambda: ReMDM(eta=2.0), "eta"),
        (lambda: ReMDM(loop=0.5, grid="cosine"), "grid"),
        (lambda: PathPlanning(eta=-1.0), "eta"),
        (lambda: PredictorCorrector(positions=0), "positions"),
        (lambda: SlidingWindow(stride=0), "stride"),
        (lambda: Ancestral(grid="fitted"), "information"),
        (lambda: LogitsProcessor(top_p=0.0), "top_p"),
        (lambda: LogitsProcessor(temperature=-1.0), "temperature"),
    ],
)
def test_impossible_samplers_are_rejected(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_every_sampler_takes_the_same_logits_processor(table):
    """A sampler with a logits processor is the sampler of a network with that distribution."""
    logits_processor = LogitsProcessor(temperature=0.5, top_k=2)
    process = MDLM(table.size)
    modified = lambda z, t: logits_processor(process.predict(table.model(z, t), z, t), z)  # noqa: E731
    for sampler in (
        Ancestral(4),
        Posterior(4),
        FirstHitting(),
        ReMDM(4, eta=0.3),
        Unmask("random"),
    ):
        x = replace(sampler, logits_processor=logits_processor).sample(
            jax.random.key(0), process, table.model, (500, 3)
        )
        y = sampler.sample(jax.random.key(0), process, modified, (500, 3))
        np.testing.assert_array_equal(x, y)
