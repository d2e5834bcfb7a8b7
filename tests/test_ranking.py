"""The order in which positions are revealed: by the model, not by temperature and rounding."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.mdlm import MDLM
from diffusion.random import fold_in, uniform
from diffusion.schedules import Linear, RescaledSchedule
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.euler import Euler, TauLeaping
from samplers.first_hitting import FirstHitting
from samplers.logits_processor import LogitsProcessor
from samplers.path_planning import PathPlanning
from samplers.posterior import Posterior
from samplers.predictor_corrector import PredictorCorrector
from samplers.ranking import TIE, in_order, places
from samplers.remask import ReMDM
from samplers.sampler import State
from samplers.sliding_window import SlidingWindow
from samplers.twisted_smc import TwistedSMC
from samplers.unmask import EntropyBudget, Steps, Threshold, Tokens, Unmask

ORDERS = ["confidence", "drawn", "margin", "entropy"]


def order_of(score, chance):
    return np.asarray(in_order(jnp.array([score]), jnp.array([chance])))[0].tolist()


def test_equal_scores_are_in_the_order_of_chance_and_others_in_their_own():
    chance = [0.1, 0.9, 0.5, 0.7]
    assert order_of([1.0, 2.0, 3.0, 4.0], chance) == [3, 2, 1, 0]
    assert order_of([0.0, 0.0, 0.0, 0.0], chance) == [1, 3, 2, 0]
    assert order_of([1.0, 1.0 + TIE / 3, 1.0 - TIE / 3, 0.5], chance) == [1, 2, 0, 3]
    assert order_of([1.0, 1.0 + 3 * TIE, 1.0, 0.5], chance) == [1, 2, 0, 3]
    assert order_of([-jnp.inf, jnp.inf, -jnp.inf, jnp.inf], chance) == [1, 3, 2, 0]
    assert order_of([-jnp.inf, 3.0, jnp.inf, -1e9], chance) == [2, 1, 3, 0]
    assert places(jnp.array([[2, 0, 1]])).tolist() == [[1, 2, 0]]


def test_rounding_does_not_change_an_order():
    rng = np.random.default_rng(0)
    level = rng.integers(0, 4, (200, 60)) / 4
    chance = uniform(jax.random.key(0), level.shape)
    rough = [level + 1e-6 * rng.normal(size=level.shape) for _ in range(2)]
    first, second = (np.asarray(in_order(jnp.asarray(a, jnp.float32), chance)) for a in rough)
    np.testing.assert_array_equal(first, second)
    falling = np.take_along_axis(level, first, 1)
    assert (np.diff(falling, axis=1) <= 0).all()
    # Of equal ones each is first alike: 50 of 60 positions of a level of four, over 200 rows.
    assert np.unique(first[:, 0]).size > 50


def perceptron():
    """A network that tells masked positions apart by rounding alone, as rotary positions do."""
    shapes = [(28, 16), (16, 32), (32, 27)]
    keys = jax.random.split(jax.random.key(0), 3)
    embedding, hidden, head = map(jax.random.normal, keys, shapes)

    def model(z, t):
        x = embedding[z] + 2 * embedding[z].mean(1, keepdims=True)
        rounded = x * (1 + 1e-7 * jnp.arange(z.shape[1])[None, :, None])
        return jnp.tanh(rounded @ hidden / 4) @ head / 2

    return model


def transformer():
    backbone = Transformer(27, num_layers=1, width=16, num_heads=2)
    params = backbone.init(jax.random.key(0))
    params = jax.tree.map(lambda a: 3 * a if a.ndim > 1 else a, params)
    return lambda z, t: backbone.apply(params, z, t)


GREEDY = LogitsProcessor(temperature=0.0)
SAMPLERS = [
    *(Unmask(order, Steps(4)) for order in ORDERS), Unmask("drawn", Steps(4), noise=1.0),
    Unmask("random", Tokens(1)), Unmask("confidence", Threshold(0.1)),
    Unmask("entropy", EntropyBudget(3.0)), PathPlanning(4, logits_processor=GREEDY),
    ReMDM(4, eta=0.3, confidence=True), FirstHitting(steps=6), FirstHitting(group=3),
    PredictorCorrector(3, positions=2), PredictorCorrector(3, corrector="forward_backward"),
    Euler(4, rule="linear"), TauLeaping(4), Ancestral(4), Ancestral(4, cached=True), Posterior(4),
    TwistedSMC(3, particles=3), SlidingWindow(Unmask(amount=Steps(2)), 8, 4),
]  # fmt: skip
NETWORKS = [*((perceptron, s) for s in SAMPLERS), (transformer, SAMPLERS[0])]
FIRST = list({(type(s), s.cached): s for s in reversed(SAMPLERS)}.values())
KNOWN = jnp.full((16, 16), -1).at[:4, 3].set(5).at[2].set(7).at[9, ::2].set(0)


@pytest.mark.representatives(
    "transformer",
    "EntropyBudget",
    "PathPlanning",
    "FirstHitting(group=3",
    "Euler",
    "TwistedSMC",
    "SlidingWindow",
)
@pytest.mark.parametrize(
    "network, sampler", NETWORKS, ids=lambda v: getattr(v, "__name__", repr(v)[:60])
)
def test_a_sample_is_the_same_in_every_batch_and_the_end_of_its_frames(network, sampler):
    """Alone, among sixteen, in another order of rows, beside other rows, and with frames; with known and
    banned tokens, and where a schedule leaves noise at t = 0. Alone: one setting of each sampler."""
    model, process = network(), MDLM(27, RescaledSchedule(Linear(), 0.2))
    first = any(sampler is one for one in FIRST) or network is transformer
    if bans := "logits_processor" in sampler.__dataclass_fields__:
        banning = replace(sampler.logits_processor, banned=(1,))
        sampler = replace(sampler, logits_processor=banning)
    keys = jax.vmap(lambda n: fold_in(jax.random.key(0), n))(jnp.arange(16))
    run = jax.jit(
        lambda keys, known, trace: sampler.run(keys, process, model, known.shape, known, trace),
        static_argnums=2,
    )
    x0, calls, frames = run(keys, KNOWN, sampler.keeps_frames)
    order = np.random.default_rng(0).permutation(16)
    other = run(keys[order], KNOWN[order], sampler.keeps_frames)
    np.testing.assert_array_equal(other.x0, x0[order])
    beside = run(keys.at[8:].set(keys[:8]), KNOWN.at[8:].set(KNOWN[:8]), sampler.keeps_frames)
    np.testing.assert_array_equal(beside.x0, np.concatenate([x0[:8], x0[:8]]))
    if first:
        alone = [run(keys[i : i + 1], KNOWN[i : i + 1], False) for i in range(16)]
        np.testing.assert_array_equal(np.concatenate([one.x0 for one in alone]), x0)
        if not sampler.cached:  # which asks the network once for all rows
            np.testing.assert_array_equal(np.concatenate([one.calls for one in alone]), calls)
    assert ((KNOWN < 0) | (x0 == KNOWN)).all() and (x0 < 27).all() and (x0 != 1).all() == bans
    assert (calls <= sampler.calls(process, 16)).all()
    if frames is not None:
        np.testing.assert_array_equal(frames.tokens[-1], x0)


P = np.array(
    [
        [0.5, 0.45, 0.02, 0.03],
        [0.45, 0.22, 0.13, 0.2],
        [0.49, 0.48, 0.02, 0.01],
        [0.7, 0.13, 0.07, 0.1],
    ]
)
SCORE = {
    "confidence": P.max(1),
    "drawn": P.max(1),
    "margin": np.sort(P)[:, -1] - np.sort(P)[:, -2],
    "entropy": (P * np.log(P)).sum(1),
}


def fixed(p):
    return lambda z, t: jnp.broadcast_to(jnp.log(p)[None], (*z.shape, p.shape[-1]))


@cache
def program(sampler, shape):
    return jax.jit(lambda p: sampler.run(jax.random.key(3), MDLM(4), fixed(p), shape, trace=True))


def revealed(sampler, temperature, p=P, **options):
    """The positions in the order in which they were revealed, and the calls it took."""
    sampler = replace(sampler, logits_processor=LogitsProcessor(temperature=temperature, **options))
    found = program(sampler, (1, len(p)))(np.float32(p))
    masked = (np.asarray(found.frames.tokens)[:, 0] == 4).sum(0)
    return np.argsort(masked, kind="stable").tolist(), int(found.calls[0])


@pytest.mark.parametrize("temperature", [0.0, 1e-10])
@pytest.mark.parametrize("order", ORDERS)
def test_temperature_does_not_decide_where(order, temperature):
    expected = np.argsort(-SCORE[order]).tolist()
    assert revealed(Unmask(order, Tokens(1)), temperature) == (expected, 4)


@pytest.mark.representatives("drawn", "margin")
@pytest.mark.parametrize("order", ORDERS)
def test_the_order_at_a_low_temperature_is_that_at_0(order):
    rng = np.random.default_rng(5)
    p = rng.dirichlet(np.full(4, 0.1), 12)
    p = (p + 0.02) / (p + 0.02).sum(1, keepdims=True)
    clear = np.sort(p)[:, -1] > 3 * np.sort(p)[:, -2]  # what is drawn at 0.05 is the likeliest
    p = p[clear][: len(P)]
    assert len(p) == len(P)
    sampler = Unmask(order, Tokens(1))
    assert revealed(sampler, 0.05, p) == revealed(sampler, 0.0, p)


def test_amounts_are_of_the_model_and_not_of_the_temperature():
    """None of the four is as sure as 0.75, so one is revealed a call; three are as sure as 0.48."""
    for sampler in (Unmask("confidence", Threshold(0.75)), Unmask("entropy", EntropyBudget(0.5))):
        assert revealed(sampler, 0.0)[1] == 4
    assert revealed(Unmask("drawn", Threshold(0.48)), 0.0)[1] == 2


def test_what_comes_near_a_threshold_by_rounding_reaches_it():
    p = np.full((6, 4), 0.25)
    assert revealed(Unmask("confidence", Threshold(0.25)), 1.0, p)[1] == 1
    entropy = float(np.log(4))
    assert revealed(Unmask("entropy", EntropyBudget(2 * entropy)), 1.0, p)[1] == 2


@pytest.mark.representatives("model-entropy", "cut-margin", "cut-drawn")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rank_by", ["model", "cut"])
def test_cuts_decide_where_if_asked_to_and_banned_tokens_always(order, rank_by):
    """Without token 0 and with two tokens left: scores of what is allowed, or of what is left."""
    allowed = P[:, 1:] / P[:, 1:].sum(1, keepdims=True)
    p = allowed
    if rank_by == "cut":
        p = np.where(p >= np.sort(p)[:, -2:-1], p, 0)
        p = p / p.sum(1, keepdims=True)
    entropy = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(1)
    top = np.sort(p)
    score = {"margin": top[:, -1] - top[:, -2], "entropy": entropy}.get(order, top[:, -1])
    expected = np.argsort(-score).tolist()
    sampler = Unmask(order, Tokens(1), rank_by=rank_by)
    assert revealed(sampler, 0.0, banned=(0,), top_k=2)[0] == expected


def test_what_a_cut_leaves_certain_is_revealed_at_once_only_if_it_ranks():
    for rank_by, calls in (("model", 4), ("cut", 1)):
        sampler = Unmask("confidence", Threshold(0.9), rank_by=rank_by)
        assert revealed(sampler, 1.0, top_k=1)[1] == calls


@pytest.mark.parametrize("temperature", [0.0, 0.01])
def test_path_planning_keeps_what_the_model_is_sure_of(temperature):
    order, _ = revealed(PathPlanning(4), temperature)
    assert order == np.argsort(-SCORE["confidence"]).tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_remdm_remembers_the_probability_before_temperature(temperature):
    sampler = ReMDM(1, confidence=True, logits_processor=LogitsProcessor(temperature=temperature))
    z = jnp.full((1, 4), 4)
    state = State(z, jnp.ones((1, 1)), z, jnp.zeros(1, jnp.int32), jnp.ones((1, 4)))
    new = sampler.advance(jax.random.key(0), 0, state, MDLM(4), fixed(P), None)
    x0 = np.asarray(new.z)[0]
    np.testing.assert_allclose(new.memory[0], P[np.arange(4), x0], rtol=1e-5)
