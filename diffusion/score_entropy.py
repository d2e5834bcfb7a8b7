"""The score entropy of SEDD (arXiv 2310.16834) at one time, without cancellation.

For s_y the score (the model's ratio of the probabilities of y and z, y being z with one position set to
another state) and r_y the true ratio given x0, the entropy is sum_(y != z) Q(y, z) r_y D(log s_y / r_y)
with D(d) = exp(d) - 1 - d >= 0. On the uniform graph, with kappa = V alpha / (1 - alpha),

    r_y = (1 + kappa [y = x0]) / (1 + kappa [z = x0])        Q = 1 / V.

Near t = 0 kappa is 1e8 and more. The published arrangement, sum s - sum r log s + constant, then has no
correct digit in float32; here every term is formed from log s_y / r_y itself.
"""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.numerics import bregman, gather_last


def absorbing_entropy(log_s: Array, x0: Array, masked: Array, log_odds: Array) -> Array:
    """(B, L) nats from log s (B, L, V) of masked positions; log_odds (B, 1): log alpha / (1 - alpha)."""
    others = jnp.where(_one_hot(x0, log_s), 0, jnp.exp(log_s)).sum(-1)
    of_x0 = jnp.exp(log_odds) * bregman(gather_last(log_s, x0) - log_odds)
    return jnp.where(masked, others + of_x0, 0)


def uniform_entropy(log_excess: Array, x0: Array, z: Array, log_kappa: Array) -> Array:
    """(B, L) nats from log s_y / r_y, (B, L, V); log_kappa (B, 1)."""
    log_r = _log_true_ratio(log_excess, x0, z, log_kappa)
    terms = jnp.exp(log_r) * bregman(log_excess)
    return jnp.where(_one_hot(z, log_excess), 0, terms).sum(-1) / log_excess.shape[-1]


def excess_of_score(log_s: Array, x0: Array, z: Array, log_kappa: Array) -> Array:
    """log s_y / r_y, (B, L, V), of a free score."""
    return log_s - _log_true_ratio(log_s, x0, z, log_kappa)


def excess_of_distribution(log_c: Array, x0: Array, z: Array, log_kappa: Array) -> Array:
    """log s_y / r_y, (B, L, V), for s_y = (1 + kappa c_y) / (1 + kappa c_z), c leave-one-out."""
    a = log_kappa[..., None]
    gain = jax.nn.softplus(a + log_c)  # log (1 + kappa c)
    excess = gain - jnp.where(_one_hot(x0, log_c), jax.nn.softplus(a), 0)
    return excess - gather_last(excess, z)[..., None]


def _log_true_ratio(like: Array, x0: Array, z: Array, log_kappa: Array) -> Array:
    total = jax.nn.softplus(log_kappa)[..., None]  # log (1 + kappa)
    up = jnp.where(_one_hot(x0, like), total, 0)
    return up - jnp.where((z == x0)[..., None], total, 0)


def _one_hot(index: Array, like: Array) -> Array:
    return jax.nn.one_hot(index, like.shape[-1], dtype=bool)
