"""Weights of times and what chooses times and masks: the expected loss by enumeration, and its noise."""

from dataclasses import dataclass, replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.smoke import get_config
from diffusion.any_order import AnyOrder
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear, MDLMCosine, Polynomial, masked_weight
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from experiments.data.tokenizers import Letters27
from experiments.overrides import resolve
from experiments.time_weights.as_bound import AsBound
from experiments.time_weights.clipped import Clipped
from experiments.time_weights.complementary import Complementary
from experiments.time_weights.learned_times import LearnedTimes
from experiments.time_weights.stratified_counts import StratifiedCounts
from experiments.time_weights.tempered import Tempered
from experiments.training.train_step import init_state, make_train_step

V, L, ROWS = 2, 3, 20_000
X0 = jnp.array([0, 1, 1])
PATTERNS = np.array(list(product([False, True], repeat=L)))


@dataclass(frozen=True)
class Table:
    """A network of one answer for each set of masked positions."""

    logits: jax.Array  # (2^L, L, V)
    segments: None = None

    def __call__(self, z, t, **condition):
        return self.logits[(z == V) @ (2 ** jnp.arange(L)[::-1])]


TABLE = Table(jnp.asarray(np.random.default_rng(0).normal(size=(2**L, L, V)) * 2))
NATS = -np.asarray(jax.nn.log_softmax(TABLE.logits))[:, np.arange(L), X0] * PATTERNS  # (2^L, L)


def at_share(m):
    """The mean over masks of the nats of each position where a share m is masked, (L,)."""
    count = PATTERNS.sum(1)
    return (m**count * (1 - m) ** (L - count)) @ NATS


def losses(weight, u, process=None):
    """(ROWS, L) of one sequence at u, a number or (ROWS, 1)."""
    u = jnp.broadcast_to(jnp.asarray(u, jnp.float32), (ROWS, 1))
    rows = jnp.broadcast_to(X0, (ROWS, L))
    keys = jax.random.split(jax.random.key(1), ROWS)
    return np.asarray(weight.loss(process or MDLM(V), keys, TABLE, rows, u))


def assert_mean(values, wanted):
    error = values.std(0) / ROWS**0.5
    assert (abs(values.mean(0) - wanted) < 5 * error).all()
    assert (error < 0.03 * np.asarray(wanted)).all()


@pytest.mark.parametrize("m", [0.3, 0.85])
def test_each_of_two_complementary_states_is_masked_as_the_bound_asks(m):
    wanted = (at_share(m) / m + at_share(1 - m) / (1 - m)) / 2
    assert_mean(losses(Complementary(), m), wanted)
    weight = Complementary(Tempered(0.5))
    wanted = (at_share(m) / m**0.5 + at_share(1 - m) / (1 - m) ** 0.5) / 2
    assert_mean(losses(weight, m), wanted)


@pytest.mark.parametrize("schedule", [Linear(), Linear(0.1), MDLMCosine()])
def test_complementary_masks_have_the_expectation_of_the_bound_on_any_schedule(schedule):
    u = (np.arange(ROWS)[:, None] + 0.5) / ROWS
    process = MDLM(V, schedule)
    both, bound = (losses(weight, u, process) for weight in (Complementary(), AsBound()))
    ends = [float(jnp.exp(schedule.log1m_alpha(jnp.array(end)))) for end in (0.0, 1.0)]
    shares = ends[0] + (ends[1] - ends[0]) * (np.arange(2000) + 0.5) / 2000
    wanted = (ends[1] - ends[0]) * np.mean([at_share(m) / m for m in shares], axis=0)
    assert_mean(both, wanted)
    assert_mean(bound, wanted)
    assert both.sum(1).var() < bound.sum(1).var() / 2  # of two independent ones it is a half


def test_complementary_masks_show_each_token_once():
    seen = []

    def model(z, t):
        seen.append(np.asarray(z == V))
        return jnp.zeros((*z.shape, V))

    keys, x0 = jax.random.split(jax.random.key(0), 64), jnp.zeros((64, 8), int)
    u = (jnp.arange(64)[:, None] + 0.5) / 64
    Complementary().loss(MDLM(V), keys, model, x0, u)
    assert (seen[0] ^ seen[1]).all() and 0.4 < seen[0].mean() < 0.6


def test_stratified_counts_are_the_any_order_bound_and_have_its_expectation():
    u = (np.arange(ROWS)[:, None] + 0.5) / ROWS
    found = losses(StratifiedCounts(), u)
    counts = PATTERNS.sum(1)
    each = [NATS[counts == m].mean(0) * L / m for m in range(1, L + 1)]
    assert_mean(found, np.mean(each, axis=0))
    keys = jax.random.split(jax.random.key(1), ROWS)
    rows = jnp.broadcast_to(X0, (ROWS, L))
    terms = AnyOrder(MDLM(V)).bound_terms(keys, TABLE, rows, jnp.asarray(u, jnp.float32))
    np.testing.assert_array_equal(found, terms["any order"])
    assert found.sum(1).var() < losses(AsBound(), u).sum(1).var()


