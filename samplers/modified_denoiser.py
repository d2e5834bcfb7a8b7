"""A network whose distribution of x0 is changed before a sampler sees it: by a logits processor, or by
guidance.

A process reads p(x0 | z_t) out of what the network puts out (`Process.predict`) and knows the way back
(`Process.invert_predict`), so that whatever changes p(x0 | z_t) works for every head, process and
sampler. What changes it is a logits processor as a rule; guidance mixes networks the same way
(`samplers.guidance`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from jax import Array

from diffusion.model import Model
from diffusion.process import Process
from samplers.automaton import Constrained, with_last_resort
from samplers.logits_processor import LogitsProcessor


@dataclass(frozen=True)
class ModifiedDenoiser:
    """The model with change(log_p0, z) in place of log_p0.

    process: the process that reads log_p0 out of the model. model: the network. change: a function of
    log_p0 (B, L, V) and z.
    """

    process: Process
    model: Model
    change: Callable[[Array, Array], Array]

    def __call__(self, z: Array, t: Array) -> Array:
        """out (B, L, V): what the network would put out if it held the changed distribution."""
        log_p0 = self.change(self.process.predict(self.model(z, t), z, t), z)
        return self.process.invert_predict(log_p0, z, t)

    @property
    def energy(self) -> Model:
        """The second network of a residual energy, as it is."""
        return self.model.energy


def processed(logits_processor: LogitsProcessor, process: Process, model: Model) -> Model:
    """The model with the logits processor applied to its distribution of x0."""
    if logits_processor.is_identity:
        return model

    def change(log_p0, z):
        return logits_processor(log_p0, process.space.weights(z))

    if isinstance(model, Constrained):

        def weakly(log_p0, z):
            return with_last_resort(change(log_p0, z), log_p0)

        return replace(model, model=ModifiedDenoiser(process, model.model, weakly))
    return ModifiedDenoiser(process, model, change)
