"""The score entropy of SEDD (arXiv 2310.16834) at one time, without cancellation.

For s_y the score (the model's ratio of the probabilities of y and z, y being z with one position set to
another state) and r_y the true ratio given x0, the entropy is sum_(y != z) Q(y, z) r_y D(log s_y / r_y)
with D(d) = exp(d) - 1 - d >= 0. Where tokens are drawn anew from pi, Q(y, z) = pi_z, and with
kappa_y = alpha / ((1 - alpha) pi_y) and g_y = 1 + kappa_y [y = x0]

    r_y = pi_y g_y / (pi_z g_z),    so that the entropy is sum_(y != z) pi_y g_y / g_z D(log s_y / r_y).

Near t = 0 kappa is 1e8 and more. The published arrangement, sum s - sum r log s + constant, then has no
correct digit in float32; here every term is formed from log s_y / r_y itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.numerics import bregman, gather_last


def absorbing_entropy(log_s: Array, x0: Array, masked: Array, log_odds: Array) -> Array:
    """(B, L) nats from log s (B, L, V) of masked positions; log_odds (B, 1): log alpha / (1 - alpha)."""
    others = jnp.where(_one_hot(x0, log_s), 0, jnp.exp(log_s)).sum(-1)
    of_x0 = jnp.exp(log_odds) * bregman(gather_last(log_s, x0) - log_odds)
    return jnp.where(masked, others + of_x0, 0)


class Redrawn(NamedTuple):
    """Noise at one time by which tokens are drawn anew from pi: log_kappa (B, 1, V), at most 80 in size,
    and log_pi (1, 1, V); or 1 in the place of V where pi is one number for all tokens."""

    log_kappa: Array
    log_pi: Array


def redrawn(log_odds: Array, log_pi: Array) -> Redrawn:
    """The noise of log_odds (B, 1), log alpha / (1 - alpha), towards log_pi (V,) or (1,)."""
    log_pi = log_pi.astype(log_odds.dtype)[None, None]
    return Redrawn(jnp.clip(log_odds[..., None] - log_pi, -80, 80), log_pi)


def redrawn_entropy(log_excess: Array, x0: Array, z: Array, noise: Redrawn) -> Array:
    """(B, L) nats from log s_y / r_y, (B, L, V)."""
    log_g = _relative(_log_g(log_excess, x0, noise), z)
    terms = jnp.exp(log_g + noise.log_pi) * bregman(log_excess)
    return jnp.where(_one_hot(z, log_excess), 0, terms).sum(-1)


def excess_of_score(log_s: Array, x0: Array, z: Array, noise: Redrawn) -> Array:
    """log s_y / r_y, (B, L, V), of a free score."""
    log_pi = jnp.broadcast_to(noise.log_pi, log_s.shape)
    return log_s - _relative(log_pi, z) - _relative(_log_g(log_s, x0, noise), z)


def excess_of_distribution(log_c: Array, x0: Array, z: Array, noise: Redrawn) -> Array:
    """log s_y / r_y, (B, L, V), for s_y = pi_y (1 + kappa_y c_y) / (pi_z (1 + kappa_z c_z)), c
    leave-one-out."""
    gain = jax.nn.softplus(noise.log_kappa + log_c)  # log (1 + kappa c)
    return _relative(gain - _log_g(log_c, x0, noise), z)


def _log_g(like: Array, x0: Array, noise: Redrawn) -> Array:
    return jnp.where(_one_hot(x0, like), jax.nn.softplus(noise.log_kappa), 0)


def _relative(log_p: Array, z: Array) -> Array:
    return log_p - gather_last(log_p, z)[..., None]


def _one_hot(index: Array, like: Array) -> Array:
    return jax.nn.one_hot(index, like.shape[-1], dtype=bool)
