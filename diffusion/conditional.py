"""The likelihood of some positions of a text given the others, which are known:

    -log p(y | x) <= E sum over the positions of y of the terms of the bound, x clean in every state.

Forward, positions move independently, so the chain over y alone is one of the same process, and x is a
condition of its network: whatever that says, it is a bound for the sampler that clamps x. With the exact
denoiser of a masked process in continuous time it is an equality, whatever is known. Where a clean token
means something else to the network than that it is known (`Process.known_tokens`), that sampler has
another distribution than p(y | x) of the joint model. A network that was trained with x clean at all
times, with `loss`, is a model of p(y | x) alone, and then it is the same for every process.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from diffusion.model import Around, Model, at_positions
from diffusion.process import Likelihood, Objective, Sequential, denoising_process
from diffusion.spaces import StateSpace


@dataclass(frozen=True)
class Clamped(Around):
    """A model that is shown the known tokens clean, whatever the state has in their places.

    model: what it asks. space: of its states. known: int (B, L), -1 where a token is not known.
    """

    model: Model
    space: StateSpace
    known: Array

    def __call__(self, z: Array, t: Array, **condition: Array) -> Array:
        """out of the state with the known tokens in it."""
        return self.model(self.space.clamp(z, self.known), t, **condition)

    def at(
        self, function: Callable[..., Array], where: Array | None, x0: Array, z: Array, t: Array
    ) -> Array:
        """As of `diffusion.model.PositionModel`; where some positions are asked for, 0 at the known."""
        where = None if where is None else where & (self.known < 0)
        return at_positions(self.model, function, where, x0, self.space.clamp(z, self.known), t)


def clamped(objective: Objective, model: Model, x0: Array, known: Array) -> Model:
    """The model that is shown x0 clean where `known`, bool (B, L), as the objective asks it."""
    if isinstance(objective, Sequential):
        return model  # which reads no noise
    return Clamped(model, denoising_process(objective).space, jnp.where(known, x0, -1))


@dataclass(frozen=True)
class Conditional:
    """Loss and bound of the positions that are not known, of any process where they are sums over
    positions.

    base: the process. known: bool (B, L), where x0 is known; of a model from left to right the first
    ones of a row.
    """

    base: Objective
    known: Array

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        """As `Objective.loss`, 0 where x0 is known."""
        loss = self.base.loss(key, clamped(self.base, model, x0, self.known), x0, u)
        return jnp.where(self.known, 0, loss)

    def bound_terms(self, key: Array, model: Model, x0: Array, u: Array) -> dict[str, Array]:
        """As `Likelihood.bound_terms`, 0 where x0 is known."""
        assert isinstance(self.base, Likelihood)  # the caller's
        terms = self.base.bound_terms(key, clamped(self.base, model, x0, self.known), x0, u)
        return {name: jnp.where(self.known, 0, term) for name, term in terms.items()}
