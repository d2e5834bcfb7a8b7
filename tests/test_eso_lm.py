"""Eso-LM: its bound and the distribution of its sampler by enumeration, and its two ends."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import OneText, assert_distribution, quadrature

from configs.sotu import eso_lm as config
from diffusion.eso_lm import EsoLM
from diffusion.mdlm import MDLM
from diffusion.radd import RADD
from diffusion.schedules import Cosine, Linear
from diffusion.udlm import UDLM
from experiments.time_weights.tempered import Tempered
from samplers.two_phase import TwoPhase

ROWS = 20_000


def left_to_right(log_p0, z, x0, mask):
    """-log p of the masks of z, revealed one by one from the left as x0, (N,); log_p0(z) (N, L, V)."""
    z, total = z.copy(), np.zeros(len(z))
    for i in range(z.shape[1]):
        nats = -np.take_along_axis(log_p0(z)[:, i], x0[:, i, None], 1)[:, 0]
        total += np.where(z[:, i] == mask, nats, 0)
        z[:, i] = x0[:, i]
    return total


def enumerated(table, network, alpha_0):
    """The bound of every text of the toy, (N,): the integral over time and the sum over what is left."""
    toy, mask = table.toy, table.size
    looked_up = np.array(network(jnp.asarray(table.states), None), np.float64)
    looked_up -= np.log(np.exp(looked_up).sum(-1, keepdims=True))
    masks = np.array(list(product([False, True], repeat=table.length)))
    total = np.zeros(len(toy.p))
    for chosen in masks:
        z = np.where(chosen, mask, toy.states)
        nats = np.take_along_axis(looked_up[z @ table.base], toy.states[..., None], 2)[..., 0]
        masked, count, kept = -(nats * chosen).sum(1), chosen.sum(), (~chosen).sum()
        # In lambda = 1 - alpha the weight of the bound is 1 / lambda.
        for share, weight in zip(*quadrature(80), strict=True):
            share = 1 - alpha_0 * (1 - share)
            total += weight * alpha_0 / share * share**count * (1 - share) ** kept * masked
        chance = (1 - alpha_0) ** count * alpha_0**kept
        total += chance * left_to_right(lambda z: looked_up[z @ table.base], z, toy.states, mask)
    return total


def wrong(z, t):
    """A network that is no consistent model: its parts depend on alpha_0."""
    return jnp.asarray(OUT)[z[:, 0], z[:, 1], z[:, 2]]


OUT = 2 * np.random.default_rng(0).normal(size=(4, 4, 4, 3, 3))


@pytest.mark.parametrize("alpha_0", [0.0, 0.4, 1.0])
def test_the_bound_is_the_enumerated_one_and_tight_for_the_exact_denoiser(table, alpha_0, x64):
    process, toy = EsoLM(MDLM(3, Cosine()), alpha_0), table.toy
    exact = OneText(lambda z, t: jnp.asarray(table.log_p0)[(z * table.base[None]).sum(-1)])
    np.testing.assert_allclose(
        enumerated(table, exact, alpha_0), toy.neg_logp, atol=1e-6
    )  # so their mean is the entropy
    u = (jnp.arange(ROWS)[:, None] + 0.5) / ROWS
    keys = jax.random.split(jax.random.key(0), ROWS)
    for network in (exact, OneText(wrong)):
        want = enumerated(table, network, alpha_0)
        bound = jax.jit(lambda x0, n=network: process.bound(keys, n, x0, u).sum(1))
        for number in (0, 5, 20):
            nats = np.asarray(
                bound(jnp.tile(jnp.asarray(toy.states[number : number + 1]), (ROWS, 1)))
            )
            assert abs(nats.mean() - want[number]) < 5 * nats.std() / ROWS**0.5


def test_all_by_diffusion_is_the_base_number_by_number():
    x0 = jax.random.randint(jax.random.key(0), (40, 3), 0, 3)
    u, key = (jnp.arange(40)[:, None] + 0.5) / 40, jax.random.key(1)
    base = MDLM(3, Cosine())
    got = EsoLM(base, 1.0).bound_terms(key, OneText(wrong), x0, u)
    np.testing.assert_allclose(got["diffusion"], base.loss(key, OneText(wrong), x0, u), rtol=1e-6)
    assert not got["left to right"].any()


def test_nothing_by_diffusion_is_the_likelihood_from_left_to_right():
    """At three places evenly spread it is the sum over the three tokens."""
    x0, base = jnp.array([[2, 0, 1]]), MDLM(3)
    u = jnp.array([[1 / 6], [3 / 6], [5 / 6]])
    terms = EsoLM(base, 0.0).bound_terms(jax.random.key(0), OneText(wrong), jnp.tile(x0, (3, 1)), u)
    want = left_to_right(
        lambda z: np.array(jax.nn.log_softmax(wrong(jnp.asarray(z), None))),
        np.full((1, 3), 3),
        np.array(x0),
        3,
    )
    each = np.asarray(terms["left to right"])
    assert ((each != 0) == np.eye(3, dtype=bool)).all() and not terms["diffusion"].any()
    np.testing.assert_allclose(each.sum() / 3, want[0], rtol=1e-5)


def after_both(table, shares):
    """The distribution of the texts after ancestral steps by the shares of masks, then from the left."""
    states, mask = table.states, table.size
    found = table.masked.states_after(shares)
    total = np.zeros(len(table.toy.p))
    for n, x0 in enumerate(table.toy.states):
        agrees = ((states == x0) | (states == mask)).all(1)
        nats = left_to_right(
            lambda z: table.log_p0[z @ table.base],
            states[agrees],
            np.tile(x0, (agrees.sum(), 1)),
            mask,
        )
        total[n] = found[agrees] @ np.exp(-nats)
    return total


@pytest.mark.parametrize("alpha_0", [0.0, 0.6, 1.0])
def test_samples_follow_two_steps_and_then_the_order_of_the_text(table, alpha_0):
    process = EsoLM(MDLM(3), alpha_0)
    counts, calls = table.counts(TwoPhase(steps=2), process)
    shares = np.linspace(1, 1 - alpha_0, 3)
    assert_distribution(counts, after_both(table, shares))
    most = {0.0: 3, 0.6: 5, 1.0: 2}[alpha_0]
    assert calls.max() == most and calls.min() >= min(most, 1)
    plain, _ = table.counts(TwoPhase(steps=2, alpha_0=alpha_0), MDLM(3))
    np.testing.assert_array_equal(plain, counts)


def test_given_tokens_stay_and_the_rest_is_their_conditional_distribution(table):
    counts, _ = table.counts(TwoPhase(steps=1), EsoLM(MDLM(3), 0.0), known=[-1, 2, -1])
    expected = np.where(table.toy.states[:, 1] == 2, table.toy.p, 0)
    assert_distribution(counts, expected / expected.sum())


CONFIG = config.get_config()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: EsoLM(alpha_0=1.5), r"EsoLM.alpha_0 = 1.5 is outside \[0, 1\]"),
        (lambda: TwoPhase(alpha_0=-0.1), r"TwoPhase.alpha_0 = -0.1 is outside \[0, 1\]"),
        (lambda: TwoPhase(grid="fitted"), "TwoPhase.grid = 'fitted' is not 'uniform' or 'cosine'"),
        (lambda: EsoLM(MDLM(num_steps=4)), "EsoLM.base = MDLM is not MDLM in continuous time"),
        (
            lambda: EsoLM(RADD()),
            "EsoLM.base = RADD is not MDLM in continuous time, with its own loss",
        ),
        (lambda: replace(EsoLM(), base=UDLM()), "EsoLM.base = UDLM"),
        (lambda: EsoLM(MDLM(schedule=Linear(1e-3))), "has no exact ends; leave its eps out"),
        (
            lambda: replace(CONFIG, train=replace(CONFIG.train, time_weight=Tempered())),
            "EsoLM is not a masked process in continuous time",
        ),
    ],
)
def test_what_cannot_be_is_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()
