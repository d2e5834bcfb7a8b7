"""The bound's weight of masked tokens, up to a limit (as Hang et al. 2023, arXiv 2303.09556, clip the
weights of images by their signal-to-noise ratio).

The bound weighs a masked token by w(t) = -alpha'(t) / (1 - alpha(t)), which has no limit where few are
masked. Here it is min(w(t), most). Each time still has the same best answer, p(x0 | z_t): of a network
that can give it at all times, the minimum does not move.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from diffusion.process import Process, mask_schedule
from diffusion.schedules import masked_weight
from experiments.time_weights.time_weight import TimeWeight


@dataclass(frozen=True)
class Clipped(TimeWeight):
    """For processes that mask all tokens alike, in continuous time: MDLM, SEDD with masks.

    most: the largest weight of a masked token; with the linear schedule, whose w(t) is 1 / t, times
    above 1 / most keep theirs.
    """

    most: float = 5.0

    def __post_init__(self):
        if self.most <= 0:
            raise ValueError(f"Clipped.most = {self.most} must be positive")

    def __call__(self, process, u, x0, key):
        schedule = mask_schedule(process)
        assert isinstance(process, Process)  # `mask_schedule`
        return jnp.minimum(1, self.most / masked_weight(schedule, process.time(u)))

    def check(self, process):
        mask_schedule(process)
