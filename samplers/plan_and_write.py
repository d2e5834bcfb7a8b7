"""Samples of DGLM (arXiv 2408.04220): an embedding of the text to come, and then the text.

The embedding is made by the diffusion, in `steps` steps, given that of the prompt; `noise` is put on it,
as in training, and the decoder writes with a soft prompt made of it, by the sampler inside.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from diffusion.dglm import DGLM
from diffusion.model import Around
from diffusion.random import split
from diffusion.vector_diffusion import LogAttribute
from samplers.automaton import Constrained, apart
from samplers.autoregressive import LeftToRight
from samplers.guidance import check_interval
from samplers.sampler import Compatibility, Sampler


@dataclass(frozen=True)
class Steered(Around):
    """A model whose embeddings are guided.

    model: what it asks. attributes: log p of each thing that is asked of an embedding, (B,) of vectors
    (B, D): their sum, times the strength, is what guides. strength: 0 is no guidance, 1 the classifiers
    as they are. interval: of the times at which guidance acts.
    """

    model: Any
    attributes: tuple[LogAttribute, ...]
    strength: float | Array = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        check_interval(self.interval)

    def __call__(self, z: Array, t: Array, **condition: Array) -> Array:
        """out (B, L, V) of the model, which is not guided."""
        return self.model(z, t, **condition)

    def log_p(self, x: Array) -> Array:
        """What guides, (B,) of vectors x (B, D)."""
        first, *others = (log_p(x) for log_p in self.attributes)
        return self.strength * sum(others, start=first)


@dataclass(frozen=True)
class PlanAndWrite(Sampler):
    """inner: writes the text. steps: of the diffusion. noise: the share of noise in the variance of the
    embedding that the decoder is told of."""

    inner: LeftToRight = LeftToRight()
    steps: int = 50
    noise: float = 0.05
    requires: ClassVar[type] = DGLM
    lacking: ClassVar[str] = "the process plans no text by an embedding of it"
    guides_embeddings: ClassVar[bool] = True

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"PlanAndWrite.steps = {self.steps} must be at least 1")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"PlanAndWrite.noise = {self.noise} is outside [0, 1]")

    def compatibility(self, process):
        return self.unsupported(process) or Compatibility(
            "approximate",
            "the plan in a number of steps, with noise put on it; its calls come besides",
        )

    @property
    def decodes(self):
        return self.inner.decodes

    @property
    def draws_jointly(self):
        return self.inner.draws_jointly

    def calls(self, process, length):
        return self.inner.calls(process, length)

    def run(self, key, process: DGLM, model, shape, known=None, trace=False):
        key_plan, key_noise, key_text = split(key, 3)
        network, pattern = apart(model)
        log_p, interval = None, (0.0, 1.0)
        if isinstance(network, Steered):
            network, log_p, interval = network.model, network.log_p, network.interval
        known_tokens = jnp.full(shape, -1) if known is None else known
        segments = (known_tokens >= 0).astype(jnp.int32)
        given, _ = process.embeddings(network, jnp.maximum(known_tokens, 0), segments)
        plan = process.diffusion.sample(
            key_plan, process.denoiser(network, given), given.shape, self.steps, log_p, interval
        )
        level = jnp.full((shape[0], 1), self.noise)
        writer = process.prompted(network, *process.noisy(key_noise, plan, level))
        if pattern is not None:
            writer = Constrained(writer, pattern)
        return self.inner.run(key_text, process.decoder, writer, shape, known)
