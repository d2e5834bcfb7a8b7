"""GIDD against the numbers of its official code, which come with small checkpoints in its format."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN

from diffusion.gidd import GIDD
from diffusion.mdlm import MDLM

CHECKPOINTS = Path(os.environ.get("DDLM_CHECKPOINTS", GOLDEN / "checkpoints"))
CASES = pytest.mark.parametrize("name", ["gidd", "gidd_mask_only"])


def official(name):
    """(process, arrays): its tokens are those before the mask, which is the last of the states."""
    with np.load(CHECKPOINTS / name / "expected.npz", allow_pickle=False) as file:
        arrays = dict(file)
    p_uniform = json.loads((CHECKPOINTS / name / "config.json").read_text())["p_uniform"]
    return GIDD(arrays["logits"].shape[-1] - 1, p_uniform), arrays


def inputs(arrays):
    """out (B, L, V), x0, z and t of the arrays."""
    t = jnp.asarray(arrays["t"])[:, None]
    return arrays["logits"][..., :-1], arrays["x0"], arrays["input_ids"], t


@CASES
def test_noise_is_the_official_one(name):
    process, arrays = official(name)
    _, x0, z, t = inputs(arrays)
    now = process.chain.at(t)
    np.testing.assert_allclose(np.exp(now.keep)[:, 0], arrays["alpha"], rtol=1e-5)
    q = np.exp(process.chain.log_marginal(jnp.asarray(x0), t))
    kept = np.exp(now.keep)[..., None] * np.eye(process.num_states)[x0]
    # The official code never goes below p_uniform = e^-20, 2e-9.
    expected = kept + arrays["beta_pi"][:, None]
    np.testing.assert_allclose(q, expected, rtol=1e-5, atol=1e-9)
    assert (z == process.num_tokens).any() and (z == x0).any()


@CASES
def test_bound_is_the_official_one(name):
    process, arrays = official(name)
    loss = process.token_loss(*map(jnp.asarray, inputs(arrays)))
    np.testing.assert_allclose(loss, arrays["elbo"], rtol=1e-5, atol=1e-6)
    masked = arrays["input_ids"] == process.num_tokens
    assert (np.asarray(loss)[masked] > 0.1).all()


@CASES
def test_training_loss_is_the_official_one(name):
    process, arrays = official(name)
    out, x0, z, t = map(jnp.asarray, inputs(arrays))
    loss = process.token_loss(out, x0, z, t) * process.training_weight(x0, z, t)
    np.testing.assert_allclose(loss, arrays["train_loss"], rtol=1e-5, atol=1e-6)


def test_with_masks_alone_the_bound_is_that_of_mdlm(x64):
    process, arrays = official("gidd_mask_only")
    out, x0, z, t = map(jnp.asarray, inputs(arrays))
    out, t = out.astype(jnp.float64), t.astype(jnp.float64)
    z = jnp.where((z == x0) | (z == process.num_tokens), z, x0)
    mdlm = MDLM(process.num_tokens)
    own = process.token_loss(out, x0, z, t)
    np.testing.assert_allclose(own, mdlm.token_loss(out, x0, z, t), rtol=1e-10)
    assert (own > 0).any() and (own == 0).any()


def test_a_network_that_is_sure_of_the_wrong_token_has_a_gradient_with_masks_alone():
    """Of a clean token there is nothing to pay, and exp of what it would be is too large for float32."""
    process, arrays = official("gidd_mask_only")
    out, x0, z, t = map(jnp.asarray, inputs(arrays))
    sure = jnp.where(jax.nn.one_hot(x0, process.num_tokens) > 0, -60.0, 60 * jnp.abs(out))
    clean = z == x0
    loss, pull = jax.vjp(lambda out: process.token_loss(out, x0, z, t), sure)
    assert (loss[clean] == 0).all() and clean.any()
    assert jnp.isfinite(pull(jnp.ones_like(loss))[0]).all() and jnp.isfinite(loss).all()
