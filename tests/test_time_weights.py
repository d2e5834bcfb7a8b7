"""Weights of times and what chooses times and masks: the expected loss by enumeration, and its noise."""

from dataclasses import dataclass
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.any_order import AnyOrder
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear, MDLMCosine, masked_weight
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from experiments.time_weights.as_bound import AsBound
from experiments.time_weights.clipped import Clipped
from experiments.time_weights.complementary import Complementary
from experiments.time_weights.stratified_counts import StratifiedCounts
from experiments.time_weights.tempered import Tempered

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
        (lambda: StratifiedCounts().check(SEDD()), "SEDD as it is set has no bound that is"),
    ],
)
def test_mistakes_are_said(make, words):
    with pytest.raises(ValueError, match=words):
        make()
