"""The distribution q of one position, which a process is built on: in closed form, or by T matrices.

A chain gives draws of z_t given x0 and of the bridge, and the logarithms of rows and columns of q.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from diffusion.kernels import ClosedKernel, Keep
from diffusion.numerics import log_divide, log_one_hot, logaddexp
from diffusion.random import categorical, split
from diffusion.schedules import Schedule


class Chain(ABC):
    """The distribution of one position, on S states of which the first V are the tokens."""

    num_states: int
    """S."""

    @abstractmethod
    def draw_prior(self, key: Array, shape: tuple[int, int]) -> Array:
        """z_1, (B, L), from p(z_1): the mean of q(z_1 | x) over all tokens x. Where a schedule leaves
        something of the data at t = 1, that share of the positions holds a uniformly drawn token, or
        one that is drawn as noise draws it (`Redrawing`)."""

    @abstractmethod
    def draw_marginal(self, key: Array, x: Array, t: Array) -> Array:
        """z_t ~ q(z_t | x), (B, L)."""

    @abstractmethod
    def draw_bridge(self, key: Array, x: Array, z: Array, t: Array, s: Array) -> Array:
        """z_s ~ q(z_s | z_t = z, x), (B, L)."""

    @abstractmethod
    def log_marginal(self, x: Array, t: Array) -> Array:
        """(B, L, S): log q(z_t = j | x)."""

    @abstractmethod
    def log_mix(self, log_weights: Array, t: Array) -> Array:
        """(B, L, S): log sum_x w_x q(z_t = j | x), from log w, (B, L, V) or (B, L, S)."""

    @abstractmethod
    def log_likelihood(self, z: Array, t: Array) -> Array:
        """(B, L, V): log q(z_t = z | x = v)."""

    @abstractmethod
    def log_step(self, z: Array, t: Array, s: Array) -> Array:
        """(B, L, S): log q(z_t = z | z_s = j)."""

    @abstractmethod
    def prior_divergence(self, x: Array, dtype: DTypeLike) -> Array | None:
        """KL(q(z_1 | x) || p(z_1)), (B, L) nats; None where it is exactly 0."""


@dataclass(frozen=True)
class Interpolation(Chain):
    """The distribution of a process with a closed kernel: how q moves between the times of its schedule.

    kernel: where a token that is not kept goes. vocab_size: V. keep: keep(t) gives alpha at t, (B, 1) or
    (B, L). step: step(t, s) gives alpha(t) / alpha(s), of which log_move has all its digits however
    close the times are: log_keep alone tells them apart no better than alpha.
    """

    kernel: ClosedKernel
    vocab_size: int
    keep: Callable[[Array], Keep]
    step: Callable[[Array, Array], Keep]

    @property
    def num_states(self) -> int:
        """S of the kernel: V, or V + 1 with the mask."""
        return self.kernel.num_states(self.vocab_size)

    def draw_prior(self, key: Array, shape: tuple[int, int]) -> Array:
        key_kept, key_token = split(key)
        token = self.kernel.draw_token(key_token, shape, self.vocab_size)
        return self.kernel.draw(key_kept, token, self._at_1(), self.vocab_size)

    def draw_marginal(self, key: Array, x: Array, t: Array) -> Array:
        return self.kernel.draw(key, x, self.keep(t), self.vocab_size)

    def draw_step(self, key: Array, z: Array, t: Array, s: Array) -> Array:
        """z_t ~ q(z_t | z_s = z), (B, L): noise from s up to t."""
        moved = self.kernel.draw(key, z, self.step(t, s), self.vocab_size)
        return jnp.where(t > s, moved, z)

    def draw_bridge(self, key: Array, x: Array, z: Array, t: Array, s: Array) -> Array:
        now, then, step = self.keep(t), self.keep(s), self.step(t, s)
        return self.kernel.draw_bridge(key, x, z, now, then, step, self.vocab_size)

    def log_marginal(self, x: Array, t: Array) -> Array:
        return self.log_mix(log_one_hot(x, self.num_states), t)

    def log_mix(self, log_weights: Array, t: Array) -> Array:
        keep = self.keep(t)
        missing = self.num_states - log_weights.shape[-1]
        padded = jnp.pad(log_weights, ((0, 0), (0, 0), (0, missing)), constant_values=-jnp.inf)
        total = jax.nn.logsumexp(log_weights, axis=-1, keepdims=True)
        stationary = self.kernel.log_stationary(self.vocab_size)[None, None].astype(total.dtype)
        moved = keep.log_move[..., None] + total + stationary
        return logaddexp(keep.log_keep[..., None] + padded, moved)

    def log_likelihood(self, z: Array, t: Array) -> Array:
        return self._column(z, self.keep(t), self.vocab_size)

    def log_step(self, z: Array, t: Array, s: Array) -> Array:
        return self._column(z, self.step(t, s), self.num_states)

    def prior_divergence(self, x: Array, dtype: DTypeLike) -> Array | None:
        with jax.ensure_compile_time_eval():
            keep, move = (math.exp(a[0, 0]) for a in self._at_1())
        if keep == 0:
            return None
        value = np.maximum(self.kernel.prior_divergence(keep, move, self.vocab_size), 0)
        return jnp.asarray(np.broadcast_to(value, self.vocab_size), dtype)[x]

    def _at_1(self) -> Keep:
        return self.keep(jnp.ones((1, 1)))

    def _column(self, z, keep, size):
        stationary = self.kernel.log_stationary(self.vocab_size)[z].astype(keep.log_move.dtype)
        moved = keep.log_move + stationary
        return logaddexp(keep.log_keep[..., None] + log_one_hot(z, size), moved[..., None])


def interpolation(kernel: ClosedKernel, vocab_size: int, schedule: Schedule) -> Interpolation:
    """The distribution of a kernel in continuous time, alpha(t) from the schedule."""

    def keep(t):
        return Keep(schedule.log_alpha(t), schedule.log1m_alpha(t))

    def step(t, s):
        s = jnp.minimum(s, t)
        kept = log_divide(schedule.log_alpha(t), schedule.log_alpha(s))
        moved = log_divide(schedule.log_drop(t, s), schedule.log_alpha(s))
        return Keep(jnp.minimum(kept, 0), jnp.minimum(moved, 0))

    return Interpolation(kernel, vocab_size, keep, step)


class DenseChain(Chain):
    """The distribution of T one-step matrices (T, S, S): a `Chain` at times k / T."""

    def __init__(self, steps: np.ndarray, vocab_size: int):
        self.num_steps, self.num_states = steps.shape[:2]
        self.vocab_size = vocab_size
        products = [np.eye(self.num_states)]
        for step in steps:
            products.append(products[-1] @ step)
        self._product = np.stack(products)  # Qbar, (T + 1, S, S)
        self._step = np.concatenate([np.eye(self.num_states)[None], steps])  # Q_k at k = 1..T
        self._prior = self._product[-1, :vocab_size].mean(0)

    def draw_prior(self, key: Array, shape: tuple[int, int]) -> Array:
        with np.errstate(divide="ignore"):
            log_p = jnp.log(jnp.asarray(self._prior))
        return categorical(key, jnp.broadcast_to(log_p, (*shape, self.num_states)))

    def draw_marginal(self, key: Array, x: Array, t: Array) -> Array:
        return categorical(key, self.log_marginal(x, t))

    def draw_bridge(self, key: Array, x: Array, z: Array, t: Array, s: Array) -> Array:
        return categorical(key, self.log_step(z, t, s) + self.log_marginal(x, s))

    def log_marginal(self, x: Array, t: Array) -> Array:
        return jnp.log(jnp.asarray(self._product)[self._index(t), x])

    def log_likelihood(self, z: Array, t: Array) -> Array:
        columns = jnp.asarray(self._product.transpose(0, 2, 1))
        return jnp.log(columns[self._index(t), z])[..., : self.vocab_size]

    def log_mix(self, log_weights: Array, t: Array) -> Array:
        k = self._index(t)
        k = jnp.broadcast_to(k, (log_weights.shape[0], k.shape[1]))
        rows = jnp.asarray(self._product)[k, : log_weights.shape[-1]]  # (B, 1 or L, V, S)
        top = jax.lax.stop_gradient(log_weights.max(-1, keepdims=True))
        weights = jnp.exp(log_weights - top)
        if k.shape[1] == 1:
            mixed = jnp.einsum("blv,bvs->bls", weights, rows[:, 0], precision="highest")
        else:
            mixed = jnp.einsum("blv,blvs->bls", weights, rows, precision="highest")
        possible = mixed > 0
        return jnp.where(possible, jnp.log(jnp.where(possible, mixed, 1)), -jnp.inf) + top

    def log_step(self, z: Array, t: Array, s: Array) -> Array:
        now, then = (self._index(x) for x in (t, s))
        now, then = (jnp.broadcast_to(k, (z.shape[0], k.shape[1])) for k in (now, then))
        step, identity = jnp.asarray(self._step), jnp.eye(self.num_states)
        column = jnp.where(
            (now > then)[..., None], step.transpose(0, 2, 1)[now, z], identity.astype(step.dtype)[z]
        )

        def back(state):  # through one step more, in the rows that have further to go
            n, column = state
            earlier = jnp.einsum(
                "bls,bkis->bli" if now.shape[1] == 1 else "bls,blis->bli",
                column,
                step[jnp.maximum(now - n, 0)],
                precision="highest",
            )
            return n + 1, jnp.where((now - n > then)[..., None], earlier, column)

        most = (now - then).max()
        _, column = jax.lax.while_loop(lambda state: state[0] < most, back, (1, column))
        return jnp.log(column)

    def prior_divergence(self, x: Array, dtype: DTypeLike) -> Array | None:
        last = self._product[-1, : self.vocab_size]
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(last > 0, last * np.log(last / self._prior), 0)
        value = np.maximum(terms.sum(1), 0)
        return None if (value == 0).all() else jnp.asarray(value, dtype)[x]

    def _index(self, t: Array) -> Array:
        return jnp.round(t * self.num_steps).astype(jnp.int32)
