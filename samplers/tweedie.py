"""Tweedie sampling of SEDD (arXiv 2310.16834): the reverse step that a free score implies.

Undo the noise between s and t in the score, then apply the forward step as a likelihood:

    p(z_s = y | z_t = z) proportional to (exp(-dsigma Q) score)_y exp(dsigma Q)[z, y]

With the exact score this is the exact reverse step of each position, as in `Ancestral`. With a learned
one it differs: how much is revealed follows from the sum of the scores, not from the schedule. Learned
scores may make an entry negative; it counts as 0.
"""

from dataclasses import dataclass
from typing import ClassVar

from diffusion.process import ScoreProcess
from diffusion.random import categorical, split
from samplers.sampler import Compatibility, GridSampler


@dataclass(frozen=True)
class Tweedie(GridSampler):
    """`steps` calls of the network; the last takes all noise away, also what a schedule has at t = 0."""

    requires: ClassVar[type] = ScoreProcess
    lacking: ClassVar[str] = "the process has no score"

    def compatibility(self, process):
        return self.unsupported(process) or Compatibility(
            "exact", "the reverse step of the score itself"
        )

    def step(self, key, process: ScoreProcess, model, z, t, s):
        key_state, key_x0 = split(key)
        out = model(z, t)
        z_s = categorical(key_state, process.log_tweedie(out, z, t, s))
        return z_s, categorical(key_x0, process.predict(out, z, t))
