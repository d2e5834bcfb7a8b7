"""The likelihood of some positions of a text given the others, which are known:

    -log p(y | x) <= E sum over the positions of y of the terms of the bound, x clean in every state.

Forward, positions move independently, so the chain over y alone is one of the same process, and x is a
condition of its network. With the exact denoiser of a masked process in continuous time the bound is an
equality, whatever is known. Where a clean token means something else to the network than that it is
known (`Process.known_tokens`), it is the bound of a sampler that clamps, and no bound of p(y | x).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax import Array

from diffusion.model import Model, at_positions, given
from diffusion.process import Likelihood, Sequential, denoising_process
from diffusion.spaces import StateSpace


@dataclass(frozen=True)
class Clamped:
    """A model that is shown the known tokens clean, whatever the state has in their places.

    model: what it asks. space: of its states. known: int (B, L), -1 where a token is not known.
    """

    model: Model
    space: StateSpace
    known: Array

    @property
    def segments(self) -> Array | None:
        """Those of the model, as of `diffusion.model.RowModel`."""
        return self.model.segments

    def __call__(self, z: Array, t: Array, **condition: Array) -> Array:
        """out of the state with the known tokens in it."""
        return self.model(self.space.clamp(z, self.known), t, **condition)

    def at(
        self, function: Callable[..., Array], where: Array | None, x0: Array, z: Array, t: Array
    ) -> Array:
        """As of `diffusion.model.PositionModel`."""
        return at_positions(self.model, function, where, x0, self.space.clamp(z, self.known), t)

    def given(self, **condition: Array) -> "Clamped":
        """As of `diffusion.model.PositionModel`."""
        return replace(self, model=given(self.model, **condition))


@dataclass(frozen=True)
class Conditional:
    """The bound of the positions that are not known, of any process whose bound is a sum over positions.

    base: the process. known: bool (B, L), where x0 is known; of a model from left to right the first
    ones of a row.
    """

    base: Likelihood
    known: Array

    def bound_terms(self, key: Array, model: Model, x0: Array, u: Array) -> dict[str, Array]:
        """As `Likelihood.bound_terms`, 0 where x0 is known."""
        if not isinstance(self.base, Sequential):
            space = denoising_process(self.base).space
            model = Clamped(model, space, jnp.where(self.known, x0, -1))
        terms = self.base.bound_terms(key, model, x0, u)
        return {name: jnp.where(self.known, 0, term) for name, term in terms.items()}
