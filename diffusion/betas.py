"""Schedules of D3PM: beta_1..beta_T, how much each of T steps corrupts (arXiv 2107.03006).

What beta means is the kernel's: 1 - beta is kept (`Absorbing`, `Uniform`, `BandDiagonal`, `Matrix`),
the variance (`Gaussian`), or the time spent in exp(beta R) (`NearestNeighbour`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from diffusion.dense import MatrixKernel
from diffusion.kernels import ClosedKernel, ExponentKernel


class Betas(ABC):
    """A schedule of discrete time."""

    @abstractmethod
    def betas(
        self, num_steps: int, kernel: ClosedKernel | MatrixKernel, vocab_size: int
    ) -> np.ndarray:
        """beta_1 to beta_T of T = `num_steps` steps of the kernel, (T,) float64."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be filled in from the data."""
        return True


@dataclass(frozen=True)
class LinearBetas(Betas):
    """beta changes evenly from step to step.

    start: beta of the first step. stop: beta of the last, 0 < beta <= 1.
    """

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
class CosineBetas(Betas):
    """1 - f(k) / f(k - 1), f(k) = cos((k / T + 0.008) / 1.008 pi / 2), at most 0.999: D3PM's cosine
    schedule, not squared. Something of the data is left at the end; the prior term counts it."""

    def betas(self, num_steps, kernel, vocab_size):
        f = np.cos((np.arange(num_steps + 1) / num_steps + 0.008) / 1.008 * np.pi / 2)
        return np.clip(1 - f[1:] / f[:-1], 0, 0.999)


@dataclass(frozen=True)
class ReciprocalBetas(Betas):
    """1 / (T - k + 1): what is kept falls linearly, 1 - k / T. The mutual-information schedule of the
    absorbing kernel, whatever the data."""

    def betas(self, num_steps, kernel, vocab_size):
        return 1 / (num_steps - np.arange(num_steps))


@dataclass(frozen=True)
class MutualInformation(Betas):
    """The share of information that is left, I(z_k; x) / H(x) under the unigram distribution, falls
    linearly.

    For the kernels whose noise is one number e, the sum of -log(1 - beta) (or of beta for
    `NearestNeighbour`). The last step goes to the stationary distribution where the kernel can
    (beta_T = 1). unigram: counts or probabilities of the tokens, which are normalised; None takes the
    training data's when that is read.
    """

    unigram: tuple[float, ...] | None = field(default=None, repr=False)

    def betas(self, num_steps, kernel, vocab_size):
        if not isinstance(kernel, ExponentKernel):
            raise ValueError(
                f"MutualInformation cannot be used with {type(kernel).__name__}, whose noise is not one "
                "number; use LinearBetas, CosineBetas or ReciprocalBetas, or the kernel Absorbing, "
                "Uniform or NearestNeighbour"
            )
        if self.unigram is None:
            raise ValueError(
                "MutualInformation.unigram = None is filled in when the data is read; give the "
                "probability of each token to use it without data"
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
        wanted = np.arange(1, num_steps + 1) / num_steps
        wanted[-1] = 1 - 1e-4 / num_steps  # it would take e = infinity
        return kernel.betas_of(np.diff(kernel.exponents(wanted, p), prepend=0))

    @property
    def complete(self) -> bool:
        return self.unigram is not None
