"""Ways to corrupt a token in closed form: replace it by the mask, or by a token drawn from pi.

    q(z_t | x) = alpha(t) e_x + (1 - alpha(t)) pi        pi = e_mask, 1 / V, or any other

A token is kept with probability alpha(t), else drawn from pi. The same holds from s to t with
alpha(t) / alpha(s), and Bayes gives the bridge

    q(z_s = j | z_t = z, x) = q(z_t = z | z_s = j) q(z_s = j | x) / q(z_t = z | x).

Nothing here is S x S: a draw costs a few numbers per position whatever the vocabulary, and the
functions named log_* give rows of S states. Sources: D3PM (arXiv 2107.03006), SEDD (arXiv 2310.16834).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.numerics import log_divide
from diffusion.random import split, uniform


class Keep(NamedTuple):
    """log alpha and log(1 - alpha), each of rank 2: (B, 1) or (B, L)."""

    log_keep: Array
    log_move: Array


class ExponentKernel(ABC):
    """A kernel whose noise is one number, the exponent e = -log(kept), which adds up over steps."""

    @abstractmethod
    def information_removal(self, exponent: np.ndarray, p: np.ndarray) -> np.ndarray:
        """(N,): the share 1 - I(z; x) / H(x) of the information that is gone, for x ~ p (V,) and z
        corrupted with the cumulative exponents (N,)."""

    @abstractmethod
    def betas_of(self, increments: np.ndarray) -> np.ndarray:
        """(T,): beta_1..beta_T, the noise of each step in the kernel's own terms, of exponents that grow
        by the increments (T,); the last step goes to the stationary distribution where it can."""

    def exponents(self, removal: np.ndarray, p: np.ndarray) -> np.ndarray:
        """(N,): the exponents at which the shares `removal` (N,) of the information are gone."""
        grid = np.logspace(-8, 5, 512)
        values = self.information_removal(grid, p)
        for _ in range(2):  # the answer of one interpolation is a knot of the next
            rising = np.maximum.accumulate(values)
            keep = np.append(True, np.diff(rising) > 0)
            exponents = np.exp(np.interp(removal, rising[keep], np.log(grid[keep])))
            more = np.unique(exponents)
            order = np.argsort(np.append(grid, more), kind="stable")
            values = np.append(values, self.information_removal(more, p))[order]
            grid = np.append(grid, more)[order]
        return exponents


def entropy(p: np.ndarray) -> np.ndarray:
    """The entropy of p (..., V) in nats, (...)."""
    return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1)


class ClosedKernel(ExponentKernel):
    """A kernel in closed form, of any vocabulary; `Keep` are what is kept at a time, or over a step."""

    masks: ClassVar[bool]
    """Whether a token that is not kept becomes the mask."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be filled in from the data."""
        return True

    def check(self, vocab_size: int) -> None:
        """Nothing; ValueError where the kernel is one of another number of tokens."""

    def num_states(self, vocab_size: int) -> int:
        """S: V, and the mask where there is one."""
        return vocab_size + self.masks

    @abstractmethod
    def log_stationary(self, vocab_size: int) -> Array:
        """(S,) log pi."""

    def draw_token(self, key: Array, shape: tuple[int, ...], vocab_size: int) -> Array:
        """Tokens of `shape`, int32: of the x over which p(z_1) is the mean of q(z_1 | x)."""
        return draw_token(key, shape, vocab_size)

    @abstractmethod
    def draw(self, key: Array, x: Array, keep: Keep, vocab_size: int) -> Array:
        """z_t ~ q(z_t | x), (B, L)."""

    @abstractmethod
    def draw_bridge(
        self, key: Array, x: Array, z: Array, t: Keep, s: Keep, step: Keep, vocab_size: int
    ) -> Array:
        """z_s ~ q(z_s | z_t, x), (B, L)."""

    @abstractmethod
    def prior_divergence(self, keep: float, move: float, vocab_size: int) -> float | np.ndarray:
        """KL(q(z_1 | x) || p(z_1)) in nats of each token x, (V,), or one number for all, where the share
        `keep` > 0 of the tokens is kept at t = 1, `move` = 1 - keep is not, and p(z_1) is the mean of
        q(z_1 | x) over tokens x as `draw_token` has them."""

    def betas_of(self, increments: np.ndarray) -> np.ndarray:
        betas = -np.expm1(-increments)
        betas[-1] = 1
        return betas


