"""Rows of documents: every token once, documents whole, and no neighbour changes a loss."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models import SMALL as MODEL
from test_models import params_of

from configs.smoke import get_config
from diffusion.any_order import AnyOrder
from diffusion.autoregressive import Autoregressive
from diffusion.bfn import BFN
from diffusion.mdlm import MDLM
from diffusion.udlm import UDLM
from experiments.data.pipeline import training_batches
from experiments.data.rows import make_rows
from experiments.training.train_step import init_state, make_train_step
from models.backbone import Network
from samplers.autoregressive import LeftToRight

SIZES = [3, 5, 4, 1, 12, 7, 2, 2, 30, 6]
STARTS = np.cumsum([0, *SIZES])
TOKENS = np.arange(STARTS[-1]) + 1


@pytest.mark.parametrize("pack", [False, True])
def test_every_token_is_in_one_row_once_and_documents_stay_whole(pack):
    rows = make_rows(TOKENS, STARTS, 12, pack)
    tokens, segments = rows.read(np.arange(len(rows)))
    assert tokens.shape == segments.shape == (len(rows), 12) and rows.count == len(TOKENS)
    np.testing.assert_array_equal(tokens[segments > 0], TOKENS)
    assert not tokens[segments == 0].any()
    pieces = [
        t[s == n] for t, s in zip(tokens, segments, strict=True) for n in range(1, s.max() + 1)
    ]
    expected = [3, 5, 4, 1, 12, 7, 2, 2, 12, 12, 6, 6]  # that of 30 tokens in three
    assert [len(piece) for piece in pieces] == expected
    assert [int(s.max()) for s in segments] == ([3, 1, 1, 3, 1, 1, 2] if pack else [1] * 12)


@pytest.mark.parametrize("seed", range(20))
def test_a_packed_row_ends_only_where_the_next_document_does_not_fit(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, rng.choice([4, 12, 40]), size=rng.integers(0, 200))
    pieces = [min(12, size - at) for size in sizes for at in range(0, size, 12)]
    rows = make_rows(None, np.cumsum([0, *sizes]), 12, True)
    expected, room = [], 0
    for piece in pieces:
        if piece > room:
            expected.append([])
            room = 12
        expected[-1].append(piece)
        room -= piece
    assert list(rows.stops - rows.starts) == [sum(row) for row in expected]
    assert list(rows.starts) == list(np.cumsum([0, *map(sum, expected)])[:-1])
    assert list(rows.segments) == list(np.cumsum([0, *pieces])[:-1])


def test_batches_of_rows_take_each_once_an_epoch_and_depend_on_seed_and_number_alone():
    rows = make_rows(TOKENS, STARTS, 12, True)
    take = lambda **o: [  # noqa: E731
        (x, given["segments"])
        for (x, given), _ in zip(training_batches(rows, 12, 4, 3, **o), range(7), strict=False)
    ]
    straight = take()
    firsts = np.concatenate([x[:, 0] for x, _ in straight])
    assert all(sorted(firsts[n : n + 7]) == sorted(firsts[:7]) for n in (7, 14, 21))
    assert list(firsts[:7]) != list(firsts[7:14])
    halves = [take(local_rows=range(2 * p, 2 * p + 2)) for p in range(2)]
    for (x, segments), *parts in zip(straight, *halves, strict=True):
        np.testing.assert_array_equal(x, np.concatenate([part[0] for part in parts]))
        np.testing.assert_array_equal(segments, np.concatenate([part[1] for part in parts]))
    np.testing.assert_array_equal(take(start=2)[0][0], straight[2][0])


SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0]])


@pytest.mark.parametrize("block_length", [None, 1])
@pytest.mark.parametrize("attention", ["transposed", "xla"])
def test_a_packed_text_comes_out_as_it_does_alone(block_length, attention):
    model = replace(MODEL, block_length=block_length, attention=attention)
    params, t = params_of(model), jnp.full((1, 1), 0.4)
    z = jnp.array([[1, 2, 3, 4, 5, 0]])
    packed = model.apply(params, z, t, segments=SEGMENTS)
    for part in (slice(0, 3), slice(3, 5)):
        alone = model.apply(params, z[:, part], t)
        np.testing.assert_allclose(packed[:, part], alone, rtol=2e-4, atol=2e-5)
    assert np.abs(packed - model.apply(params, z, t)).max() > 0.01


OBJECTIVES = {
    "mdlm": MDLM(7),
    "udlm": UDLM(7),
    "bfn": BFN(7),
    "autoregressive": Autoregressive(7),
    "any-order": AnyOrder(MDLM(7)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_neighbour_and_no_padding_changes_a_loss(name):
    objective = OBJECTIVES[name]
    model = replace(MODEL, block_length=getattr(objective, "block_length", None))
    network = Network(model, params_of(model), {"segments": SEGMENTS})

    def loss(x0):
        terms = objective.bound_terms(
            jax.random.key(1), network, jnp.array([x0]), jnp.full((1, 1), 0.7)
        )
        return np.asarray(sum(terms.values()))[0]

    one = loss([1, 2, 3, 4, 5, 0])
    np.testing.assert_allclose(loss([1, 2, 3, 6, 0, 4])[:3], one[:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss([6, 5, 4, 4, 5, 2])[3:5], one[3:5], rtol=1e-4, atol=1e-5)
    other = loss([1, 2, 4, 4, 5, 0])
    assert np.abs(other[:3] - one[:3]).max() > 1e-3  # of its own text it does
    if name == "any-order":
        assert one[5] == 0


@pytest.mark.representatives("1")
@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_takes_the_mean_over_tokens_that_are_no_padding(accumulation):
    """Rows of 6 and of 1 token in two microbatches: for a uniform distribution the mean is log V."""
    base = get_config()
    config = replace(
        base,
        process=Autoregressive(7),
        sampler=LeftToRight(),
        model=replace(MODEL, block_length=1),
        train=replace(base.train, batch_size=2, accumulation=accumulation),
    )
    x0 = jnp.array([[1, 2, 3, 4, 5, 0], [1, 0, 0, 0, 0, 0]]).reshape(accumulation, -1, 6)
    segments = jnp.array([[1] * 6, [1, 0, 0, 0, 0, 0]]).reshape(x0.shape)
    _, loss = make_train_step(config)(init_state(config), x0, {"segments": segments})
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-5)  # the head is 0 at first


def test_packed_likelihoods_are_those_of_the_texts_apart():
    model = replace(MODEL, block_length=1)
    params, x0 = params_of(model), jnp.array([[1, 2, 3, 4, 5, 0]])
    packed = Autoregressive(7).log_p(Network(model, params, {"segments": SEGMENTS}), x0)
    for part in (slice(0, 3), slice(3, 5)):
        alone = Autoregressive(7).log_p(Network(model, params), x0[:, part])
        np.testing.assert_allclose(packed[:, part], alone, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("length", [3, 5])
def test_any_order_of_padded_rows_is_that_of_the_text_without_padding(length):
    """One token stands for all that are masked: for a uniform distribution every number of known tokens
    gives length x log V, and exactly the others are masked."""
    x0 = jnp.array([[1, 2, 3, 4, 5, 0, 0]])

    class Uniform:
        segments = (jnp.arange(7) < length).astype(int)[None]

        def __call__(self, z, t):
            return jnp.zeros((*z.shape, 7))

    for known in range(length):
        u = jnp.full((1, 1), (known + 0.5) / length)
        terms = AnyOrder(MDLM(7)).bound_terms(jax.random.key(known), Uniform(), x0, u)["any order"]
        masked = np.asarray(terms)[0] > 0
        assert masked.sum() == length - known and not masked[length:].any()
        np.testing.assert_allclose(terms.sum(), length * np.log(7), rtol=1e-5)
