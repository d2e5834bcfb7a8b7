"""The four losses of RADD: one number in the mean, by enumeration of all masks of a text."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import OneText, quadrature

from configs.sotu import radd as config
from diffusion.block import BlockDiffusion
from diffusion.mdlm import MDLM
from diffusion.numerics import gather_last
from diffusion.radd import RADD
from diffusion.schedules import Cosine, Linear
from diffusion.sedd import SEDD
from experiments.time_weights.tempered import Tempered

V, L = 3, 3
X0 = jnp.array([[2, 0, 1]])
# A network that is wrong: of the right one the losses would be equal for other reasons.
OUT = np.random.default_rng(0).normal(size=(V + 1, V + 1, V + 1, L, V))
MASKED = np.array(list(product([False, True], repeat=L)))  # every set of masks, (2^L, L)


@OneText
def network(z, t):
    return jnp.asarray(OUT)[z[:, 0], z[:, 1], z[:, 2]]


def over_time(process):
    """The integral over t of the mean loss, with the exact probability of each set of masks."""
    z = jnp.where(MASKED, V, X0)
    x0 = jnp.broadcast_to(X0, z.shape)

    @jax.jit
    def at(t):
        t = jnp.full((len(z), 1), t)
        q = jnp.exp(gather_last(process.log_likelihood(z, t), x0).sum(1))
        return (q * process.token_loss(network(z, t), x0, z, t).sum(1)).sum()

    return sum(w * float(at(t)) for t, w in zip(*quadrature(60), strict=True))


def by_counts():
    """The mean over k, and all sets of k masks, of L / k times their nats, in numpy."""
    out = OUT[tuple(np.where(MASKED, V, X0).T)]
    log_p = out - np.log(np.exp(out).sum(-1, keepdims=True))
    nats = -(np.take_along_axis(log_p, np.tile(X0, (8, 1))[..., None], 2)[..., 0] * MASKED).sum(1)
    return np.mean([L / k * nats[MASKED.sum(1) == k].mean() for k in (1, 2, 3)])


def test_the_losses_are_equal_in_the_mean(x64):
    score_entropy = SEDD(V, schedule=Cosine(), head="leave_one_out")
    for process in (MDLM(V, Cosine()), MDLM(V, Linear()), score_entropy):
        assert over_time(process) == pytest.approx(by_counts(), rel=2e-5)


def losses(objective, rows=20_000):
    """(rows,): nats of the text, each with noise of its own."""
    process, u = RADD(V, Cosine(), objective=objective), (jnp.arange(rows)[:, None] + 0.5) / rows
    x0, keys = jnp.tile(X0, (rows, 1)), jax.random.split(jax.random.key(0), rows)
    return np.asarray(jax.jit(lambda: process.loss(keys, network, x0, u).sum(1))())


def test_each_is_drawn_with_that_mean_and_a_number_of_masks_has_the_least_noise():
    drawn = {name: losses(name) for name in ("t_dce", "lambda_dce", "k_dce")}
    for nats in drawn.values():
        assert abs(nats.mean() - by_counts()) < 5 * nats.std() / len(nats) ** 0.5
    assert drawn["k_dce"].std() < 0.7 * min(drawn["t_dce"].std(), drawn["lambda_dce"].std())


def test_score_entropy_and_cross_entropy_are_one_for_every_noisy_state():
    x0, u = jnp.tile(X0, (64, 1)), (jnp.arange(64)[:, None] + 0.5) / 64
    others = SEDD(V, schedule=Cosine(), head="leave_one_out"), RADD(V, Cosine(), objective="t_dce")
    ours = RADD(V, Cosine(), objective="t_dse").loss(jax.random.key(0), network, x0, u)
    for process in others:
        np.testing.assert_allclose(process.loss(jax.random.key(0), network, x0, u), ours, rtol=2e-4)


def test_lambda_is_the_probability_of_a_mask_and_its_weight_the_inverse():
    rows = 4000
    x0, u = jnp.tile(X0, (rows, 1)), jnp.full((rows, 1), 0.3)
    nobody = OneText(lambda z, t: jnp.zeros((*z.shape, V)))
    loss = RADD(V, Cosine(), objective="lambda_dce").loss(jax.random.key(0), nobody, x0, u)
    masked = np.asarray(loss) > 0
    np.testing.assert_allclose(loss[masked], np.log(V) / 0.3, rtol=1e-5)
    assert abs(masked.mean() - 0.3) < 5 * np.sqrt(0.21 / masked.size)


@pytest.mark.parametrize("objective", ["lambda_dce", "k_dce"])
def test_the_gradient_is_a_number_and_the_bound_that_of_mdlm(objective):
    process, x0, u = RADD(V, Cosine(), objective=objective), X0, jnp.full((1, 1), 0.4)
    key = jax.random.key(2)

    def loss(scale):
        return process.loss(key, OneText(lambda z, t: scale * network(z, t)), x0, u).sum()

    gradient = jax.grad(loss)(1.0)
    assert np.isfinite(gradient) and gradient != 0
    want = MDLM(V, Cosine()).bound_terms(key, network, x0, u)["diffusion"]
    np.testing.assert_array_equal(process.bound_terms(key, network, x0, u)["diffusion"], want)


CONFIG = config.get_config()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: replace(RADD(), objective="elbo"), "RADD.objective = 'elbo' is not one of t_dse"),
        (lambda: RADD(num_steps=8), "RADD.num_steps = 8"),
        (
            lambda: replace(CONFIG, model=replace(CONFIG.model, time_conditioning=True)),
            "model.time_conditioning = True, but the network of RADD",
        ),
        (
            lambda: replace(CONFIG, train=replace(CONFIG.train, time_weight=Tempered())),
            "Tempered: RADD is trained with a loss of its own.*use AsBound",
        ),
        (lambda: BlockDiffusion(RADD()), r"BlockDiffusion.base = RADD"),
    ],
)
def test_what_cannot_be_is_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()
