"""Every process, by exact enumeration: its bound, its marginals, its bridge. One row per process.

Continuous time is integrated by quadrature, a grid of T steps is summed; z is enumerated. Nothing here
knows how a process computes its loss.
"""

from dataclasses import replace

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, assert_distribution, complete, of_prior, quadrature
from process_cases import ALL, CONTINUOUS, GRIDS, LOOSE_ENDS

from diffusion.ar_diffusion import ARDiffusion
from diffusion.autoregressive import Autoregressive
from diffusion.betas import MutualInformation, ReciprocalBetas
from diffusion.bfn import BFN
from diffusion.block import BlockDiffusion
from diffusion.d3pm import D3PM
from diffusion.difformer import Difformer
from diffusion.embedding_flow import FLM
from diffusion.genmd4 import GenMD4
from diffusion.kernels import Uniform
from diffusion.mdlm import MDLM
from diffusion.noisy_classifier import NoisyClassifier
from diffusion.numerics import log_one_hot
from diffusion.one_step import OneStep
from diffusion.plaid import Plaid
from diffusion.process import denoising_process
from diffusion.udlm import UDLM


def rows(table):
    return pytest.mark.parametrize("name", table)


def toy_and(name, toy="V3L3"):
    toy = Toy.named(toy)
    return toy, complete(ALL[name], toy.vocab_size)


def at_time(toy, process, t, loss=None):
    """E_q(z_t | x0) of the loss of the exact denoiser, for every x0, (N,)."""
    z = jnp.asarray(toy.all_states(process))
    t = jnp.full((len(z), 1), t)
    out = toy.denoiser(process)(z, t)
    loss = loss or process.token_loss

    def of(x):
        x = jnp.broadcast_to(x, z.shape)
        return loss(out, x, z, t).sum(1)

    losses = jax.lax.map(of, jnp.asarray(toy.states))
    q = toy.transition(process, z, t)
    return (q * jnp.where(q > 0, losses, 0)).sum(1)


def over_time(toy, process, nodes=120):
    """The integral of `at_time`, or the sum over a grid."""
    if process.num_steps_of_grid:
        times = (np.arange(process.num_steps_of_grid) + 1) / process.num_steps_of_grid
        weights = np.full(len(times), 1 / len(times))
    else:
        times, weights = quadrature(nodes, low=-60)
    each = jax.jit(lambda t: at_time(toy, process, t))
    return sum(w * each(t) for w, t in zip(weights, times, strict=True))


@pytest.fixture(autouse=True)
def _grid_of_a_process(monkeypatch):
    """num_steps_of_grid: T, or None in continuous time, whatever the process."""
    for cls in {type(p) for p in ALL.values()}:
        steps = property(lambda self: getattr(self, "num_steps", None))
        monkeypatch.setattr(cls, "num_steps_of_grid", steps, raising=False)


def boundary_terms(toy, process, u=0.5):
    """The terms of the bound other than "diffusion", for every x0, each (N, L)."""
    x0, u = jnp.asarray(toy.states), jnp.full((len(toy.p), 1), u)
    terms = process.bound_terms(jax.random.key(0), toy.denoiser(process), x0, u)
    return {name: term for name, term in terms.items() if name != "diffusion"}


# On the second toy one of each kind.
SECOND = (
    "mdlm-cosine",
    "sedd-absorbing-scaled",
    "sedd-uniform",
    "udlm",
    "genmd4-power",
    "gidd-fixed",
)


@pytest.mark.representatives(
    "mdlm-linear", "udlm-alpha_alone", "sedd-absorbing-scaled-V3L3", "sedd-uniform-denoiser",
    "udlm-V4L2", "udlm-posterior", "genmd4-power-V3L3", "spindle", "gidd-V3L3",
    "gidd-fixed-V3L3",
)  # fmt: skip
@pytest.mark.parametrize(
    "name, toy", [*((name, "V3L3") for name in CONTINUOUS), *((name, "V4L2") for name in SECOND)]
)
def test_bound_equals_nll_for_exact_denoiser(name, toy, x64):
    toy, process = toy_and(name, toy)
    np.testing.assert_allclose(over_time(toy, process), toy.neg_logp, atol=1e-4)
    assert not boundary_terms(toy, process)  # exact ends cost nothing


