"""Orders in which masks are revealed, their steps and temperatures, against enumerations."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import ROWS, as_array, assert_distribution, reveal

from diffusion.mdlm import MDLM
from samplers.logits_processor import LogitsProcessor
from samplers.sampler import State
from samplers.unmask import EntropyBudget, Factor, Steps, Threshold, Tokens, Unmask


def test_random_order_one_by_one_is_the_distribution_of_the_data(table):
    counts, calls = table.counts(Unmask("random", Tokens(1)))
    assert_distribution(counts, table.toy.p)
    assert (calls == table.length).all()


@pytest.mark.representatives("margin", "amount4", "amount6")
@pytest.mark.parametrize(
    "order, amount",
    [
        *((order, Tokens(1)) for order in ("confidence", "margin", "entropy")),
        *(("confidence", amount) for amount in (Tokens(2), EntropyBudget(0.9), Threshold(0.6))),
        ("confidence", Factor(1.2)),
    ],
)
def test_distribution_of_an_order_is_the_enumerated_one(table, order, amount):
    distribution, most = _ordered_distribution(table, order, amount)
    counts, calls = table.counts(Unmask(order, amount))
    assert_distribution(counts, distribution)
    assert calls.max() == most


def test_up_to_a_factor_of_1_the_likeliest_tokens_are_the_likeliest_together():
    """Of random joint distributions that are sure enough for the rule to reveal all of them."""
    rng, checked = np.random.default_rng(0), 0
    for length in (2, 3) * 200:
        joint = rng.dirichlet(np.full(3**length, 0.05)).reshape((3,) * length)
        others = [tuple(j for j in range(length) if j != i) for i in range(length)]
        marginal = [joint.sum(axis) for axis in others]
        log_sure = jnp.log(jnp.sort(jnp.array([[p.max() for p in marginal]])))[:, ::-1]
        if int(Factor(1.0).count(0, None, None, (None, log_sure))[0, 0]) == length:
            best = np.unravel_index(joint.argmax(), joint.shape)
            assert best == tuple(p.argmax() for p in marginal)
            checked += 1
    assert checked > 50


def test_distribution_at_a_temperature_is_the_enumerated_one(table):
    """Where is decided by the model, what by the tempered model."""
    amount = Threshold(0.6)
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
            elif isinstance(amount, Factor):
                within = [(n + 2) * (1 - p0[i].max()) < amount.factor for n, i in enumerate(ranked)]
                count = max((n + 1 for n, holds in enumerate(within) if holds), default=0)
            else:
                sums = np.cumsum([entropy[i] for i in ranked])
                most = np.maximum.accumulate([entropy[i] for i in ranked])
                count = int(np.argmin([*(sums - most <= amount.nats), False]))
            reveal(table, new, state, ranked[: max(count, 1)], weight, power)
        distribution = new
    return as_array(table, distribution), calls


def test_random_order_is_random_whatever_the_model_is_sure_of():
    p = np.array([[0.99, 0.01], [0.5, 0.5], [0.7, 0.3]])
    start = jnp.full((ROWS, 3), 2)
    sampler, key = Unmask("random", Tokens(1)), jax.random.key(0)
    state = State(start, jnp.ones((ROWS, 1)), start, jnp.zeros(ROWS, jnp.int32), None)
    state = sampler.begin(key, state, MDLM(2), None)
    model = lambda z, t: jnp.log(p)[None] + jnp.zeros((ROWS, 1, 1))  # noqa: E731
    new = sampler.advance(key, 0, state, MDLM(2), model, None)
    assert_distribution((np.asarray(new.z) != 2).sum(0), np.full(3, 1 / 3))


@pytest.mark.parametrize("noise, left", [(0.0, 1.0), (1.0, 1.0), (2.0, 0.25)])
def test_what_was_drawn_decides_and_noise_fades_with_the_masks(noise, left):
    """Of two positions that one is revealed whose drawn token is likelier; with Gumbel noise times
    `left`, the share of masks, one with odds of p to the power 1 / (noise left)."""
    p = np.array([[0.9, 0.1], [0.6, 0.4]])
    process, sampler = MDLM(2), Unmask("drawn", Tokens(1), noise=noise)
    start = jnp.full((ROWS, 2), 2)
    state = State(start, jnp.ones((ROWS, 1)), start, jnp.zeros(ROWS, jnp.int32), None)
    state = sampler.begin(jax.random.key(1), state, process, None)
    state = state._replace(memory=state.memory._replace(masked=jnp.full((ROWS, 1), 2 / left)))
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
