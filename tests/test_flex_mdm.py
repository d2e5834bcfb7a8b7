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

    def model(z, t, segments, gaps=None):
        size = segments.sum(1)
        digits = jnp.where(segments > 0, z, 0)
        value = (digits * base[None]).sum(1) // 3 ** (LONGEST - size)
        at = jnp.round((1 - t[:, 0]) * (len(tables) - 1)).astype(int)
        number = (3**size - 1) // 2 + value
        if gaps is None:
            return tables[at, number]
        after = gaps % 2 + (segments == 0)  # what no state has is open
        opened = jnp.concatenate([jnp.where(size > 0, gaps[:, 0] // 2, 1)[:, None], after], axis=1)
        return tables[at, (opened * 2 ** jnp.arange(LONGEST + 1)[None]).sum(1), number]

    return model


def test_the_bound_is_exact_and_what_the_alignment_adds_to_the_papers(toy, x64):
    """Of every text with the exact denoiser; with another one, both are higher by the same."""
    process = FlexMDM(2, Linear())
    x0, lengths = jnp.asarray(toy.x0), jnp.asarray(toy.lengths[toy.text])[:, None]
    state = process.aligned(x0, jnp.asarray(toy.in_place), lengths)

    @jax.jit
    def losses(table, t):
        times, network = jnp.full((len(x0), 1), t), looked_up(table)
        mean = process.averaged_loss(network, state, x0, lengths, times)
        return mean.sum(1), process.state_loss(network, state, times).sum(1)

    totals, excess, wrong = np.zeros((2, len(toy.texts))), 0.0, np.zeros(2)
    for b, weight in zip(*quadrature(80), strict=True):
        q, exact = toy.weights(b), toy.denoiser(b)
        for total, loss in zip(totals, losses(exact, b), strict=True):
            np.add.at(total, toy.text, weight * q * np.asarray(loss))
        other = losses(np.maximum(exact, -4) + 0.3, b)
        wrong += weight * np.array([toy.p[toy.text] * q @ np.asarray(loss) for loss in other])
        excess += weight / b * toy.excess(b)
    np.testing.assert_allclose(totals[0], -np.log(toy.p), atol=1e-6)
    assert excess > 0.5 and wrong[0] > toy.entropy + 0.1
    assert abs(totals[1] @ toy.p - excess - toy.entropy) < 1e-7
    assert abs(wrong[1] - excess - wrong[0]) < 1e-7


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
    given = (network, state, jnp.asarray(toy.x0[rows]), jnp.full((27, 1), 3))
    losses = jax.jit(lambda t: FlexMDM(2).averaged_loss(*given, jnp.full((27, 1), t)).sum(1))
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
    every = [tuple(bool(n >> k & 1) for k in range(LONGEST + 1)) for n in range(16)]
    times = (1 - 1e-12, 0.75, 0.5, 0.25, 1e-12)
    tables = [np.stack([toy.denoiser(b, opened) for opened in every]) for b in times]
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


def test_told_of_closed_gaps_it_is_the_conditional_distribution(toy):
    """Of "a * b", in the limit; a denoiser that takes all gaps for open is far off."""
    want = toy.p * [len(x) > 1 and x[0] == 0 and x[-1] == 1 for x in toy.texts]
    known = ((0, 1), (False, True, False))

    def error(steps, **how):
        return abs(toy.sampled(steps, *known, **how) - want / want.sum()).sum() / 2

    assert error(127) < 0.01 and error(127) < error(15) / 6
    assert error(127, told=False) > 0.2


def test_what_is_asked_of_a_text_says_nothing_of_its_length():
    """Each template is as frequent for short texts as for long ones, and costs nothing where it does not
    fit; all that is known stands clean, and nothing is missing in a closed gap."""
    process, size = FlexMDM(2, infilling=0.9), LONGEST
    blanks = jax.jit(lambda key, length: process.blanks(key, length, size))
    counts = []
    for length in (2, 3):
        keys = jax.random.split(jax.random.key(3), ROWS)
        known, opened, fits = map(np.asarray, blanks(keys, jnp.full((ROWS, 1), length)))
        text, edges = known[:, :length][fits[:, 0]], opened[:, : length + 1][fits[:, 0]]
        assert (~text <= (edges[:, :-1] & edges[:, 1:])).all()  # around a blank's token all is open
        assert edges.any(1).all()
        # "a*", one token before a blank and none after; "*b"; and "*", of which nothing is known.
        starts, ends = [False, *[True] * length], [*[True] * length, False]
        rows = [(edges == kind).all(1) & (text.sum(1) == 1) for kind in (starts, ends)]
        counts.append([row.sum() for row in (*rows, ~text.any(1))])
        assert len(text) < ROWS
    assert counts[0] == counts[1] and min(counts[0]) > 500  # of the same draws
    states = process.corrupt(
        jax.random.key(4), jnp.zeros((ROWS, size), int), jnp.full((ROWS, 1), 0.9)
    )
    states = jnp.where(known, 0, states)
    state = process.aligned(jnp.zeros((ROWS, size), int), states, size, jnp.asarray(opened))
    bare = process.aligned(jnp.zeros((ROWS, size), int), states, size)
    closed = np.asarray(state.after < 0)
    assert (np.asarray(bare.after)[closed] <= 0).all() and closed.any()
