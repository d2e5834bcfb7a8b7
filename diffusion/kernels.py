"""Two ways to corrupt a token, in closed form: replace it by the mask, or by a uniform token.

    q(z_t | x) = alpha(t) e_x + (1 - alpha(t)) pi        pi = e_mask or 1 / V

A token is kept with probability alpha(t), else drawn from pi. The same holds from s to t with
alpha(t) / alpha(s), and Bayes gives the bridge

    q(z_s = j | z_t = z, x) = q(z_t = z | z_s = j) q(z_s = j | x) / q(z_t = z | x).

Nothing here is S x S: a draw costs a few numbers per position whatever the vocabulary, and the
functions named log_* give rows of S states. Sources: D3PM (arXiv 2107.03006), SEDD (arXiv 2310.16834).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.numerics import at, log1mexp, minus
from diffusion.random import split, uniform
from diffusion.schedules import Schedule


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
        reveal = -jnp.expm1(s.log_move - t.log_move)
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


@dataclass(frozen=True)
class Interpolation:
    """The law of a process with a closed kernel: how q moves between the times of its schedule.

    keep(t) gives alpha at t, (B, 1) or (B, L); step(t, s) gives alpha(t) / alpha(s).
    """

    kernel: Absorbing | Uniform
    vocab_size: int
    keep: Callable[[Array], Keep]
    step: Callable[[Array, Array], Keep]

    @property
    def num_states(self) -> int:
        return self.kernel.num_states(self.vocab_size)

    def draw_prior(self, key: Array, shape: tuple[int, int]) -> Array:
        """z_1, (B, L), from the mean of q(z_1 | x) over all tokens x: where some alpha(1) > 0 is left,
        that share of the positions is a uniformly drawn token."""
        key_kept, key_token = split(key)
        token = draw_token(key_token, shape, self.vocab_size)
        return self.kernel.draw(key_kept, token, self._at_1(), self.vocab_size)

    def draw_marginal(self, key: Array, x: Array, t: Array) -> Array:
        """z_t ~ q(z_t | x), (B, L)."""
        return self.kernel.draw(key, x, self.keep(t), self.vocab_size)

    def draw_bridge(self, key: Array, x: Array, z: Array, t: Array, s: Array) -> Array:
        """z_s ~ q(z_s | z_t, x), (B, L)."""
        now, then, step = self.keep(t), self.keep(s), self.step(t, s)
        return self.kernel.draw_bridge(key, x, z, now, then, step, self.vocab_size)

    def log_marginal(self, x: Array, t: Array) -> Array:
        """(B, L, S): log q(z_t = j | x)."""
        return self.log_mix(at(x, self.num_states), t)

    def log_mix(self, log_weights: Array, t: Array) -> Array:
        """(B, L, S): log sum_x w_x q(z_t = j | x), from log w, (B, L, V) or (B, L, S)."""
        keep = self.keep(t)
        missing = self.num_states - log_weights.shape[-1]
        padded = jnp.pad(log_weights, ((0, 0), (0, 0), (0, missing)), constant_values=-jnp.inf)
        total = jax.nn.logsumexp(log_weights, axis=-1, keepdims=True)
        stationary = self.kernel.log_stationary(self.vocab_size)[None, None].astype(total.dtype)
        moved = keep.log_move[..., None] + total + stationary
        return jnp.logaddexp(keep.log_keep[..., None] + padded, moved)

    def log_likelihood(self, z: Array, t: Array) -> Array:
        """(B, L, V): log q(z_t = z | x = v)."""
        return self._column(z, self.keep(t), self.vocab_size)

    def log_step(self, z: Array, t: Array, s: Array) -> Array:
        """(B, L, S): log q(z_t = z | z_s = j)."""
        return self._column(z, self.step(t, s), self.num_states)

    def prior_divergence(self, x: Array, dtype) -> Array | None:
        """KL(q(z_1 | x) || p(z_1)), (B, L) nats; None where it is exactly 0."""
        with jax.ensure_compile_time_eval():
            keep, move = (math.exp(a[0, 0]) for a in self._at_1())
        if keep == 0:
            return None
        V = self.vocab_size
        if isinstance(self.kernel, Absorbing):  # a token that is left costs its choice
            value = keep * math.log(V)
        else:
            same, other = keep + move / V, move / V
            value = same * math.log(same * V) + (V - 1) * other * math.log(move)
        return jnp.full(x.shape, max(value, 0.0), dtype)

    def _at_1(self) -> Keep:
        return self.keep(jnp.ones((1, 1)))

    def _column(self, z, keep, size):
        stationary = self.kernel.log_stationary(self.vocab_size)[z].astype(keep.log_move.dtype)
        moved = keep.log_move + stationary
        return jnp.logaddexp(keep.log_keep[..., None] + at(z, size), moved[..., None])


def interpolation(
    kernel: Absorbing | Uniform, vocab_size: int, schedule: Schedule
) -> Interpolation:
    """The law of a kernel in continuous time, alpha(t) from the schedule."""

    def keep(t):
        return Keep(schedule.log_alpha(t), schedule.log1m_alpha(t))

    def step(t, s):
        kept = jnp.minimum(minus(schedule.log_alpha(t), schedule.log_alpha(s)), 0)
        return Keep(kept, log1mexp(kept))

    return Interpolation(kernel, vocab_size, keep, step)
