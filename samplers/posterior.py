"""Sampling of p(z_s | z_t) itself, all at once, where `Ancestral` draws x0 and then the bridge.

For a network it is the same distribution. But a guided reverse step (`samplers.discrete_guidance`) is a
distribution of z_s that no distribution of x0 stands behind, and this is its sampler.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jax import Array

from diffusion.process import JumpProcess
from diffusion.random import categorical
from samplers.sampler import Compatibility, GridSampler


class GuidedStep(ABC):
    """A model that gives the distribution of a step itself, such as those of `discrete_guidance`."""

    @abstractmethod
    def distributions(self, z: Array, t: Array, s: Array) -> tuple[Array, Array]:
        """log of p(z_s | z_t), (B, L, S), and of p(x0 | z_t), (B, L, V)."""

    @abstractmethod
    def __call__(self, z: Array, t: Array) -> Array:
        """out (B, L, V): as a network."""


@dataclass(frozen=True)
class Posterior(GridSampler):
    """`steps` calls of the network. A `GuidedStep` gives the distributions of z_s and x0 itself."""

    requires: ClassVar[type] = JumpProcess
    lacking: ClassVar[str] = "the process has no distribution of a step on discrete states"
    guides_steps: ClassVar[bool] = True

    def compatibility(self, process):
        return self.unsupported(process) or Compatibility(
            "exact", "draws of the reverse step itself"
        )

    def modified(self, process, model):
        if isinstance(model, GuidedStep) and not self.logits_processor.is_identity:
            raise ValueError(
                "Posterior.logits_processor does not act on a guided step: modify the networks that "
                "the guidance is made of (samplers.modified_denoiser.ModifiedDenoiser)"
            )
        return super().modified(process, model)

    def step(self, key, process: JumpProcess, model, z, t, s):
        if isinstance(model, GuidedStep):
            log_p, log_p0 = model.distributions(z, t, s)
        else:
            log_p0 = process.predict(model(z, t), z, t)
            log_p = process.log_posterior(log_p0, z, t, s)
        # One key for both, hence the same quantile: where no noise is left, the last z is the sample.
        return categorical(key, log_p), categorical(key, log_p0)
