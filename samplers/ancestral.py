"""Ancestral sampling: draw x0 from the model, then z_s from the exact bridge q(z_s | z_t, x0).

Per step and position this is a draw of sum_x0 p(x0 | z_t) q(z_s | z_t, x0); the positions are
independent given z_t, which is the only error of a finite number of steps.
"""

from dataclasses import dataclass
from typing import ClassVar

from diffusion.random import split
from samplers.sampler import OnGrid


@dataclass(frozen=True)
class Ancestral(OnGrid):
    """`steps` calls of the network; `grid` places them in time."""

    needs: ClassVar[tuple[str, ...]] = ("draw", "bridge")

    def step(self, key, process, model, z, t, s):
        key_draw, key_bridge = split(key)
        x0 = process.draw(key_draw, model, z, t)
        return process.bridge(key_bridge, x0, z, t, s), x0
