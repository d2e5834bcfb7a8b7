"""Which tokens of a text those of a part of it are, where all ways of finding it there are alike.

A part z of m tokens, some of them masks that stand for any, is found in x of n tokens in N ways, in
order. With F[j, i] ways for z_0 .. z_j where z_j is x_i, and R[j, i] for what comes after z_j,

    F[j, i] = [z_j fits x_i] sum_(k < i) F[j - 1, k]
    R[j, i] = sum_(k > i) [z_(j+1) fits x_k] R[j + 1, k]          P(z_j is x_i) = F[j, i] R[j, i] / N

in logarithms, since N may be the binomial coefficient of n over m.
"""

import jax
import jax.numpy as jnp
from jax import Array

_NONE = -1e30  # log of no way, whose sums and differences are numbers


def places(z: Array, size: Array, x0: Array, length: Array, mask: int) -> Array:
    """P (B, L, L): of token j of z, along the second axis, how likely it is token i of x0, where all
    ways are alike; 0 for j from `size` on. z, x0: int (B, L); size, length: how many tokens of each
    count, (B, 1). Rows of z that are not found in x0 have no meaning."""
    number = jnp.arange(z.shape[1])
    fits = (z[:, :, None] == x0[:, None]) | (z == mask)[..., None]
    fits = fits & (number[None, None] < length[..., None])
    fits = jnp.moveaxis(jnp.where(fits, 0.0, _NONE), 1, 0)  # (L, B, L)
    last = number[:, None, None] == (size - 1)[None]  # (L, B, 1)

    def forward(before, fit):
        ways = fit + before
        return _before(ways), ways

    def backward(after, at):
        fit, is_last = at
        rest = jnp.where(is_last, 0.0, after)
        return _before((fit + rest)[:, ::-1])[:, ::-1], rest

    start = jnp.zeros_like(fits[0])
    _, to_here = jax.lax.scan(forward, start, fits)
    _, from_here = jax.lax.scan(backward, start, (fits, last), reverse=True)
    ways = jnp.moveaxis(to_here + from_here, 0, 1)
    there = (number[None] < size)[..., None]
    return jnp.where(there, jax.nn.softmax(ways, axis=-1), 0)


def _before(log_ways: Array) -> Array:
    """log of the sum of what stands before each place, (B, L)."""
    sums = jax.lax.cumlogsumexp(log_ways, axis=1)
    return jnp.concatenate([jnp.full_like(sums[:, :1], _NONE), sums[:, :-1]], axis=1)
