"""Schedules of D3PM: beta_1..beta_T, how much each of T steps corrupts (arXiv 2107.03006).

What beta means is the kernel's: 1 - beta is kept (`Absorbing`, `Uniform`, `BandDiagonal`, `Matrix`),
the variance (`Gaussian`), or the time spent in exp(beta R) (`NearestNeighbour`).
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from diffusion.dense import NearestNeighbour
from diffusion.kernels import Absorbing, Uniform


class Betas(Protocol):
    def betas(self, num_steps: int, kernel, vocab_size: int) -> np.ndarray:
        """(T,) float64, beta_1 to beta_T."""


@dataclass(frozen=True)
class LinearBetas:
    """From `start` at the first step to `stop` at the last, evenly."""

    start: float = 1e-4
    stop: float = 0.02

    def __post_init__(self):
        if not (0 < self.start <= 1 and 0 < self.stop <= 1):
            raise ValueError(
                f"LinearBetas.start, stop = {self.start}, {self.stop} must be in (0, 1]"
            )

    def betas(self, num_steps, kernel, vocab_size):
        return np.linspace(self.start, self.stop, num_steps)


@dataclass(frozen=True)
class CosineBetas:
    """1 - f(k) / f(k - 1), f(k) = cos((k / T + 0.008) / 1.008 pi / 2), at most 0.999: D3PM's cosine
    schedule, not squared. Something of the data is left at the end; the prior term counts it."""

    def betas(self, num_steps, kernel, vocab_size):
        f = np.cos((np.arange(num_steps + 1) / num_steps + 0.008) / 1.008 * np.pi / 2)
        return np.clip(1 - f[1:] / f[:-1], 0, 0.999)


@dataclass(frozen=True)
class ReciprocalBetas:
    """1 / (T - k + 1): what is kept falls linearly, 1 - k / T. The mutual-information schedule of the
    absorbing kernel, whatever the data."""

    def betas(self, num_steps, kernel, vocab_size):
        return 1 / (num_steps - np.arange(num_steps))


@dataclass(frozen=True)
class MutualInformation:
    """The share of information that is left, I(z_k; x) / H(x) under the unigram law, falls linearly.

    For the kernels whose noise is one number e, the sum of -log(1 - beta) (or of beta for
    `NearestNeighbour`). The last step goes to the stationary law where the kernel can (beta_T = 1).
    unigram: the probability of each token; None takes the training data's when that is read.
    """

    unigram: tuple[float, ...] | None = field(default=None, repr=False)

    def betas(self, num_steps, kernel, vocab_size):
        if not isinstance(kernel, Absorbing | Uniform | NearestNeighbour):
            raise ValueError(
                f"MutualInformation cannot be used with {type(kernel).__name__}, whose noise is not one "
                "number; use LinearBetas, CosineBetas or ReciprocalBetas, or the kernel Absorbing, "
                "Uniform or NearestNeighbour"
            )
        if len(self.unigram) != vocab_size:
            raise ValueError(
                f"MutualInformation.unigram has {len(self.unigram)} entries, the data has "
                f"{vocab_size} tokens"
            )
        p = np.array(self.unigram, np.float64)
        p /= p.sum()
        if (p > 0).sum() < 2:
            raise ValueError(
                "MutualInformation.unigram needs two tokens that occur, to have entropy"
            )
        if isinstance(kernel, Absorbing):  # removal is 1 - exp(-e), whatever p is
            return ReciprocalBetas().betas(num_steps, kernel, vocab_size)
        wanted = np.arange(1, num_steps + 1) / num_steps
        wanted[-1] = 1 - 1e-4 / num_steps  # it would take e = infinity
        increments = np.diff(exponents(wanted, kernel, p), prepend=0)
        return increments if isinstance(kernel, NearestNeighbour) else _force_last(increments)


def _force_last(increments: np.ndarray) -> np.ndarray:
    betas = -np.expm1(-increments)
    betas[-1] = 1
    return betas


def exponents(removal: np.ndarray, kernel, p: np.ndarray) -> np.ndarray:
    """The e at which the share `removal` (N,) of the information I(z; x) / H(x) is gone."""
    grid = np.logspace(-8, 5, 512)
    values = information_removal(grid, kernel, p)
    for _ in range(2):  # the answer of one interpolation is a knot of the next
        rising = np.maximum.accumulate(values)
        keep = np.append(True, np.diff(rising) > 0)
        found = np.exp(np.interp(removal, rising[keep], np.log(grid[keep])))
        more = np.unique(found)
        order = np.argsort(np.append(grid, more), kind="stable")
        values = np.append(values, information_removal(more, kernel, p))[order]
        grid = np.append(grid, more)[order]
    return found


def information_removal(e: np.ndarray, kernel, p: np.ndarray) -> np.ndarray:
    """1 - I(z; x) / H(x), (N,), for x ~ p (V,) and z corrupted with the cumulative noise e (N,)."""
    V = len(p)
    entropy = _entropy(p)
    if isinstance(kernel, Absorbing):
        return -np.expm1(-e)
    if isinstance(kernel, Uniform):
        kept = np.exp(-e)[:, None]
        z = kept * p + (1 - kept) / V
        same, other = kept[:, 0] + (1 - kept[:, 0]) / V, (1 - kept[:, 0]) / V
        given_x = -same * np.log(same) - (V - 1) * other * np.log(np.maximum(other, 1e-300))
        return 1 - (_entropy(z) - given_x) / entropy
    rows = kernel.steps(e, V)
    return 1 - (_entropy(p @ rows) - _entropy(rows) @ p) / entropy


def _entropy(p: np.ndarray) -> np.ndarray:
    return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1)
