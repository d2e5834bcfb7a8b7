"""A schedule of one's own: half a wave of a cosine, which is flat at both ends.

ddlm train --config tests/extension/schedule.py --workdir runs/own-schedule
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp

from configs import smoke
from diffusion.mdlm import MDLM
from diffusion.schedules import AlphaSchedule


@dataclass(frozen=True)
class HalfWave(AlphaSchedule):
    def alpha(self, t):
        return (1 + jnp.cos(jnp.pi * t)) / 2


def get_config():
    return replace(smoke.get_config(), process=MDLM(schedule=HalfWave()))
