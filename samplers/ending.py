"""Texts that end before their last position: at a stop token that is drawn.

A row ends at the first stop token after all that is known of it. What stands after it is that token
again, and nothing there is text. Where what comes later changes nothing of what stands (from left to
right, and where a revealed token stays), the text up to the end is distributed as if the row had been
sampled to its last position: a sampler with the setting `stop` saves the calls, and changes no text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from diffusion.model import Around, Model
from diffusion.numerics import log_softmax
from diffusion.process import Objective, Sequential, denoising_process


def last_known(known: Array | None, rows: int) -> Array:
    """The last known position of each row, int (B, 1), -1 where there is none; known (B, L)."""
    if known is None:
        return jnp.full((rows, 1), -1)
    places = jnp.arange(known.shape[1])[None]
    return jnp.max(jnp.where(known >= 0, places, -1), axis=1, keepdims=True)


def ends(x0: Array, stop: Sequence[int], last: Array, first: int | Array = 0) -> Array:
    """Where a text may end, bool (B, n): stop tokens of x0 (B, n) after position `last` (B, 1); first:
    the position of x0's first."""
    after = first + jnp.arange(x0.shape[1])[None] > last
    return after & jnp.isin(x0, jnp.asarray(stop, jnp.int32))


def padded(x0: Array, stop: Sequence[int], known: Array | None = None) -> Array:
    """x0 (B, L) with the stop token that ends a row at all positions after it; known (B, L)."""
    if not stop:
        return x0
    at_end = ends(x0, stop, last_known(known, len(x0)))
    first = jnp.argmax(at_end, axis=1, keepdims=True)
    after = at_end.any(1, keepdims=True) & (jnp.arange(x0.shape[1])[None] > first)
    return jnp.where(after, jnp.take_along_axis(x0, first, axis=1), x0)


def nothing_to_draw(known: Array, ended: Array, stop: Sequence[int]) -> Array:
    """known (B, n) with a token at every position of the rows that have ended (B,), so that a sampler
    that ends its rows each in its own time does not wait for these."""
    return jnp.where(ended[:, None] & (known < 0), stop[0], known) if stop else known


@dataclass(frozen=True)
class Suppressed(Around):
    """A model that gives no stop token a probability before a position of each row.

    process: the process that reads it, or is left to right. model: what it asks. stop: the tokens.
    until: int (B,), the first position of each row where they may stand. A sampler with K particles a
    row asks for all rows K times, particle by particle.
    """

    process: Objective
    model: Any
    stop: tuple[int, ...]
    until: Array

    def __call__(self, z: Array, t: Array, **condition: Array) -> Array:
        """out (B, L, V): what the model would put out if it held the distribution without them."""
        return self._without(self.model(z, t, **condition), z, t, 0)

    def cache(self, rows: int, length: int) -> Any:
        """That of the model."""
        return self.model.cache(rows, length)

    def decode(self, z: Array, t: Array, cache: Any, start: Array, *more: Any) -> tuple[Array, Any]:
        """As `models.backbone.Network.decode`."""
        out, cache = self.model.decode(z, t, cache, start, *more)
        return self._without(out, z, t, start), cache

    @property
    def energy(self) -> Model:
        """The second network of a residual energy, as it is."""
        return self.model.energy

    def _without(self, out, z, t, first):
        until = jnp.tile(self.until, len(z) // len(self.until))[:, None]
        early = (first + jnp.arange(z.shape[1])[None] < until)[..., None]
        is_stop = jnp.zeros(out.shape[-1], bool).at[jnp.asarray(self.stop)].set(True)
        banned = early & is_stop[None, None]
        if isinstance(self.process, Sequential):
            return jnp.where(banned, -jnp.inf, out)
        process = denoising_process(self.process)
        log_p0 = process.predict(out, z, t)
        left = jnp.where(banned, -jnp.inf, log_p0)
        # A position that is certain already (a known token) stays what it is.
        left = jnp.where(jnp.isneginf(left).all(-1, keepdims=True), log_p0, log_softmax(left))
        return jnp.where(early, process.invert_predict(left, z, t), out)
