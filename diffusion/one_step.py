"""Distillation to one step (Dirichlet flow matching, arXiv 2402.05841): noise to tokens at once.

The teacher's ODE makes of a noise z_1 a text; the student learns it as a classification,

    loss = -log p(x0 | z_1),    z_1 ~ prior,  x0 the end of the teacher's trajectory from that z_1,

and samples by a single call of its network. The training text enters through the teacher alone. The
student has no likelihood bound: it is evaluated by its samples.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.dirichlet import DirichletFlow
from diffusion.distillation import Student
from diffusion.model import Model
from diffusion.process import Composed, Traits
from diffusion.random import categorical, fold_in, split
from diffusion.simplex import EvidenceProcess


@dataclass(frozen=True)
class OneStep(Student, Composed, EvidenceProcess):
    """The student of a flow.

    base: the teacher's process; its trajectories are solved as `samplers.ode.ODE` does. steps: how many
    of even size in log t a trajectory has. end: the t at which it ends, from t = 1 on.
    """

    base: DirichletFlow = DirichletFlow()
    steps: int = 100
    end: float = 0.03
    head: ClassVar[str] = "posterior"  # at t = 1 a position's own noise says nothing of its token
    # The network knows t = 1 alone.
    traits: ClassVar[Traits] = Traits(
        second_network="teacher", labels="unsupported", max_steps=1, whole_rows=True
    )

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"OneStep.steps = {self.steps} must be at least 1")
        if not 0 < self.end < 1:
            raise ValueError(f"OneStep.end = {self.end} is outside (0, 1)")

    def student_of(self, process):
        if type(process) is not type(self.base):
            raise ValueError(f"OneStep learns from {type(self.base).__name__}")
        return replace(self, base=process)

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        (rows, length), (key_noise, key_teacher) = x0.shape, split(key)
        z = self.prior(key_noise, (rows, length))
        t = jnp.ones_like(u)
        return self.loss_of(model, self.trajectory_end(key_teacher, z), z, t)

    def trajectory_end(self, key: Array, z: Array) -> Array:
        """The tokens (B, L) at which the teacher's ODE from z at t = 1 ends."""
        teacher = self.teacher
        times = self.end ** (jnp.arange(self.steps) / max(self.steps - 1, 1))

        def at(number):
            return jnp.full((len(z), 1), times[number])

        def step(z, number):
            t, s = at(number), at(number + 1)
            log_p0 = self.base.predict(teacher(z, t), z, t)
            return self.base.flow(log_p0, z, t, s), None

        z, _ = jax.lax.scan(step, z, jnp.arange(self.steps - 1))
        t = at(self.steps - 1)
        log_p0 = self.base.predict(teacher(z, t), z, t)
        return categorical(fold_in(split(key)[1], self.steps - 1), log_p0)

    def prior(self, key: Array, shape: tuple[int, int]) -> Array:
        return self.base.prior(key, shape)

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        return self.base.token_loss(out, x0, z, t)

    def corrupt(self, key: Array, x0: Array, t: Array) -> Array:
        return self.base.corrupt(key, x0, t)

    def bridge(self, key: Array, x0: Array, z: Array, t: Array, s: Array) -> Array:
        return self.base.bridge(key, x0, z, t, s)

    def evidence(self, t: Array) -> Array:
        return self.base.evidence(t)
