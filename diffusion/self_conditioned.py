"""Self-conditioning (Chen et al., arXiv 2208.04202): a network that also reads an estimate of the data.

It reads vectors [z, estimate] of twice the width. Asked of z alone it goes twice over the same state,
with the estimate 0 and then with its own, so what it says is a function of z: a deeper network.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from diffusion.model import Around, Model, at_positions


@dataclass(frozen=True)
class SelfConditioned(Around):
    """A model of z from one of [z, estimate].

    model: the network. estimate: estimate(out, z, t) -> (B, L, D), of what it says of z.
    """

    model: Model
    estimate: Callable[[Array, Array, Array], Array]

    def __call__(
        self, z: Array, t: Array, estimate: Array | None = None, **condition: Array
    ) -> Array:
        """out (B, L, V); estimate: (B, L, D) to be read, None for the model's own."""
        if estimate is None:
            estimate = self._first(z, t, **condition)
        return self.model(jnp.concatenate([z, estimate], axis=-1), t, **condition)

    def _first(self, z, t, **condition):
        return self.estimate(self(z, t, estimate=jnp.zeros_like(z), **condition), z, t)

    def at(
        self, function: Callable[..., Array], where: Array | None, x0: Array, z: Array, t: Array
    ) -> Array:
        """As of `diffusion.model.PositionModel`."""

        def of_state(out, x0, both, t):
            return function(out, x0, both[..., : z.shape[-1]], t)

        both = jnp.concatenate([z, self._first(z, t)], axis=-1)
        return at_positions(self.model, of_state, where, x0, both, t)
