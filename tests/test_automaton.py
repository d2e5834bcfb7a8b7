"""Samples that match a pattern: draws by enumeration, every sampler that can, and what it says of the
others."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_distribution

from diffusion.autoregressive import Autoregressive
from diffusion.block import BlockDiffusion
from diffusion.mdlm import MDLM
from diffusion.model import JointModel
from diffusion.udlm import UDLM
from samplers.ancestral import Ancestral
from samplers.automaton import Automaton, Constrained
from samplers.autoregressive import LeftToRight
from samplers.blocks import BlockByBlock
from samplers.first_hitting import FirstHitting
from samplers.logits_processor import LogitsProcessor
from samplers.unmask import Tokens, Unmask

V, L = 3, 4
TEXTS = np.array(list(itertools.product(range(V), repeat=L)))
# An even number of 2s, and 0 is not followed by 0.
EVEN_MOVES = np.array([[1, 0, 2], [-1, 0, 2], [3, 2, 0], [-1, 2, 0]])
EVEN_ENDS = np.array([True, True, False, False])
ANY = np.ones((L, V), bool)
EVEN = Automaton.over(EVEN_MOVES, EVEN_ENDS, ANY)


def accepted(texts):
    even = (texts == 2).sum(-1) % 2 == 0
    return even & ~((texts[..., 1:] == 0) & (texts[..., :-1] == 0)).any(-1)


def network(seed=0):
    """A table of logits by position, that depends on the rest of the text."""
    table = np.random.default_rng(seed).normal(size=(L, V)).astype(np.float32)

    def model(z, t):
        return table[None] + 0.5 * jnp.cos(z.sum(1) + 0.0)[:, None, None] * table[None, ::-1]

    return model, table


def draw(automaton, key, log_p):
    state = jnp.zeros(len(log_p), jnp.int32)
    return jax.jit(lambda key, log_p: automaton.draw(key, log_p, state)[0])(key, log_p)


def test_a_draw_has_the_distribution_of_the_accepted_texts():
    _, logits = network()
    log_p = jax.nn.log_softmax(jnp.asarray(logits))
    rows = 40_000
    x = draw(EVEN, jax.random.key(0), jnp.broadcast_to(log_p, (rows, L, V)))
    p = np.exp(np.asarray(log_p)[np.arange(L), TEXTS].sum(-1)) * accepted(TEXTS)
    counts = np.bincount(np.asarray(x) @ V ** np.arange(L)[::-1], minlength=V**L)
    assert_distribution(counts, p / p.sum())


def test_a_draw_of_a_row_depends_on_its_key_alone_and_classes_change_nothing():
    _, logits = network()
    log_p = jnp.broadcast_to(jax.nn.log_softmax(jnp.asarray(logits)), (5, L, V))
    keys = jax.random.split(jax.random.key(1), 5)
    alone = [draw(EVEN, keys[i : i + 1], log_p[i : i + 1]) for i in range(5)]
    np.testing.assert_array_equal(draw(EVEN, keys, log_p), np.concatenate(alone))
    joined = Automaton.over(np.array([[0, 0, -1]]), np.array([True]), ANY)  # no 2
    assert joined.classes.tolist() in ([0, 0, 1], [1, 1, 0])
    apart = Automaton(np.array([[0, 0, -1]]), np.arange(3), joined.viable)
    np.testing.assert_array_equal(draw(joined, keys, log_p), draw(apart, keys, log_p))


def test_what_comes_before_the_pattern_is_free():
    late = Automaton.over(np.array([[0, -1, -1]]), np.array([True]), ANY, first=2)
    x = np.asarray(draw(late, jax.random.key(0), jnp.zeros((500, L, V))))
    assert (x[:, 2:] == 0).all() and set(x[:, :2].ravel()) == {0, 1, 2}


SAMPLERS = [
    Ancestral(3),
    Ancestral(3, cached=True),
    Ancestral(2, greedy_tail=True),
    Ancestral(3, logits_processor=LogitsProcessor(temperature=0)),
    FirstHitting(),
    FirstHitting(group=2),
    FirstHitting(steps=2),
    Unmask(amount=Tokens(2)),
    Unmask(amount=Tokens(4), logits_processor=LogitsProcessor(top_k=1)),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_every_sample_is_accepted_with_its_known_tokens(sampler):
    model, _ = network(1)
    model = Constrained(model, EVEN)
    assert isinstance(model, JointModel) and sampler.draws_jointly
    known = jnp.broadcast_to(jnp.array([-1, 0, -1, -1]), (300, L))
    x = np.asarray(sampler.sample(jax.random.key(0), MDLM(V), model, (300, L), known))
    assert accepted(x).all() and (x[:, 1] == 0).all()


class Stored:
    """A network of the table of logits that goes on from stored positions."""

    def cache(self, rows, length):
        return ()

    def decode(self, z, t, cache, first, span):
        table = jax.lax.dynamic_slice_in_dim(jnp.asarray(network()[1]), first, z.shape[1])
        return jnp.broadcast_to(table[None], (*z.shape, V)), cache


@pytest.mark.parametrize("cut", [{}, {"top_k": 1}], ids=str)
def test_from_left_to_right_a_text_stays_one_that_can_be_accepted(cut):
    processor = LogitsProcessor(**cut)
    known = jnp.broadcast_to(jnp.array([0, -1, -1, -1]), (300, L))
    late = Automaton.over(EVEN_MOVES, EVEN_ENDS, ANY, first=1)
    for process, sampler in (
        (Autoregressive(V), LeftToRight(processor)),
        (BlockDiffusion(MDLM(V), 2), BlockByBlock(Ancestral(2, logits_processor=processor))),
    ):
        model = Constrained(Stored(), late)
        x = np.asarray(sampler.sample(jax.random.key(0), process, model, (300, L), known))
        even = (x == 2).sum(1) % 2 == 0
        apart = ~((x[:, 1:] == 0) & (x[:, :-1] == 0))[:, 1:].any(1)
        assert (even & apart).all() and (x[:, 0] == 0).all()
        assert len(np.unique(x, axis=0)) > (1 if not cut else 0)


def test_uniform_noise_ends_accepted_too():
    model, _ = network(1)
    x = Ancestral(3).sample(jax.random.key(0), UDLM(V), Constrained(model, EVEN), (300, L))
    assert accepted(np.asarray(x)).all() and len(np.unique(x, axis=0)) > 10


def test_a_temperature_of_0_keeps_what_is_most_probable_as_far_as_it_may():
    logits = jnp.log(
        jnp.array([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    )
    cold = Unmask(amount=Tokens(L), logits_processor=LogitsProcessor(temperature=0))
    model = Constrained(lambda z, t: jnp.broadcast_to(logits, (*z.shape, V)), EVEN)
    x = cold.sample(jax.random.key(0), MDLM(V), model, (200, L))
    # 0 0 1 2 is not accepted; 2 0 1 2 and 0 2 1 2 are.
    changes = (np.asarray(x) != [0, 0, 1, 2]).sum(1)
    assert accepted(np.asarray(x)).all() and (changes == 1).all()


def test_in_parts_a_text_is_accepted_and_a_part_is_drawn_by_what_can_follow():
    """As block by block: the first half is drawn given that the automaton can still accept."""
    rows, logits = 20_000, network()[1]
    log_p = jnp.broadcast_to(jax.nn.log_softmax(jnp.asarray(logits)), (rows, L, V))

    @jax.jit
    def halves(keys):
        x, state = EVEN.draw(keys[0], log_p[:, :2], jnp.zeros(rows, jnp.int32))
        y, _ = EVEN.draw(keys[1], log_p[:, 2:], EVEN.after(x, jnp.zeros(rows, jnp.int32), 0), 2)
        return jnp.concatenate([x, y], axis=1), state, EVEN.after(x, jnp.zeros(rows, jnp.int32), 0)

    x, *states = map(np.asarray, halves(jax.random.split(jax.random.key(0))))
    np.testing.assert_array_equal(*states)
    each = np.exp(np.asarray(log_p[0])[np.arange(L), TEXTS])  # (N, L)
    first, p = TEXTS[:, :2] @ [V, 1], np.zeros(len(TEXTS))
    halves_that_fit = {n for n, fits in zip(first, accepted(TEXTS), strict=True) if fits}
    of_first = np.array([n in halves_that_fit for n in first]) * each[:, :2].prod(1)
    for n in halves_that_fit:
        rest = (first == n) * accepted(TEXTS) * each[:, 2:].prod(1)
        p += of_first * rest / rest.sum()
    counts = np.bincount(x @ V ** np.arange(L)[::-1], minlength=V**L)
    assert_distribution(counts, p / p.sum())


def test_whether_any_text_is_possible():
    assert EVEN.is_possible
    allowed = np.ones((L, V), bool)
    allowed[:, 1] = allowed[:, 2] = False  # 0 0 0 0
    assert not Automaton.over(EVEN_MOVES, EVEN_ENDS, allowed).is_possible
    allowed[1::2] = True
    assert Automaton.over(EVEN_MOVES, EVEN_ENDS, allowed).is_possible
