"""Euler steps and tau-leaping: the reverse process with its rates held fixed over each step.

At rates r_y of jumping from z_t to y, R their sum, a position leaves in a step of dt with probability

    exponential   1 - exp(-R dt)     the distribution of the first jump at fixed rates
    linear        R dt               the published SEDD sampler; more than 1 counts as 1, and what should
                                     have stayed is drawn anew in proportion to the clipped weights
    TauLeaping    R dt exp(-R dt)    exactly one of a Poisson number of jumps; a position with several
                                     stays (arXiv 2205.14987, for states without order)

and goes to y with probability r_y / R. All of them approach the reverse process as dt falls, with an
error that `Ancestral` does not have: it integrates the rates over the step. What
noise the last step leaves is drawn from p(x0 | z_t) at once: the state at t = 0 is the sample.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.process import RateProcess
from diffusion.random import categorical, split, uniform
from samplers.sampler import Compatibility, GridSampler


class _FixedRates(GridSampler):
    """What the samplers of this file share, up to the chance of a jump."""

    requires: ClassVar[type] = RateProcess
    lacking: ClassVar[str] = "the process gives no rates in continuous time"

    def compatibility(self, process):
        return self.unsupported(process) or Compatibility(
            "approximate", "rates are held fixed over a step"
        )

    def step(self, key, process: RateProcess, model, z, t, s):
        key_leave, key_to, key_x0 = split(key, 3)
        out = model(z, t)
        log_rate = process.log_reverse_rate(out, z, t)
        total = jnp.exp(jax.nn.logsumexp(log_rate, axis=-1)) * (t - s)
        to = categorical(key_to, jnp.where(jnp.isneginf(log_rate), -jnp.inf, log_rate))
        leaves = uniform(key_leave, z.shape) < self._leave(total)
        x0 = categorical(key_x0, process.predict(out, z, t))
        return jnp.where(s > 0, jnp.where(leaves & (total > 0), to, z), x0), x0

    @abstractmethod
    def _leave(self, total: Array) -> Array:
        """The chance that a position leaves, (B, L), from R dt."""


@dataclass(frozen=True)
class Euler(_FixedRates):
    """`steps` calls of the network.

    rule: how a rate becomes a probability, "exponential" or "linear" (above).
    """

    rule: Literal["exponential", "linear"] = "exponential"

    def _leave(self, total):
        return -jnp.expm1(-total) if self.rule == "exponential" else total


@dataclass(frozen=True)
class TauLeaping(_FixedRates):
    """`steps` calls of the network."""

    def _leave(self, total):
        return total * jnp.exp(-total)
