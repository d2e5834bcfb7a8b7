"""Processors of logits and guidance at their ends: temperatures near 0, without bounds, ties."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import complete

from diffusion.bfn import BFN, PowerAccuracy
from diffusion.d3pm import D3PM
from diffusion.kernels import Uniform
from diffusion.mdlm import MDLM
from diffusion.sedd import SEDD
from diffusion.simplex import project
from diffusion.udlm import UDLM
from samplers.ancestral import Ancestral
from samplers.discrete_guidance import ByClassifier
from samplers.euler import Euler
from samplers.first_hitting import FirstHitting
from samplers.guidance import classifier, classifier_free, mixed
from samplers.logits_processor import LogitsProcessor
from samplers.path_planning import PathPlanning
from samplers.posterior import Posterior
from samplers.predictor_corrector import PredictorCorrector
from samplers.remask import ReMDM
from samplers.tweedie import Tweedie
from samplers.twisted_smc import TwistedSMC
from samplers.unmask import EntropyBudget, Steps, Threshold, Unmask

SMALL = [1e-45, 1e-39, 1e-38, 1e-30, 1e-20, 1e-12, 1e-10, 1e-8, 1e-6, 1e-3]
V = 27


def logits(rows=64, length=8, gap=0.2):
    """Scores in random order, `gap` apart at least."""
    rng = np.random.default_rng(0)
    steps = rng.permuted(np.tile(np.arange(V), (rows, length, 1)), axis=-1)
    return jnp.asarray(gap * steps + gap / 4 * rng.random(steps.shape), jnp.float32)


PROCESSORS = {
    "plain": {},
    "banned": dict(banned=(3, 4)),
    "repetition": dict(repetition=0.7),
    "top_k": dict(top_k=3),
    "top_p": dict(top_p=0.9),
    "min_p": dict(min_p=0.1),
    "eta": dict(eta=0.1),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.usefixtures("optimized")
def test_small_temperatures_take_the_likeliest_token(name):
    """In one program with the scores, where a compiler may round a value twice in different ways."""
    z = jnp.asarray(np.random.default_rng(1).integers(0, V + 1, (64, 8)))
    weights = jax.nn.one_hot(z, V)

    @jax.jit
    def distributions(out):
        return [
            LogitsProcessor(temperature=T, **PROCESSORS[name])(
                jax.nn.log_softmax(1.37 * out), weights
            )
            for T in (0.0, *SMALL)
        ]

    first, *others = (np.exp(a) for a in distributions(logits()))
    assert (first.max(-1) == 1).all()
    for temperature, p in zip(SMALL, others, strict=True):
        np.testing.assert_allclose(p, first, atol=1e-6, err_msg=str(temperature))


@pytest.mark.parametrize("temperature", [1e30, 1e38, 1e39, 1e300, np.inf])
def test_large_temperatures_make_all_possible_tokens_equally_likely(temperature):
    log_p = logits().at[..., 5].set(-jnp.inf)
    p = np.exp(jax.jit(LogitsProcessor(temperature=temperature, banned=(7,)))(log_p))
    np.testing.assert_allclose(np.delete(p, (5, 7), -1), 1 / (V - 2), rtol=1e-5)
    assert (p[..., [5, 7]] == 0).all()


MASKED = [
    Ancestral(3), Posterior(3), FirstHitting(group=3), ReMDM(3, eta=0.3, confidence=True),
    PathPlanning(3), PredictorCorrector(3), Euler(3), TwistedSMC(2, particles=2),
    Unmask("drawn", Steps(3)), Unmask("confidence", Threshold(0.2)),
    Unmask("entropy", EntropyBudget(2.0)),
]  # fmt: skip
CASES = [(s, MDLM()) for s in MASKED]
CASES += [(Tweedie(3), SEDD()), (Unmask("margin"), SEDD(head="leave_one_out"))]
CASES += [(Ancestral(3), p) for p in (UDLM(), SEDD(head="leave_one_out", kernel=Uniform()))]
CASES += [(Ancestral(3), BFN(None, PowerAccuracy(4.0))), (Posterior(3), D3PM(kernel=Uniform()))]


@pytest.mark.representatives("Ancestral", "FirstHitting", "TwistedSMC", "drawn", "D3PM")
@pytest.mark.parametrize("sampler, process", CASES, ids=lambda v: repr(v)[:40])
def test_every_sampler_at_a_small_temperature_is_the_one_at_0(sampler, process):
    process = complete(process, V)
    out = logits(1, 6, gap=0.5)

    def model(z, t):
        if z.ndim == 3:
            z = jnp.argmax(z, axis=-1)
        shift = jax.vmap(jax.vmap(jnp.roll))(
            jnp.broadcast_to(out, (*z.shape, V)), z.sum(1)[:, None] + 0 * z
        )
        return jax.nn.log_softmax(shift)

    @jax.jit
    def sample(key):
        return [
            replace(sampler, logits_processor=LogitsProcessor(temperature=T)).sample(
                key, process, model, (5, 6)
            )
            for T in (0.0, 1e-10)
        ]

    np.testing.assert_array_equal(*sample(jax.random.key(0)))


def test_of_ties_the_first_are_kept_and_no_more_than_asked_for():
    level = jnp.log(jnp.full((1, 1, 10), 0.1))
    for settings, count in [
        ({"top_p": 0.25}, 3), ({"top_p": 0.5}, 5), ({"top_p": 1e-30}, 1), ({"top_p": 1e-45}, 1),
        ({"top_k": 4}, 4), ({"top_p": 1.0}, 10), ({"top_k": 7, "top_p": 0.5}, 4),
        ({"min_p": 1.0}, 10), ({"min_p": 1e-45}, 10), ({"eta": 1.0}, 10), ({"eta": 1e-45}, 10),
    ]:  # fmt: skip
        p = np.exp(jax.jit(LogitsProcessor(**settings))(level))[0, 0]
        np.testing.assert_allclose(p, np.where(np.arange(10) < count, 1 / count, 0), rtol=1e-5)
    p = jnp.log(jnp.array([[[0.1, 0.2, 0.3, 0.1, 0.2, 0.1]]]))
    for logits_processor, kept in [
        (LogitsProcessor(top_k=2), [1, 2]),
        (LogitsProcessor(top_p=0.65), [1, 2, 4]),
        (LogitsProcessor(top_p=0.75), [0, 1, 2, 4]),
        (LogitsProcessor(top_k=5), [0, 1, 2, 3, 4]),
        (LogitsProcessor(min_p=2 / 3), [1, 2, 4]),
        (LogitsProcessor(min_p=1 / 3), range(6)),
    ]:
        new = np.exp(jax.jit(logits_processor)(p))[0, 0]
        np.testing.assert_array_equal(np.flatnonzero(new), kept, err_msg=str(logits_processor))


def test_at_mass_1_nothing_is_cut():
    p = np.exp(LogitsProcessor(top_p=1.0)(logits(gap=2.0)))
    assert (p > 0).all()


@pytest.mark.parametrize("repetition", [1e30, 3e38, 1e39, np.inf, -1e30, -1e39, -np.inf])
def test_repetition_without_bounds_takes_what_stands_least_or_most_often(repetition):
    z = jnp.array([[0, 0, 1, 2, 3]])  # 4 tokens, of which 3 stands at the last position alone
    log_p = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))[None, None] + jnp.zeros((1, 5, 4))
    p = np.exp(LogitsProcessor(repetition=repetition)(log_p, jax.nn.one_hot(z, log_p.shape[-1])))[
        0, -1
    ]
    np.testing.assert_allclose(p, [0, 0, 0, 1] if repetition > 0 else [1, 0, 0, 0], atol=1e-6)
    with pytest.raises(ValueError, match="repetition"):
        LogitsProcessor(repetition=np.nan)


STRENGTHS = [-np.inf, -1e39, -1e30, -3.0, 0.0, 0.5, 1.0, 2.5, 1e9, 1e30, 3e38, 1e39, np.inf]
PAIR = np.array([[0.5, 0.3, 0.2, 0, 0, 0], [0.2, 0.4, 0.1, 0.3, 0, 0]])


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("pair", [PAIR, PAIR[::-1], PAIR[:, :3]], ids=["less", "more", "same"])
def test_guidance_of_any_strength_is_a_distribution(strength, pair):
    """Against the powers in double precision, of probabilities with 1e-30 in place of 0."""
    with np.errstate(divide="ignore"):
        log_p, log_free = (jnp.log(jnp.asarray(p))[None, None] for p in pair)
    got = np.exp(jax.jit(mixed)(log_p, log_free, strength))[0, 0]
    assert got.sum() == pytest.approx(1, abs=1e-5)
    power = np.clip(strength, -1e3, 1e3)
    a, b = np.log(np.maximum(pair, 1e-30))
    log_right = power * a + (1 - power) * b
    log_right[(pair == 0).all(0)] = -np.inf
    right = np.exp(log_right - log_right.max())
    np.testing.assert_allclose(got, right / right.sum(), atol=1e-5)


@pytest.mark.parametrize("strength", [-np.inf, -1e39, 0.0, 2.5, 3e38, np.inf])
def test_every_guidance_of_any_strength_is_a_distribution(strength):
    log_p, log_free = jax.nn.log_softmax(logits(2, 3)), jax.nn.log_softmax(logits(2, 3, 0.1))
    z, t = jnp.full((2, 3), V), jnp.full((2, 1), 0.5)
    process, flow = MDLM(V), complete(BFN(), V)
    state = flow.corrupt(jax.random.key(0), jnp.zeros((2, 3), int), t)
    score = lambda z, t: (z[..., :V] * jnp.arange(V)[None, None]).sum((1, 2))  # noqa: E731
    network, free = (lambda z, t: log_p), (lambda z, t: log_free)
    for guided, noisy in [
        (classifier_free(process, network, free, strength, "probability"), z),
        (classifier_free(process, network, free, strength, "log_probability"), z),
        (ByClassifier(process, free, score, strength, exact=False), z),
        (classifier(flow, free, score, strength), state),
    ]:
        base = flow if noisy.ndim == 3 else process
        p = np.exp(base.predict(jax.jit(guided)(noisy, t), noisy, t))
        np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-4)


@pytest.mark.parametrize("size", [1.0, 1e6, 1e8, 1e20, 1e38])
def test_the_nearest_point_of_the_simplex_to_far_points(size):
    p = project(size * jnp.array([[0.3, -2.0, 1.0, 0.99]]) + jnp.array([[0, 0, 1, 0]]))
    np.testing.assert_allclose(p, [[0, 0, 1, 0]], atol=1e-6)


def test_a_penalty_on_repetition_asks_for_what_is_repeated():
    with pytest.raises(ValueError, match=r"repetition asks for weights, or counts"):
        LogitsProcessor(repetition=1.0)(jnp.zeros((1, 2, 3)))
