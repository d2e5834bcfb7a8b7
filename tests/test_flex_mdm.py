"""FlexMDM on strings of at most three letters: its bound, and what it is above the entropy, and the
distribution of its sampler, by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flex_toy import ABSENT, LONGEST, MASK, Strings
from oracle import OneText, assert_distribution, quadrature

from diffusion.flex_mdm import FlexMDM
from diffusion.schedules import Cosine, Linear
from experiments.data.rows import make_pieces
from samplers.insertion import ANY, NOTHING, ONE, Insertion

ROWS = 20_000


@pytest.fixture(scope="module")
def toy():
    return Strings()


def looked_up(*tables):
    """The network that is a table (40, 3, 4) of the states, numbered as `flex_toy.strings` has them, at
    each of so many times from 1 to 0."""
    base, tables = 3 ** jnp.arange(LONGEST)[::-1], jnp.stack([jnp.asarray(t) for t in tables])

    def model(z, t, segments):
        size = segments.sum(1)
        digits = jnp.where(segments > 0, z, 0)
        value = (digits * base[None]).sum(1) // 3 ** (LONGEST - size)
        at = jnp.round((1 - t[:, 0]) * (len(tables) - 1)).astype(int)
        return tables[at, (3**size - 1) // 2 + value]

    return model


def test_the_bound_is_the_entropy_and_what_the_alignment_leaves_open(toy, x64):
    process = FlexMDM(2, Linear())
    lengths = jnp.asarray(toy.lengths[toy.text])[:, None]
    state = process.aligned(jnp.asarray(toy.x0), jnp.asarray(toy.in_place), lengths)

    @jax.jit
    def losses(table, t):
        times = jnp.full((len(toy.x0), 1), t)
        return process.state_loss(looked_up(table), state, times).sum(1)

    total = excess = 0.0
    for b, weight in zip(*quadrature(80), strict=True):
        joint = toy.p[toy.text] * toy.weights(b)
        total += weight * joint @ np.asarray(losses(toy.denoiser(b), b))
        excess += weight / b * toy.excess(b)
    assert excess > 0.5  # so the bound is loose
    assert abs(total - excess - toy.entropy) < 1e-7


def test_a_state_is_each_token_masked_and_removed_by_itself(toy):
    """The counts of all 27 patterns of three tokens, and the bound of one text by draws of time."""
    process, b = FlexMDM(2, Cosine()), 0.4
    row = int(np.flatnonzero(toy.lengths[toy.text] == 3)[0])
    x0 = jnp.tile(jnp.asarray(toy.x0[row : row + 1]), (ROWS, 1))
    t = jnp.full((ROWS, 1), 1 - 2 / np.pi * np.arccos(b))  # where 1 - alpha is b
    states = np.asarray(jax.jit(process.corrupt)(jax.random.key(0), x0, t))
    rows = toy.text == toy.text[row]
    numbers = np.select([states == ABSENT, states == MASK], [0, 1], 2) @ [9, 3, 1]
    np.testing.assert_array_equal(toy.in_place[rows][numbers], states)
    assert_distribution(np.bincount(numbers, minlength=27), toy.weights(b)[rows])

    network = OneText(looked_up(np.maximum(toy.denoiser(0.5), -5)))
    state = process.aligned(jnp.asarray(toy.x0[rows]), jnp.asarray(toy.in_place[rows]), 3)
    want = 0.0
    losses = jax.jit(lambda t: FlexMDM(2).state_loss(network, state, jnp.full((27, 1), t)).sum(1))
    for at, weight in zip(*quadrature(60, low=-20), strict=True):
        want += weight * toy.weights(at)[rows] @ np.asarray(losses(at), float)
    u = (jnp.arange(ROWS)[:, None] + 0.5) / ROWS
    keys = jax.random.split(jax.random.key(1), ROWS)
    bound = jax.jit(lambda keys: process.bound(keys, network, x0, u).sum(1))
    nats = np.asarray(bound(keys))
    assert abs(nats.mean() - want) < 5 * nats.std() / ROWS**0.5


@pytest.fixture(scope="module")
def drawn(toy):
    """The counts of texts (15,) that `Insertion` draws in four steps, given `known` (3,)."""
    tables = [toy.denoiser(b) for b in (1 - 1e-12, 0.75, 0.5, 0.25, 1e-12)]
    network, process = looked_up(*tables), FlexMDM(2)
    run = jax.jit(lambda k: Insertion(4).run(jax.random.key(2), process, network, k.shape, k).x0)

    def counts(known):
        x0 = run(jnp.tile(jnp.asarray([known]), (ROWS, 1)))
        return np.bincount(toy.numbers(x0), minlength=len(toy.texts))

    return counts


@pytest.mark.parametrize(
    "known, start, open_gaps",
    [
        ([ANY, ANY, ANY], (), None),
        ([0, ANY, 1], (0, 1), (False, True, False)),
        ([0, ANY, ANY], (0,), (False, True)),
        ([ANY, ONE, NOTHING], (MASK,), (True, False)),
        ([ONE, 1, NOTHING], (MASK, 1), (False, False, False)),
    ],
)
def test_the_sampler_takes_its_own_steps(toy, drawn, known, start, open_gaps):
    assert_distribution(drawn(known), toy.sampled(4, start, open_gaps))


def test_with_more_steps_the_distribution_is_that_of_the_texts(toy):
    far, near = (abs(toy.sampled(steps) - toy.p).sum() / 2 for steps in (15, 127))
    assert near < 0.015 and near < far / 6
    other = abs(toy.sampled(16, whole=False) - toy.p).sum() / 2  # of as many calls
    assert other > 1.4 * far


def test_pieces_are_of_any_length_and_have_each_token_once():
    tokens, starts = np.arange(5000), np.array([0, 3, 4000, 5000])
    rows = make_pieces(tokens, starts, 16)
    sizes = rows.sizes
    assert sizes.min() == 1 and sizes.max() == 16 and abs(np.median(sizes) - 8.5) < 1.5
    np.testing.assert_array_equal(
        np.repeat(rows.starts, sizes) + [n for size in sizes for n in range(size)], tokens
    )
    assert set(starts[:-1]) <= set(rows.starts)  # no piece has two documents
    read, segments = rows.read(np.arange(len(rows)))
    np.testing.assert_array_equal(read[segments > 0], tokens)
