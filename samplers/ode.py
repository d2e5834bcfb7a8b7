"""Samples by the ODE of a flow on the simplex, with p(x0 | z_t) held fixed over each step.

How a process moves its state over a step (`flow`) is its own affair: on straight lines for the linear
path, in log z for the Dirichlet path, so that the state never leaves the simplex, where Euler steps of z
do and have to be projected back. The last step, to t = 0, only draws the tokens from p(x0 | z_t), each
on its own: with more steps the distribution approaches that of the data on a grid whose last time falls
to 0, and on the geometric one up to what is open at `end`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from diffusion.process import FlowProcess
from diffusion.random import categorical
from samplers.sampler import Compatibility, GridSampler


@dataclass(frozen=True)
class ODE(GridSampler):
    """`steps` calls of the network.

    grid: "geometric" spaces log t evenly, which for the Dirichlet path is its concentration, from t = 1
    to `end`; the others are those of `GridSampler`. end: the t of the last call; 0.03 is the
    concentration 8 of the paper at scale 2.
    """

    grid: Literal["geometric", "uniform", "cosine", "fitted"] = "geometric"
    end: float = 0.03
    requires: ClassVar[type] = FlowProcess
    lacking: ClassVar[str] = "the process has no ODE"
    grids: ClassVar[tuple[str, ...]] = ("geometric", *GridSampler.grids)

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.end < 1:
            raise ValueError(f"ODE.end = {self.end} is outside (0, 1)")

    def compatibility(self, process):
        why = "the ODE is solved in `steps` steps, and tokens are drawn apart at its last time"
        return self.unsupported(process) or Compatibility("approximate", why)

    def times(self):
        if self.grid != "geometric":
            return super().times()
        return jnp.append(self.end ** (jnp.arange(self.steps) / max(self.steps - 1, 1)), 0.0)

    def step(self, key, process: FlowProcess, model, z, t, s):
        log_p0 = process.predict(model(z, t), z, t)
        x0 = categorical(key, log_p0)
        moved = process.flow(log_p0, z, t, jnp.where(s > 0, s, t))
        certain = process.space.pure(x0).astype(z.dtype)
        return jnp.where((s > 0)[..., None], moved, certain), x0
