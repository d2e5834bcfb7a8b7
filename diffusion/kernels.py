"""Two ways to corrupt a token, in closed form: replace it by the mask, or by a uniform token.

    q(z_t | x) = alpha(t) e_x + (1 - alpha(t)) pi        pi = e_mask or 1 / V

A token is kept with probability alpha(t), else drawn from pi. The same holds from s to t with
alpha(t) / alpha(s), and Bayes gives the bridge

    q(z_s = j | z_t = z, x) = q(z_t = z | z_s = j) q(z_s = j | x) / q(z_t = z | x).

Nothing here is S x S: a draw costs a few numbers per position whatever the vocabulary, and the
functions named log_* give rows of S states. Sources: D3PM (arXiv 2107.03006), SEDD (arXiv 2310.16834).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.numerics import minus
from diffusion.random import split, uniform


class Keep(NamedTuple):
    """log alpha and log(1 - alpha), each of rank 2: (B, 1) or (B, L)."""

    log_keep: Array
    log_move: Array


@dataclass(frozen=True)
class Absorbing:
    """Tokens become the mask, state V, and stay it."""

    def num_states(self, vocab_size: int) -> int:
        return vocab_size + 1

    def log_stationary(self, vocab_size: int) -> Array:
        """(S,) log pi."""
        return jnp.where(jnp.arange(vocab_size + 1) == vocab_size, 0.0, -jnp.inf)

    def draw(self, key: Array, x: Array, keep: Keep, vocab_size: int) -> Array:
        """z_t ~ q(z_t | x), (B, L)."""
        moved = jnp.log(uniform(key, x.shape, keep.log_move.dtype)) < keep.log_move
        return jnp.where(moved, vocab_size, x)

    def draw_bridge(self, key: Array, x, z, t: Keep, s: Keep, step: Keep, vocab_size: int) -> Array:
        """z_s ~ q(z_s | z_t, x): reveals a mask with probability (alpha_s - alpha_t) / (1 - alpha_t)."""
        # The odds of being revealed: alpha_s - alpha_t, which is a product, against 1 - alpha_s.
        reveal = jax.nn.sigmoid(minus(s.log_keep + step.log_move, s.log_move))
        reveal = uniform(key, z.shape, reveal.dtype) < reveal
        return jnp.where((z == vocab_size) & reveal, x, z)


@dataclass(frozen=True)
class Uniform:
    """Tokens are drawn anew from all V, their old value included; there is no mask."""

    def num_states(self, vocab_size: int) -> int:
        return vocab_size

    def log_stationary(self, vocab_size: int) -> Array:
        """(S,) log pi."""
        return jnp.full(vocab_size, -jnp.log(vocab_size))

    def draw(self, key: Array, x: Array, keep: Keep, vocab_size: int) -> Array:
        """z_t ~ q(z_t | x), (B, L)."""
        key_move, key_token = split(key)
        moved = jnp.log(uniform(key_move, x.shape, keep.log_move.dtype)) < keep.log_move
        return jnp.where(moved, draw_token(key_token, x.shape, vocab_size), x)

    def draw_bridge(self, key: Array, x, z, t: Keep, s: Keep, step: Keep, vocab_size: int) -> Array:
        """z_s ~ q(z_s | z_t, x) in O(1).

        (a e_z + (1 - a) / V) (alpha_s e_x + (1 - alpha_s) / V) with a = alpha_t / alpha_s is the
        mixture: z_s = z, z_s = x, or any token.
        """
        key_which, key_token = split(key)
        low = -jnp.log(vocab_size)
        both = jnp.where(x == z, step.log_keep + s.log_keep, -jnp.inf)
        old = jnp.logaddexp(step.log_keep + s.log_move + low, both)
        clean = jnp.broadcast_to(step.log_move + low + s.log_keep, z.shape)
        other = jnp.broadcast_to(step.log_move + low + s.log_move, z.shape)
        weights = jax.nn.softmax(jnp.stack([other, clean, old], -1), axis=-1)
        u = uniform(key_which, z.shape, weights.dtype)
        token = draw_token(key_token, z.shape, vocab_size)
        is_clean = u < weights[..., 0] + weights[..., 1]
        return jnp.where(u < weights[..., 0], token, jnp.where(is_clean, x, z))


def draw_token(key: Array, shape: tuple[int, ...], vocab_size: int) -> Array:
    """Tokens of `shape`, uniform over 0..V-1, int32."""
    return (uniform(key, shape) * vocab_size).astype(jnp.int32)