@pytest.mark.representatives("mdlm-eps", "sedd-uniform-geometric")
@rows(LOOSE_ENDS)
def test_loose_ends_are_counted_to_their_exact_excess(name, x64):
    """With alpha(0) < 1 or alpha(1) > 0 the model has its own prior and decoder. Its bound is exact up
    to E_q(z_1 | x0) log q(z_1) / p(z_1), if z_0 -> x0 is decoded jointly; by position it costs more."""
    toy, process = toy_and(name)
    diffusion = over_time(toy, process, 240)
    z = jnp.asarray(toy.all_states(process))
    ends = [jnp.full((len(z), 1), t) for t in (0.0, 1.0)]
    q0, q1 = (toy.transition(process, z, t) for t in ends)
    marginal = jnp.where(q0 > 0, jnp.log(q0) - jnp.log(toy.p @ q0)[None], 0)
    jointly = toy.neg_logp - (q0 * marginal).sum(1)
    # p(z_1) position by position: a mean over tokens of q(z_1 | x)
    log_q = jnp.maximum(process.log_likelihood(z, ends[1]), -1e30)
    distribution = jnp.log(jnp.exp(log_q) @ of_prior(process)).sum(1)
    excess = q1 @ jnp.where(toy.p @ q1 > 0, jnp.log(toy.p @ q1) - distribution, 0)
    terms = boundary_terms(toy, process)
    prior = terms["prior"].sum(1) if "prior" in terms else 0
    np.testing.assert_allclose(diffusion + jointly + prior, toy.neg_logp + excess, atol=1e-4)
    assert toy.p @ excess > 1e-9
    assert ("reconstruction" in terms) == bool(toy.p @ jointly > 1e-9)
    if "reconstruction" in terms:

        def decode(out, x0, z, t):
            return -jnp.take_along_axis(process.predict(out, z, t), x0[..., None], 2)[..., 0]

        exact = at_time(toy, process, 0.0, decode)
        assert toy.p @ exact >= toy.p @ jointly - 1e-12
        many = 20_000
        x0 = jnp.asarray(np.repeat(toy.states[:1], many, 0))
        drawn = process.bound_terms(
            jax.random.key(1), toy.denoiser(process), x0, jnp.full((many, 1), 0.5)
        )["reconstruction"].sum(1)
        assert abs(drawn.mean() - exact[0]) < 5 * drawn.std() / many**0.5 + 1e-12
        assert (np.asarray(diffusion + prior) < toy.neg_logp).any()  # without it: no bound


@pytest.mark.representatives(
    "mdlm-T4-alpha_alone", "d3pm-absorbing-cosine", "d3pm-uniform-posterior", "d3pm-matrix",
    "spindle-cut",
)  # fmt: skip
@rows(GRIDS)
def test_bound_of_a_grid_equals_that_of_the_chain_by_brute_force(name, x64):
    """Bayes by hand: q(z_s | z_t, x0) from the transition rows, the model as its posterior mean."""
    toy, process = toy_and(name)
    T, S, V = process.num_steps, process.num_states, toy.vocab_size
    z = jnp.asarray(toy.all_states(process))
    # q(z_k = j | x) of one position, (T + 1, V, S)
    states = jnp.arange(S)[:, None]
    marginal = np.stack(
        [
            np.exp(process.log_likelihood(states, jnp.full((S, 1), k / T)))[:, 0].T
            for k in range(T + 1)
        ]
    )
    total = np.zeros(len(toy.p))
    for k in range(1, T + 1):
        t, s = jnp.full((len(z), 1), k / T), jnp.full((len(z), 1), (k - 1) / T)
        # q(z_s = j | z_t, x) of the process, one-hot x: (V, Z, L, S)
        bridge = np.stack(
            [
                np.exp(process.log_posterior(log_one_hot(jnp.full(z.shape, v), V), z, t, s))
                for v in range(V)
            ]
        )
        _bridge_is_bayes(bridge, marginal[k - 1], marginal[k], np.asarray(z))
        q = np.asarray(toy.transition(process, z, t))
        joint = toy.p[:, None] * q
        posterior = np.einsum("nz,nlv->zlv", joint / np.maximum(joint.sum(0), 1e-300), toy.one_hot)
        model = np.einsum("zlv,vzls->zls", posterior, np.nan_to_num(bridge))
        for n, x in enumerate(toy.states):
            true = np.stack([bridge[x[i], :, i] for i in range(toy.length)], 1)
            with np.errstate(divide="ignore", invalid="ignore"):
                kl = np.where(true > 0, true * np.log(true / model), 0).sum((1, 2))
            total[n] += (q[n] * np.where(q[n] > 0, kl, 0)).sum()
    ours = over_time(toy, process)
    np.testing.assert_allclose(ours, total, rtol=1e-8, atol=1e-10)
    terms = boundary_terms(toy, process)
    prior = marginal[T].mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(marginal[T] > 0, marginal[T] * np.log(marginal[T] / prior), 0).sum(1)
    ours = terms["prior"] if "prior" in terms else np.zeros(toy.states.shape)
    np.testing.assert_allclose(ours, divergence[toy.states], rtol=1e-6, atol=1e-12)
    # A bound on average, prior included, that is not tight.
    assert toy.p @ (total + divergence[toy.states].sum(1)) > toy.p @ toy.neg_logp + 1e-4