@pytest.mark.parametrize("schedule", [Linear(), MDLMCosine()])
def test_clipped_weighs_a_masked_token_by_the_bounds_weight_up_to_a_limit(schedule):
    process, u = MDLM(V, schedule), jnp.linspace(0.01, 0.99, 50)[:, None]
    x0, z = jnp.zeros((50, 1), int), jnp.full((50, 1), V)
    nats = process.token_loss(jnp.zeros((50, 1, V)), x0, z, u)
    weighted = Clipped(4.0)(process, u, x0, jax.random.key(0)) * nats / np.log(V)
    wanted = np.minimum(masked_weight(schedule, u), 4)
    np.testing.assert_allclose(weighted, wanted, rtol=1e-5)
    assert (wanted == 4).any() and (wanted < 4).any()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Clipped(0.0), "Clipped.most = 0.0 must be positive"),
        (lambda: Clipped().check(UDLM()), "UDLM is not a masked process"),
        (lambda: Complementary().check(UDLM()), "UDLM is not a masked process"),
        (
            lambda: Complementary().check(MDLM(num_steps=8)),
            "MDLM as it is set has no bound that is",
        ),
        (lambda: LearnedTimes(bins=1), "LearnedTimes.bins = 1 must be at least 2"),
        (lambda: LearnedTimes(uniform=0.0), r"LearnedTimes.uniform = 0.0 is outside \(0, 1\]"),
        (lambda: LearnedTimes(decay=1.0), r"LearnedTimes.decay = 1.0 is outside \[0, 1\)"),
        (lambda: LearnedTimes(weight=LearnedTimes()).check(MDLM()), "learns times itself"),
        (lambda: StratifiedCounts().check(SEDD()), "SEDD as it is set has no bound that is"),
    ],
)
def test_mistakes_are_said(make, words):
    with pytest.raises(ValueError, match=words):
        make()


LEARNED = {"squares": jnp.asarray(np.random.default_rng(0).exponential(size=8) ** 2, jnp.float32)}


def test_learned_times_are_drawn_by_their_density_and_divided_by_it():
    weight, u = LearnedTimes(bins=8, uniform=0.2), (jnp.arange(ROWS)[:, None] + 0.5) / ROWS
    drawn, factor = weight.draw(LEARNED, u)
    assert (jnp.diff(drawn[:, 0]) > 0).all() and drawn.min() > 0 and drawn.max() < 1
    for function in (jnp.ones_like, jnp.square, jnp.sqrt, lambda u: jnp.cos(9 * u)):
        expected = float((factor * function(drawn)).mean())
        assert expected == pytest.approx(float(function(u).mean()), abs=2e-4)
    counts = np.bincount((np.asarray(drawn)[:, 0] * 8).astype(int), minlength=8) / ROWS
    root = np.sqrt(LEARNED["squares"])
    np.testing.assert_allclose(counts, 0.8 * root / root.sum() + 0.2 / 8, atol=2e-4)
    assert factor.max() <= 1 / 0.2


def test_learned_times_have_the_expectation_of_the_bound_and_less_noise():
    weight, u = LearnedTimes(8, 0.1, decay=0.0), (np.arange(ROWS)[:, None] + 0.5) / ROWS
    learned = weight.init()
    np.testing.assert_allclose(weight.draw(learned, u)[0], u, rtol=1e-5)
    process = MDLM(V, Polynomial(4.0))  # whose early times have next to no loss
    bound = losses(AsBound(), u, process)
    for _ in range(2):
        drawn, factor = weight.draw(learned, jnp.asarray(u))
        nats = losses(weight, drawn, process)
        learned = weight.learn(learned, weight.observe(drawn, nats))
    place = (u[:, 0] * 8).astype(int)
    squares = np.bincount(place, bound.mean(1) ** 2, 8) / np.bincount(place)
    np.testing.assert_allclose(learned["squares"][5:], squares[5:], rtol=0.1)
    values = np.asarray(factor * nats)
    shares = (np.arange(2000) + 0.5) / 2000
    assert_mean(values, np.mean([at_share(m) / m for m in shares], axis=0))
    assert (values.sum(1) ** 2).mean() < 0.9 * (bound.sum(1) ** 2).mean()


def test_what_is_observed_adds_up_over_microbatches_and_bins_without_draws_stay():
    weight = LearnedTimes(bins=4, decay=0.5)
    u, nats = jnp.array([[0.1], [0.2], [0.9]]), jnp.array([[1.0, 3.0], [0.0, 2.0], [3.0, 3.0]])
    whole = weight.observe(u, nats)
    parts = jax.tree.map(jnp.add, weight.observe(u[:1], nats[:1]), weight.observe(u[1:], nats[1:]))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    learned = weight.learn(weight.init(), whole)["squares"]
    assert learned.tolist() == [0.5 + 0.5 * 2.5, 1, 1, 0.5 + 0.5 * 9]


def test_what_is_learned_is_part_of_the_state_and_the_same_for_any_number_of_microbatches():
    config = get_config()
    config = replace(config, model=replace(config.model, dropout=0.0))
    assert "times" not in init_state(resolve(config, Letters27()))
    learning = replace(config, train=replace(config.train, time_weight=LearnedTimes(bins=4)))
    tokens = np.random.default_rng(0).integers(0, 27, (16, 8))
    found = []
    for parts in (1, 2):
        experiment = replace(learning, train=replace(learning.train, accumulation=parts))
        experiment = resolve(experiment, Letters27())
        step, state = jax.jit(make_train_step(experiment)), init_state(experiment)
        for _ in range(2):
            state, loss = step(state, jnp.asarray(tokens).reshape(parts, -1, 8))
        found.append((state["times"]["squares"], loss))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), *found)
    assert (found[0][0] != 1).all()
