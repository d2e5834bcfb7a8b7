"""Distillation to one step (Dirichlet flow matching, arXiv 2402.05841): noise to tokens at once.

The teacher's ODE makes of a noise z_1 a text; the student learns it as a classification,

    loss = -log p(x0 | z_1),    z_1 ~ prior,  x0 the end of the teacher's trajectory from that z_1,

and samples by a single call of its network. The training text enters through the teacher alone. The
student has no likelihood bound: it is judged by its samples.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from diffusion.dirichlet import DirichletFlow
from diffusion.process import Model, Traits
from diffusion.random import split
from diffusion.simplex import EvidenceProcess
from samplers.ode import ODE


@dataclass(frozen=True)
class OneStep(EvidenceProcess):
    """The student of a flow. `process` is the teacher's, `sampler` how its trajectories are computed."""

    vocab_size: int | None = None
    process: DirichletFlow = DirichletFlow()
    sampler: ODE = ODE(steps=100)
    head: ClassVar[str] = "posterior"  # at t = 1 a position's own noise says nothing of its token
    # The network knows t = 1 alone.
    traits: ClassVar[Traits] = Traits(
        second_network="teacher", labels="unsupported", max_steps=1, whole_rows=True
    )

    def taught_by(self, teacher: Model) -> "OneStep":
        """The objective with its teacher's network, without which there is no loss."""
        bound = copy.copy(self)
        object.__setattr__(bound, "_teacher", teacher)
        return bound

    def loss(self, key, model, x0, u):
        key_noise, key_teacher = split(key)
        z = self.prior(key_noise, x0.shape)
        x0 = self.sampler.sample(key_teacher, self.process, self._teacher, x0.shape, start=z)
        t = jnp.ones_like(u)
        return self.process.token_loss(model(z, t), x0, z, t)

    def prior(self, key, shape):
        return self.process.prior(key, shape)

    def token_loss(self, out, x0, z, t):
        return self.process.token_loss(out, x0, z, t)

    def corrupt(self, key, x0, t):
        return self.process.corrupt(key, x0, t)

    def bridge(self, key, x0, z, t, s):
        return self.process.bridge(key, x0, z, t, s)

    def evidence(self, t):
        return self.process.evidence(t)