def _bridge_is_bayes(bridge, before, after, z):
    """q(z_s | z_t, x) q(z_t | x) sums over z_t to q(z_s | x), and is q(z_t | z_s) q(z_s | x): its ratio
    to q(z_s | x) does not depend on x."""
    first = {state[0]: row for row, state in enumerate(z)}
    rows = [first[j] for j in range(after.shape[1])]
    joint = np.nan_to_num(bridge[:, rows, 0]) * after[..., None]  # (V, S at t, S at s)
    np.testing.assert_allclose(joint.sum(1), before, atol=1e-12)
    tokens = joint.shape[0]
    for v in range(tokens):
        for w in range(v):
            both = (before[v] > 1e-12) & (before[w] > 1e-12)
            np.testing.assert_allclose(
                (joint[v] / np.maximum(before[v], 1e-300))[:, both],
                (joint[w] / np.maximum(before[w], 1e-300))[:, both],
                atol=1e-9,
            )


@pytest.mark.representatives("V3L3")
@pytest.mark.parametrize("kind", [enumeration.Masked, enumeration.Uniform])
@pytest.mark.parametrize("toy", ["V3L3", "V5L2"])
def test_d3pm_bound_is_the_enumerated_one_and_falls_to_the_entropy_like_one_over_T(toy, kind, x64):
    toy, gaps = Toy.named(toy), []
    for T in (1, 2, 4, 16, 64):
        kernels = {"kernel": Uniform()} if kind is enumeration.Uniform else {}
        process = D3PM(toy.vocab_size, **kernels, schedule=ReciprocalBetas(), num_steps=T)
        total = over_time(toy, process)
        np.testing.assert_allclose(total, kind(toy).d3pm_bound(T), atol=1e-9)
        gaps.append(float(toy.p @ np.asarray(total)) - toy.entropy)
    assert (np.diff(gaps) < 0).all() and 0 < gaps[-1] < 0.03
    assert 3.4 < gaps[-2] / gaps[-1] < 4.6


# The schedule and the head of another, which the bounds above and tests/test_schedules.py check.
NOISED_ALIKE = (
    "mdlm-cosine", "mdlm-mdlm_cosine", "mdlm-polynomial", "mdlm-eps", "mdlm-T4",
    "mdlm-T4-alpha_alone", "sedd-absorbing-scaled", "sedd-absorbing-denoiser",
    "sedd-absorbing-geometric", "sedd-uniform-denoiser", "udlm-posterior", "genmd4",
    "d3pm-absorbing-cosine", "d3pm-uniform-posterior", "d3pm-uniform-mi", "gidd-steep", "spindle-T6",
)  # fmt: skip


