"""Psi-samplers (arXiv 2602.21185): what was drawn is noised anew, so that it can change.

A step draws x0 from the model. Each position then goes on by the bridge, as in ancestral sampling, with
probability kappa, and otherwise forgets where it was:

    z_s ~ kappa q(z_s | z_t, x0) + (1 - kappa) q(z_s | x0)

Both parts have the marginals of the process at s if the guess of x0 has those of the data. Under masks,
what is noised anew may be masked again, as in ReMDM; under uniform noise a token that the bridge would
keep may change. It mends mistakes of a network, which sees the text again, not those of drawing
positions apart from each other: with the exact denoiser the error of the samples grows as kappa falls
(tests/test_psi.py). kappa acts at times within `interval`; outside it is 1.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from diffusion.process import JumpProcess
from diffusion.random import split, uniform
from samplers.sampler import Compatibility, GridSampler


@dataclass(frozen=True)
class Psi(GridSampler):
    """`steps` calls of the network; `grid` places them in time.

    kappa: the probability that a position goes on by the bridge; 1 is ancestral sampling. interval: of
    t, in which kappa acts.
    """

    kappa: float = 0.9
    interval: tuple[float, float] = (0.0, 1.0)
    requires: ClassVar[type] = JumpProcess
    lacking: ClassVar[str] = "the process has no noisy tokens"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.kappa <= 1:
            raise ValueError(f"Psi.kappa = {self.kappa} is outside [0, 1]")
        if not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise ValueError(f"Psi.interval = {self.interval} must rise within [0, 1]")

    def compatibility(self, process):
        if self.kappa == 1:
            kind, why = "exact", "ancestral sampling"
        else:
            kind, why = (
                "approximate",
                "some tokens are noised anew, apart from the state they were in",
            )
        return self.unsupported(process) or Compatibility(kind, why)

    @property
    def draws_jointly(self):
        return True

    def step(self, key, process: JumpProcess, model, z, t, s):
        key_draw, key_bridge, key_noise, key_choice = split(key, 4)
        x0 = process.draw(key_draw, model, z, t)
        low, high = self.interval
        kappa = jnp.where((t >= low) & (t <= high), self.kappa, 1.0)
        on = uniform(key_choice, z.shape) < kappa
        bridge = process.bridge(key_bridge, x0, z, t, s)
        return jnp.where(on, bridge, process.corrupt(key_noise, x0, s)), x0
