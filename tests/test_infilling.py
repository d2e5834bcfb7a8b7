"""Known tokens, required words and logits processors: what is exact, what is biased, what is obeyed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, assert_distribution

from diffusion.bfn import BFN, PowerAccuracy
from diffusion.dirichlet import DirichletFlow
from diffusion.mdlm import MDLM
from diffusion.spaces import Tokens
from diffusion.udlm import UDLM
from samplers.ancestral import Ancestral
from samplers.logits_processor import LogitsProcessor
from samplers.required import fits, place
from samplers.twisted_smc import TwistedSMC

ROWS, GIVEN = 4000, (-1, 2, -1)
PROCESSES = {
    "uniform": UDLM(3),
    "bfn": BFN(3, PowerAccuracy(4.0)),
    "dirichlet": DirichletFlow(3),
    "masked": MDLM(3),
}


@pytest.fixture(scope="module")
def toy():
    return Toy.named()


def distribution(toy, process, sampler, given=GIVEN, key=0, rows=ROWS):
    known = jnp.broadcast_to(jnp.array(given), (rows, len(given)))
    table = isinstance(process.space, Tokens)  # whose states are few
    model = toy.table(process) if table else toy.denoiser(process)
    draw = jax.jit(lambda k: sampler.sample(k, process, model, known.shape, known))
    return np.bincount(toy.index(draw(jax.random.key(key))), minlength=len(toy.p))


def conditional(toy, given=GIVEN):
    agrees = ((toy.states == np.array(given)) | (np.array(given) < 0)).all(1)
    return np.where(agrees, toy.p, 0) / toy.p[agrees].sum()


@pytest.mark.representatives()
@pytest.mark.parametrize("name", ["uniform", "bfn", "masked"])
@pytest.mark.usefixtures("optimized")
def test_particles_approach_the_conditional_distribution(name, toy):
    process, exact, rows = PROCESSES[name], conditional(toy), 1500
    assert TwistedSMC().compatibility(process).kind == "exact"
    distance = {}
    for particles in (1, 16):
        counts = distribution(toy, process, TwistedSMC(32, particles=particles), rows=rows)
        assert counts[exact == 0].sum() == 0
        distance[particles] = np.abs(counts / rows - exact).sum() / 2
    # The bias of K particles falls as 1 / K; what is left is that of 32 steps and of counting.
    noise = np.sqrt(exact / rows).sum()
    assert distance[16] < max(0, distance[1] - noise) / 4 + noise + 0.03


def clamped_distribution(toy, process, steps, given):
    """(N,) the exact distribution of `Ancestral` without masks, given tokens put back in every step."""
    z, given = jnp.asarray(toy.states), np.array(given)
    model = toy.denoiser(process)
    agrees = (toy.states == given) | (given < 0)  # (N, L)

    def step(distribution, k):
        t, s = (jnp.full((len(z), 1), x / steps) for x in (k + 1, k))
        matrix = jnp.broadcast_to(agrees.all(1).astype(distribution.dtype), (len(z), len(z)))
        to = jnp.exp(process.log_posterior(process.predict(model(z, t), z, t), z, t, s))
        for i in np.flatnonzero(given < 0):
            matrix = matrix * to[:, i][:, toy.states[:, i]]  # from each state to the token of each
        return distribution @ matrix, None

    start = agrees.all(1) / agrees.all(1).sum()
    return np.asarray(jax.jit(lambda p: jax.lax.scan(step, p, jnp.arange(steps)[::-1])[0])(start))


def test_clean_tokens_bias_a_uniform_process_and_particles_do_not(toy, x64):
    """What plain clamping samples there tends to another distribution. Without given tokens the error of
    T steps falls as 1 / T."""
    process, nothing = PROCESSES["uniform"], (-1,) * toy.length
    assert_distribution(
        distribution(toy, process, Ancestral(8)), clamped_distribution(toy, process, 8, GIVEN)
    )
    clamped, free = (
        [
            np.abs(clamped_distribution(toy, process, steps, given) - right).sum()
            for steps in (48, 256)
        ]
        for given, right in ((GIVEN, conditional(toy)), (nothing, toy.p))
    )
    assert free[1] < free[0] / 4 and clamped[1] > clamped[0] / 2


def test_without_given_tokens_particles_are_ancestral_sampling(toy):
    process = PROCESSES["masked"]
    draw = jax.jit(
        lambda k: TwistedSMC(4, particles=3).sample(k, process, toy.denoiser(process), (ROWS, 3))
    )
    counts = np.bincount(toy.index(draw(jax.random.key(0))), minlength=len(toy.p))
    other = jax.jit(lambda k: Ancestral(4).sample(k, process, toy.denoiser(process), (20_000, 3)))
    expected = np.bincount(toy.index(other(jax.random.key(1))), minlength=len(toy.p)) / 20_000
    assert_distribution(counts, expected, bias=5 * np.sqrt(expected.max() / 20_000))


def logits(key=0, shape=(2, 6, 9)):
    return jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(key), shape))


def test_cuts_keep_what_their_definitions_say():
    log_p = logits()
    p = np.exp(np.asarray(log_p, float))
    order = np.sort(p, axis=-1)[..., ::-1]
    top_k = np.exp(LogitsProcessor(top_k=3)(log_p)) > 0
    np.testing.assert_array_equal(top_k, p >= order[..., 2:3])
    nucleus = np.exp(LogitsProcessor(top_p=0.7)(log_p)) > 0
    for row, kept in zip(p.reshape(-1, 9), nucleus.reshape(-1, 9), strict=True):
        falling = sorted(row, reverse=True)
        count = next(
            n for n in range(1, 10) if sum(falling[:n]) >= 0.7
        )  # the one that crosses stays
        assert kept.sum() == count and row[kept].min() >= falling[count - 1] - 1e-7
    min_p = np.exp(LogitsProcessor(min_p=0.3)(log_p)) > 0
    np.testing.assert_array_equal(min_p, p >= 0.3 * p.max(-1, keepdims=True))
    entropy = -(p * np.log(p)).sum(-1, keepdims=True)
    eta = np.exp(LogitsProcessor(eta=0.2)(log_p)) > 0
    least = np.minimum(0.2, np.sqrt(0.2) * np.exp(-entropy))
    np.testing.assert_array_equal(eta, (p >= least) | (p == p.max(-1, keepdims=True)))


def test_what_is_certain_stays_though_it_is_banned():
    sure = jnp.log(jnp.array([[[0.0, 1.0, 0.0], [0.0, 0.5, 0.5]]]))
    left = np.exp(LogitsProcessor(banned=(1,))(sure))
    np.testing.assert_array_equal(left, [[[0, 1, 0], [0, 0, 1]]])


@pytest.mark.parametrize("size", [2, 3, 5, 6, 7, 9, 10, 11, 13, 17, 19, 23, 27, 31, 37, 39])
def test_rounding_never_cuts_all(size):
    """At eta = 1 a uniform distribution lies on the line itself."""
    assert np.isfinite(LogitsProcessor(eta=1.0)(jnp.full((1, 1, size), -np.log(size)))).all()


def test_what_is_left_keeps_its_proportions():
    log_p = logits()
    for logits_processor in (
        LogitsProcessor(top_k=3),
        LogitsProcessor(top_p=0.6),
        LogitsProcessor(min_p=0.2),
        LogitsProcessor(eta=0.2),
    ):
        new = np.exp(logits_processor(log_p))
        np.testing.assert_allclose(new.sum(-1), 1, rtol=1e-5)
        ratio = np.where(new > 0, new / np.exp(log_p), np.nan)
        np.testing.assert_allclose(
            ratio,
            np.broadcast_to(np.nanmax(ratio, -1, keepdims=True), ratio.shape)
            * np.where(new > 0, 1, np.nan),
            rtol=1e-4,
        )
    p = np.exp(np.asarray(log_p, float))
    warm = p**2 / (p**2).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.exp(LogitsProcessor(temperature=0.5)(log_p)), warm, rtol=1e-4)
    greedy = np.exp(LogitsProcessor(temperature=0.0)(log_p))
    np.testing.assert_array_equal(greedy.argmax(-1), p.argmax(-1))
    assert set(np.unique(greedy)) == {0, 1}


def test_repetition_counts_other_positions_of_tokens_and_of_simplex_states():
    z = jnp.array([[0, 0, 1, 3]])  # 3 is the mask
    log_p = jnp.log(jnp.full((1, 4, 3), 1 / 3))
    new = np.asarray(LogitsProcessor(repetition=0.5)(log_p, jax.nn.one_hot(z, log_p.shape[-1])))
    for i, counts in enumerate([(1, 1, 0), (1, 1, 0), (2, 0, 0), (2, 1, 0)]):
        expected = np.exp(-0.5 * np.array(counts))
        np.testing.assert_allclose(np.exp(new[0, i]), expected / expected.sum(), rtol=1e-5)
    vertices = jax.nn.one_hot(z[:, :3], 3)
    np.testing.assert_allclose(
        LogitsProcessor(repetition=0.5)(log_p[:, :3], vertices), new[:, :3], rtol=1e-5
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_banned_tokens_never_occur_but_where_they_are_given(name, toy):
    process = PROCESSES[name]
    sampler = Ancestral(6, logits_processor=LogitsProcessor(banned=(1,)))
    known = jnp.broadcast_to(jnp.array([1, -1, -1]), (500, 3))
    x0 = sampler.sample(jax.random.key(0), process, toy.denoiser(process), (500, 3), known)
    assert (x0[:, 0] == 1).all() and (x0[:, 1:] != 1).all()


def uniform_model(size):
    return lambda z, t: jnp.zeros((*z.shape[:2], size))


@pytest.mark.parametrize("process", [MDLM(5), UDLM(5), BFN(5)], ids=lambda p: type(p).__name__)
def test_required_words_stand_in_every_sample(process):
    words, shape = ((1, 2, 3), (4,)), (200, 12)
    given = jnp.full(shape, -1).at[:, 0].set(0)
    known = place(jax.random.key(0), process, uniform_model(5), given, words)
    x0 = Ancestral(4).sample(jax.random.key(1), process, uniform_model(5), shape, known)
    assert (known[:, 0] == 0).all() and ((known >= 0).sum(1) == 5).all()
    text = ["".join(map(str, row)) for row in np.asarray(x0)]
    assert all("123" in row and "4" in row.replace("123", "", 1) for row in text)
    starts = ["".join(map(str, r)).find("123") for r in np.where(known < 0, 9, known)]
    assert set(starts) == set(range(1, 10))  # every place, under a model without preference


def test_words_go_where_the_model_wants_them():
    likes = jnp.zeros((12, 5)).at[6, 1].set(8.0).at[7, 2].set(8.0)
    model = lambda z, t: jnp.broadcast_to(likes[None], (*z.shape, 5))  # noqa: E731
    known = place(jax.random.key(0), MDLM(5), model, jnp.full((400, 12), -1), ((1, 2),))
    at_six = ((known[:, 6] == 1) & (known[:, 7] == 2)).mean()
    p = np.exp(np.asarray(jax.nn.log_softmax(likes), float))
    score = np.array([p[i, 1] * p[i + 1, 2] for i in range(11)])
    expected = score[6] / score.sum()
    assert abs(at_six - expected) < 5 * np.sqrt(expected * (1 - expected) / 400) + 1e-3


def test_room_for_words_is_certain_or_rejected():
    blank = [True] * 12
    assert fits(blank, [(1, 2, 3), (4,)]) and fits(blank, []) and fits([False] * 3, [])
    assert not fits(blank, [(1,) * 4, (2,) * 4, (3,) * 4]) and not fits([False] * 12, [(1,)])
    assert not fits([True] * 2, [(1, 2, 3)])