@pytest.mark.representatives(
    "mdlm-squeezed", "d3pm-matrix", "genmd4-power", "sedd-uniform-geo", "spindle-cut"
)
@rows([name for name in ALL if name not in NOISED_ALIKE])
def test_corrupt_bridge_and_prior_follow_their_exact_distributions(name):
    toy, process = toy_and(name)
    many, S, V = 40_000, process.num_states, toy.vocab_size
    T = getattr(process, "num_steps", None)
    x0 = jnp.asarray(np.tile([0, V - 1], (many // 2, 1)))
    states = jnp.tile(jnp.arange(S)[:, None], (1, 2))

    def marginal(t):  # (2, S): of positions with tokens 0 and V - 1
        log_q = process.log_likelihood(states, jnp.full((S, 1), t))
        return np.exp(np.stack([log_q[:, 0, 0], log_q[:, 1, V - 1]]))

    def counts(z):
        return np.stack([np.bincount(column, minlength=S) for column in np.asarray(z).T])

    pairs = [(0.75, 0.25), (1.0, 0.5)] if T is None else [(k / T, (k - 1) / T) for k in (1, T)]
    pairs += [(1.0, 1 / T)] if T else []
    for number, (t, s) in enumerate(pairs):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(3), number))
        now, then = (jnp.full((len(x0), 1), u) for u in (t, s))
        z = process.corrupt(keys[0], x0, now)
        z_s = process.bridge(keys[1], x0, z, now, then)
        for position in (0, 1):
            assert_distribution(counts(z)[position], marginal(t)[position], bias=1e-6)
            assert_distribution(counts(z_s)[position], marginal(s)[position], bias=1e-6)
        one_hot = log_one_hot(jnp.tile(jnp.array([0, V - 1]), (S, 1)), V)
        distribution = process.log_posterior(
            one_hot, states, *(jnp.full((S, 1), u) for u in (t, s))
        )
        for position in (0, 1):
            for value in range(S):
                chosen = np.asarray(z_s)[np.asarray(z)[:, position] == value, position]
                if len(chosen) > 200:
                    drawn = np.bincount(chosen, minlength=S)
                    assert_distribution(
                        drawn, np.exp(np.asarray(distribution))[value, position], bias=1e-6
                    )
    z = process.prior(jax.random.key(4), (many, 2))
    last = np.exp(process.log_likelihood(states, jnp.ones((S, 1))))[:, 0] @ of_prior(process)
    assert_distribution(counts(z).sum(0), last, bias=1e-6)


@rows(ALL)
def test_log_posterior_and_ratio_are_those_of_the_enumerated_marginals(name, x64):
    toy, process = toy_and(name)
    z = jnp.asarray(toy.all_states(process))
    T = getattr(process, "num_steps", None) or 5
    t, s = jnp.full((len(z), 1), 3 / T), jnp.full((len(z), 1), 1 / T)
    out = toy.denoiser(process)(z, t)
    now, then = (toy.transition(process, z, u).T @ toy.p for u in (t, s))
    possible = np.asarray(now) > 1e-12
    # A revealed token of an absorbing process is never left: there the ratio is the process's to define.
    absorbing = process.known_tokens == "exact"
    free = np.asarray(z) == toy.vocab_size if absorbing else np.asarray(z) >= 0
    ratio = np.exp(process.log_ratio(out, z, t))
    index = {tuple(state): row for row, state in enumerate(np.asarray(z))}
    # Revealed tokens of "d3pm-masked" move, while its masks say nothing of the ratio.
    if name != "d3pm-masked":
        for row in np.flatnonzero(possible):
            for i in np.flatnonzero(free[row]):
                state = list(np.asarray(z)[row])
                exact = [
                    now[index[(*state[:i], v, *state[i + 1 :])]] / now[row]
                    for v in range(process.num_states)
                ]
                np.testing.assert_allclose(ratio[row, i], exact, rtol=1e-6, atol=1e-9)
    posterior = np.exp(process.log_posterior(process.predict(out, z, t), z, t, s))
    np.testing.assert_allclose(posterior[possible].sum(-1), 1, rtol=1e-9)
    # Averaged over the exact p(z_t), it gives each position's exact p(z_s).
    distribution = np.einsum("z,zls->ls", np.asarray(now)[possible], posterior[possible])
    exact = np.stack(
        [np.bincount(np.asarray(z)[:, i], then, process.num_states) for i in range(toy.length)]
    )
    np.testing.assert_allclose(distribution, exact, atol=1e-9)


@pytest.mark.parametrize(
    ("process", "setting"),
    [
        (MDLM(), "MDLM.vocab_size"),
        (GenMD4(), "GenMD4.vocab_size"),
        (BFN(), "BFN.vocab_size"),
        (Plaid(), "Plaid.vocab_size"),
        (ARDiffusion(), "ARDiffusion.vocab_size"),
        (Difformer(), "Difformer.vocab_size"),
        (FLM(), "FLM.vocab_size"),
        (
            D3PM(kernel=Uniform(), schedule=MutualInformation(), vocab_size=3),
            "MutualInformation.unigram",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_data_fills_in_is_named_where_it_is_missing(process, setting):
    with pytest.raises(ValueError, match=f"{setting} = None is filled in when the data is read"):
        process.prior(jax.random.key(0), (2, 3))


def test_a_student_without_its_teacher_says_so():
    student = OneStep(replace(OneStep().base, vocab_size=3))
    with pytest.raises(ValueError, match="no teacher"):
        student.loss(jax.random.key(0), lambda z, t: z, jnp.zeros((2, 3), int), jnp.ones((2, 1)))


def test_denoising_process_is_the_process_with_noisy_states():
    assert denoising_process(MDLM()) == MDLM()
    assert denoising_process(BlockDiffusion(UDLM())) == UDLM()
    assert denoising_process(NoisyClassifier(MDLM())) == MDLM()
    with pytest.raises(ValueError, match="Autoregressive has no noisy states"):
        denoising_process(Autoregressive())
