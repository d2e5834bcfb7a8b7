"""Ancestral sampling: draw x0 from the model, then z_s from the exact bridge q(z_s | z_t, x0).

Per step and position this is a draw of sum_x0 p(x0 | z_t) q(z_s | z_t, x0); the positions are
independent given z_t, which is the only error of a finite number of steps. The cosine grid is MD4's
(arXiv 2406.04329): small steps at first, when little is known, and larger ones as context grows.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from diffusion.random import split


@dataclass(frozen=True)
class Ancestral:
    """`steps` calls of the network; `grid` places them in time."""

    steps: int = 64
    grid: Literal["uniform", "cosine"] = "uniform"

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"Ancestral.steps = {self.steps} must be at least 1")
        if self.grid not in ("uniform", "cosine"):
            raise ValueError(f"Ancestral.grid = {self.grid!r} is neither 'uniform' nor 'cosine'")

    def times(self):
        u = jnp.arange(self.steps, -1, -1) / self.steps
        return u if self.grid == "uniform" else jnp.sin(jnp.pi / 2 * u)

    def step(self, key, process, model, z, t, s):
        key_draw, key_bridge = split(key)
        x0 = process.draw(key_draw, model, z, t)
        return process.bridge(key_bridge, x0, z, t, s), x0
