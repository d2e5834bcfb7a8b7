"""Sampling of p(z_s | z_t) itself, all at once, where `Ancestral` draws x0 and then the bridge.

For a network it is the same law. But a guided reverse step (`samplers.discrete_guidance`) is a law of
z_s that no law of x0 stands behind, and this is its sampler.
"""

from dataclasses import dataclass

from diffusion.random import categorical
from samplers.sampler import OnGrid, Verdict


@dataclass(frozen=True)
class Posterior(OnGrid):
    """`steps` calls of the network. A model with `laws(z, t, s)` gives the laws of z_s and x0 itself."""

    def verdict(self, process):
        if not hasattr(process, "log_posterior"):
            return Verdict("refused", "the process has no law of a step on discrete states")
        return Verdict("exact", "draws of the reverse step itself")

    def bend(self, process, model):
        if hasattr(model, "laws") and not self.transform.is_identity:
            raise ValueError(
                "Posterior.transform does not act on a guided step: bend the networks that the guidance "
                "is made of (samplers.bent.Bent)"
            )
        return super().bend(process, model)

    def step(self, key, process, model, z, t, s):
        if hasattr(model, "laws"):
            log_p, log_p0 = model.laws(z, t, s)
        else:
            log_p0 = process.predict(model(z, t), z, t)
            log_p = process.log_posterior(log_p0, z, t, s)
        # One key for both, hence the same quantile: where no noise is left, the last z is the sample.
        return categorical(key, log_p), categorical(key, log_p0)
