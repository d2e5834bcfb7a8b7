"""What processes on embeddings share beside their noise: the embeddings as a setting, learned with the
network or given, and self-conditioning (`diffusion.self_conditioned`).

In training a share of the rows is shown an estimate of the data, made by a first pass over the same z
that no gradient goes into, and all others 0. A bound and a sampler always make both passes.

Where the training loss is not the bound, the schedule is chosen for training, and the bound, which does
not depend on it (`diffusion.gaussian`), is estimated at times that are uniform in -log SNR.
"""

import copy
from dataclasses import replace
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import GaussianProcess, GivenEmbeddings, LearnedEmbeddings, OneHot
from diffusion.model import Model
from diffusion.process import KnownTokens, Traits
from diffusion.random import split, uniform
from diffusion.self_conditioned import SelfConditioned


class EmbeddedProcess(GaussianProcess):
    """A normal process whose embeddings are a setting; a subclass is a dataclass that has, beside what
    `GaussianProcess` asks for, `embedding` and `self_conditioning`, and gives its loss."""

    embedding: LearnedEmbeddings | GivenEmbeddings | OneHot
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
        width = self.embedding.columns(self.vocab_size)
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

    def predicted(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        """log p0 (B, L, V) at the times u (B, 1), in training: what a loss of its own is of."""
        key_state, key_estimate = split(key)
        gamma = self.schedule.gamma(u)
        z = self.corrupt_to(key_state, x0, gamma)
        if self.self_conditioning:
            model = self._conditioned(key_estimate, model, z, u, gamma)
        return self.predict_at(model(z, u), z, gamma)


class OwnLoss(EmbeddedProcess):
    """An embedded process whose training loss is not the bound, and whose schedule is not learned."""

    def __post_init__(self):
        super().__post_init__()
        if self.schedule.learned:
            name = type(self).__name__
            raise ValueError(
                f"{name}.schedule = {type(self.schedule).__name__} is learned, but the loss is not "
                "the bound and teaches it nothing; take LinearLogSNR, SqrtLogSNR or another"
            )

    @property
    def traits(self) -> Traits:
        """As of other processes on embeddings, with a loss of its own."""
        return replace(super().traits, own_loss=True)

    def even(self, u: Array) -> tuple[Array, Array]:
        """(t, 1 / its density), (B, 1) each, of u uniform in (0, 1): -log SNR at t is uniform."""
        ends = self.schedule.gamma(jnp.array([[0.0], [1.0]], u.dtype))
        start, span = ends[:1], ends[1:] - ends[:1]
        t = self.schedule.time(start + span * u)
        return t, span / self.schedule.rate(t)

    def bound_terms(self, key: Array, model: Model, x0: Array, u: Array) -> dict[str, Array]:
        t, scale = self.even(u)
        terms = super().bound_terms(key, model, x0, t)
        return terms | {"diffusion": scale * terms["diffusion"]}
