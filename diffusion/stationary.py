"""Noise towards any distribution pi of the tokens: their frequencies in the text, or one of your own.

    q(z_t | x) = alpha(t) e_x + (1 - alpha(t)) pi,    every pi_v > 0

At rate -alpha' / alpha a token jumps to one drawn from pi, its old value included: the rate matrix is
1 pi^T less the identity. `Uniform` has pi = 1 / V. As pi nears the one-hot vector of a token that no
text has, that token is the mask and the process that of `Absorbing`.

A token is drawn from pi with two uniform numbers, whatever V, by the alias method: one of V places
alike, and there one of two tokens. Rare tokens too are drawn as often as they should be; a cumulative
sum in float32 cannot do that.
"""

from dataclasses import dataclass, field
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.kernels import Redrawing, draw_token
from diffusion.random import split, uniform


class _Given(Redrawing):
    """A kernel whose pi is a table of V numbers."""

    _probabilities: np.ndarray
    """(V,) pi, float64; ValueError where it is not there yet."""

    def check(self, vocab_size: int) -> None:
        if self.complete and len(self._probabilities) != vocab_size:
            raise ValueError(
                f"{type(self).__name__} has the probabilities of {len(self._probabilities)} tokens, but "
                f"the data has {vocab_size}"
            )

    def pi(self, vocab_size: int) -> np.ndarray:
        self.check(vocab_size)
        return self._probabilities

    def draw_token(self, key: Array, shape: tuple[int, ...], vocab_size: int) -> Array:
        key_place, key_which = split(key)
        stays, other = (jnp.asarray(a) for a in self._aliases)
        place = draw_token(key_place, shape, vocab_size)
        return jnp.where(uniform(key_which, shape) < stays[place], place, other[place])

    @cached_property
    def _aliases(self) -> tuple[np.ndarray, np.ndarray]:
        """(V,) how likely each place is to hold its own token, float32, and the token otherwise."""
        return alias_table(self._probabilities)


def alias_table(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(stays (V,) float32, other (V,) int32): of V places alike, number v holds token v with probability
    stays[v], else other[v], so that token v of p (V,) is held with probability p[v] (Vose 1991)."""
    share, other = p * len(p), np.arange(len(p), dtype=np.int32)
    low, high = list(np.flatnonzero(share < 1)), list(np.flatnonzero(share >= 1))
    while low and high:
        v, giver = low.pop(), high[-1]
        other[v] = giver
        share[giver] -= 1 - share[v]
        if share[giver] < 1:
            low.append(high.pop())
    share[low + high] = 1  # but for rounding
    return share.astype(np.float32), other


@dataclass(frozen=True)
class Unigram(_Given):
    """Tokens are drawn anew with the frequencies that they have in the text.

    floor: the least that a token counts as, above 0: other texts may have what the training text does
    not. unigram: counts of each token; None takes those of the training text.
    """

    floor: float = 1.0
    unigram: tuple[float, ...] | None = field(default=None, repr=False)

    def __post_init__(self):
        if not self.floor > 0:
            raise ValueError(f"Unigram.floor = {self.floor} must be positive")

    @property
    def complete(self) -> bool:
        return self.unigram is not None

    @cached_property
    def _probabilities(self) -> np.ndarray:
        if self.unigram is None:
            raise ValueError(
                "Unigram.unigram = None is filled in when the data is read; give counts to use the "
                "process without data"
            )
        counts = np.maximum(np.array(self.unigram, np.float64), self.floor)
        return counts / counts.sum()


@dataclass(frozen=True)
class Stationary(_Given):
    """Tokens are drawn anew from a distribution of your own.

    probabilities: of each token, positive, with the sum 1 to within 1e-4 (it is then made exactly 1); on
    the command line the path of a .npy file, or of a .json file with a list of numbers.
    """

    probabilities: tuple[float, ...] | str = field(default="", repr=False)

    def __post_init__(self):
        if not self.complete:
            return
        p = np.array(self.probabilities, np.float64)
        if p.ndim != 1:
            raise ValueError(
                f"Stationary.probabilities has shape {p.shape}; give one number for each token"
            )
        if len(wrong := np.flatnonzero(~(np.isfinite(p) & (p > 0)))):
            raise ValueError(
                f"Stationary.probabilities[{wrong[0]}] = {p[wrong[0]]:g}; give every token a finite "
                "probability above 0, if a small one"
            )
        if not abs(p.sum() - 1) <= 1e-4:
            raise ValueError(
                f"Stationary.probabilities sum to {p.sum():.6g}, and not to 1; divide by the sum"
            )
        object.__setattr__(self, "probabilities", tuple(p.tolist()))

    @property
    def complete(self) -> bool:
        return not isinstance(self.probabilities, str)

    @cached_property
    def _probabilities(self) -> np.ndarray:
        if not self.complete:
            raise ValueError(
                "Stationary.probabilities is missing; give one number for each token, or a .npy or "
                ".json file: --set process.kernel.probabilities=FILE"
            )
        p = np.array(self.probabilities, np.float64)
        return p / p.sum()
