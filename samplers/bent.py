"""A network whose law of x0 is changed before a sampler sees it: by a transform, or by guidance.

A process reads p(x0 | z_t) out of what the network puts out (`Process.predict`); here is the way back,
so that whatever changes p(x0 | z_t) works for every head, process and sampler.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jax import Array

from diffusion.numerics import minus
from diffusion.process import Model, Process


def of_x0(process: Process) -> Process:
    """The process whose `predict` reads the network: a residual energy's is its base."""
    return process if hasattr(process, "predict") else process.base


def as_output(process: Process, log_p0: Array, z: Array, t: Array) -> Array:
    """What a network of the process's head would put out, of which `predict` makes log_p0."""
    head = getattr(process, "head", "posterior")
    if head == "posterior":
        return log_p0
    if head == "leave_one_out":
        return minus(log_p0, process.log_likelihood(z, t))
    return process.score_of(log_p0, z, t)


@dataclass(frozen=True)
class Bent:
    """The model with change(log_p0, z) in place of log_p0."""

    process: Process
    model: Model
    change: Callable[[Array, Array], Array]

    def __call__(self, z: Array, t: Array) -> Array:
        process = of_x0(self.process)
        log_p0 = self.change(process.predict(self.model(z, t), z, t), z)
        return as_output(process, log_p0, z, t)

    @property
    def energy(self) -> Model:
        """The second network of a residual energy, as it is."""
        return self.model.energy