@dataclass(frozen=True)
class Absorbing(ClosedKernel):
    """Tokens become the mask, state V, and stay it."""

    masks: ClassVar[bool] = True

    def log_stationary(self, vocab_size: int) -> Array:
        return jnp.where(jnp.arange(vocab_size + 1) == vocab_size, 0.0, -jnp.inf)

    def draw(self, key: Array, x: Array, keep: Keep, vocab_size: int) -> Array:
        moved = jnp.log(uniform(key, x.shape, keep.log_move.dtype)) < keep.log_move
        return jnp.where(moved, vocab_size, x)

    def draw_bridge(self, key, x, z, t, s, step, vocab_size):
        """As the interface: reveals a mask with probability (alpha_s - alpha_t) / (1 - alpha_t)."""
        # The odds of being revealed: alpha_s - alpha_t, which is a product, against 1 - alpha_s.
        reveal = jax.nn.sigmoid(log_divide(s.log_keep + step.log_move, s.log_move))
        reveal = uniform(key, z.shape, reveal.dtype) < reveal
        return jnp.where((z == vocab_size) & reveal, x, z)

    def prior_divergence(self, keep: float, move: float, vocab_size: int) -> float:
        return keep * math.log(vocab_size)  # a token that is left costs its choice

    def information_removal(self, exponent: np.ndarray, p: np.ndarray) -> np.ndarray:
        return -np.expm1(-exponent)  # whatever p is

    def exponents(self, removal: np.ndarray, p: np.ndarray) -> np.ndarray:
        return -np.log1p(-removal)


class Redrawing(ClosedKernel):
    """Tokens are drawn anew from pi > 0, their old value included; there is no mask."""

    masks: ClassVar[bool] = False

    @abstractmethod
    def pi(self, vocab_size: int) -> np.ndarray:
        """(V,) probabilities of the tokens, float64; or (1,), that of every token."""

    def log_pi(self, vocab_size: int) -> Array:
        """log pi, (V,) or (1,)."""
        return jnp.asarray(np.log(self.pi(vocab_size)))

    def log_stationary(self, vocab_size: int) -> Array:
        return jnp.broadcast_to(self.log_pi(vocab_size), (vocab_size,))

    def draw(self, key: Array, x: Array, keep: Keep, vocab_size: int) -> Array:
        key_move, key_token = split(key)
        moved = jnp.log(uniform(key_move, x.shape, keep.log_move.dtype)) < keep.log_move
        return jnp.where(moved, self.draw_token(key_token, x.shape, vocab_size), x)

    def draw_bridge(self, key, x, z, t, s, step, vocab_size):
        """As the interface, in O(1).

        (a [j = z] + (1 - a) pi_z) (alpha_s [j = x] + (1 - alpha_s) pi_j) with a = alpha_t / alpha_s is
        the mixture: z_s = z, z_s = x, or a token drawn from pi.
        """
        key_which, key_token = split(key)
        low = self.log_stationary(vocab_size).astype(step.log_move.dtype)[z]
        both = jnp.where(x == z, step.log_keep + s.log_keep, -jnp.inf)
        old = jnp.logaddexp(step.log_keep + s.log_move + low, both)
        clean = step.log_move + low + s.log_keep
        other = step.log_move + low + s.log_move
        weights = jax.nn.softmax(jnp.stack([other, clean, old], -1), axis=-1)
        u = uniform(key_which, z.shape, weights.dtype)
        token = self.draw_token(key_token, z.shape, vocab_size)
        is_clean = u < weights[..., 0] + weights[..., 1]
        return jnp.where(u < weights[..., 0], token, jnp.where(is_clean, x, z))

    def prior_divergence(self, keep: float, move: float, vocab_size: int) -> np.ndarray:
        pi = self.pi(vocab_size)  # which is p(z_1) too, since `draw_token` is from pi
        same = keep + move * pi
        return same * np.log(same / pi) + (1 - pi) * move * math.log(move)

    def information_removal(self, exponent: np.ndarray, p: np.ndarray) -> np.ndarray:
        V, pi, kept = len(p), self.pi(len(p)), np.exp(-exponent)[:, None]
        moved, log_moved = 1 - kept, np.log(np.maximum(1 - kept, 1e-300))
        same, terms = kept + moved * pi, pi * np.log(pi)
        # -H(z | x): the token itself, and all others, whose probabilities are moved pi_y.
        others = (1 - pi) * log_moved + (terms.sum() * (V / len(pi)) - terms)
        given_x = -same * np.log(same) - moved * others
        return 1 - (entropy(kept * p + moved * pi) - (given_x * p).sum(-1)) / entropy(p)


@dataclass(frozen=True)
class Uniform(Redrawing):
    """Tokens are drawn anew from all V alike."""

    def pi(self, vocab_size: int) -> np.ndarray:
        return np.full(1, 1 / vocab_size)


def draw_token(key: Array, shape: tuple[int, ...], vocab_size: int) -> Array:
    """Tokens of `shape`, uniform over 0..V-1, int32."""
    return (uniform(key, shape) * vocab_size).astype(jnp.int32)
