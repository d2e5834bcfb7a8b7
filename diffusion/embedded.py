"""What processes on embeddings share beside their noise: the embeddings as a setting, learned with the
network or given, and self-conditioning (`diffusion.self_conditioned`).

In training a share of the rows is shown an estimate of the data, made by a first pass over the same z
that no gradient goes into, and all others 0. A bound and a sampler always make both passes.
"""

import copy
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import GaussianProcess, GivenEmbeddings, LearnedEmbeddings
from diffusion.model import Model
from diffusion.process import KnownTokens, Traits
from diffusion.random import split, uniform
from diffusion.self_conditioned import SelfConditioned


class EmbeddedProcess(GaussianProcess):
    """A normal process whose embeddings are a setting; a subclass is a dataclass that has, beside what
    `GaussianProcess` asks for, `embedding` and `self_conditioning`, and gives its loss."""

    embedding: LearnedEmbeddings | GivenEmbeddings
    self_conditioning: float
    """The share of rows that is trained with an estimate; 0 is a network without one."""
    known_tokens: ClassVar[KnownTokens] = "biased"
    token_logits: ClassVar[bool] = False  # the prior term has none

    def __post_init__(self):
        self.embedding.check(self.vocab_size)
        if not 0 <= self.self_conditioning <= 1:
            raise ValueError(
                f"{type(self).__name__}.self_conditioning = {self.self_conditioning} is outside [0, 1]; "
                "it is the share of rows that is trained with an estimate"
            )

    @property
    def traits(self) -> Traits:
        """What of it depends on the settings: the width of the network's input, own parameters, and
        that the shape of a schedule is learned by sums over a row."""
        width = self.embedding.width
        return Traits(
            own_parameters=self.schedule.learned or self.embedding.learned,
            whole_rows=self.schedule.learned,
            vector_width=width and width * (2 if self.self_conditioning else 1),
        )

    def init(self, key: Array) -> dict:
        """{"schedule": ..., "embedding": ...}, of those that are learned."""
        keys = split(key)
        own = {
            "schedule": self.schedule.init(keys[0]),
            "embedding": self.embedding.init(keys[1], self.num_tokens),
        }
        return {name: params for name, params in own.items() if params}

    def bind(self, params: dict) -> Self:
        bound = copy.copy(self)
        vars(bound)["schedule"] = self.schedule.bind(params.get("schedule", {}))
        vars(bound)["_table"] = params.get("embedding", {})
        return bound

    @property
    def embeddings(self) -> Array:
        """E, (V, D): what was bound, or what training starts from."""
        return self.embedding.table(vars(self).get("_table", {}), self.num_tokens)

    def wrapped(self, model: Model) -> Model:
        """As the interface: the model with both passes of self-conditioning."""
        return SelfConditioned(model, self._estimate) if self.self_conditioning else model

    def _estimate(self, out, z, t):
        return self.mean(self.predict(out, z, t))

    def _conditioned(self, key, model, z, t, gamma):
        """The model with an estimate in the rows that are trained so, and 0 in the others."""
        none = jnp.zeros_like(z)
        first = self.mean(self.predict_at(model(z, t, estimate=none), z, gamma))
        chosen = uniform(key, (z.shape[0], 1, 1)) < self.self_conditioning
        estimate = jax.lax.stop_gradient(jnp.where(chosen, first, none))
        return lambda z, t: model(z, t, estimate=estimate)
