"""Embeddings of sentences: the mean over positions of what the last layer of a trained network gives.

    e = (mean_i h_i - m) / d,

with m and d, of each number, mean and standard deviation over rows of the training text, measured
before training begins. Means of hidden states share a large part that tells nothing of a text, and
their numbers are of different sizes; standardised they are what a diffusion with normal noise of
variance 1 expects.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from models.backbone import Backbone
from models.roles import Vector
from models.transformer import Transformer

_LEAST = 1e-6  # of a deviation, as of a number that is the same for every text


@dataclass(frozen=True)
class SentenceEncoder(Backbone):
    """A network of tokens that gives a vector for each text. Its parameters never change.

    trunk: the network whose hidden states are averaged; that of the run where training begins with one.
    """

    output: ClassVar[str] = "vector"
    trunk: Backbone = Transformer()

    @property
    def vocab_size(self) -> int | None:
        """V, of the trunk."""
        return self.trunk.vocab_size

    @property
    def max_length(self):
        return self.trunk.max_length

    @property
    def width(self) -> int:
        """D, how many numbers an embedding has."""
        return _width(self.trunk)

    def init(self, key: Array) -> dict:
        """{"trunk": ..., "mean": (D,), "deviation": (D,)}."""
        params = self.trunk.init(key)
        return {"trunk": params, "mean": jnp.zeros(self.width), "deviation": jnp.ones(self.width)}

    def roles(self):
        return {"trunk": self.trunk.roles(), "mean": Vector(), "deviation": Vector()}

    def apply(
        self, params: dict, z: Array, t: Array, segments: Array | None = None, count: int = 1
    ) -> Array:
        """The embeddings of the texts 1 to `count` of each row, (B, count, D), from tokens z, int (B,
        L); t is not used. segments: int (B, L), the number of the text that a position belongs to, each
        seen by itself alone, 0 for none; None is one text. A text without tokens has the embedding 0.
        """
        segments = jnp.ones_like(z) if segments is None else segments
        mean = self._means(params, z, segments, count)
        embedding = (mean - params["mean"][None, None]) / params["deviation"][None, None]
        empty = ~_own(segments, count).any(1)[..., None]
        return jax.lax.stop_gradient(jnp.where(empty, 0, embedding))

    def _means(self, params, z, segments, count):
        """(B, count, D), before they are standardised."""
        t = jnp.zeros((len(z), 1))
        hidden = self.trunk.features(params["trunk"], z, t, segments=segments)
        own = _own(segments, count).astype(jnp.float32)
        sums = jnp.einsum("bld,bln->bnd", hidden.astype(jnp.float32), own)
        return sums / jnp.maximum(own.sum(1)[..., None], 1)

    def fitted(self, params, tokens):
        """The parameters with mean and deviation of the embeddings of rows of tokens (N, L)."""

        def mean(row):
            return self._means(params, row[None], jnp.ones_like(row)[None], 1)[0, 0]

        found = jax.lax.map(mean, tokens, batch_size=32)
        deviation = jnp.maximum(found.std(0), _LEAST)
        return params | {"mean": found.mean(0), "deviation": deviation}

    def for_runtime(self, attention="auto", dtype=None, remat=None):
        return replace(self, trunk=self.trunk.for_runtime(attention, dtype, remat))

    def like(self, other):
        """An encoder whose trunk is the other network; or the other's own encoder, where it has one."""
        return other.parts.get("encoder") or replace(self, trunk=other)


def _own(segments: Array, count: int) -> Array:
    """Which position belongs to which of the texts 1 to `count`, bool (B, L, count)."""
    return segments[..., None] == jnp.arange(1, count + 1)[None, None]


@lru_cache(maxsize=16)
def _width(trunk: Backbone) -> int:
    """D of what its last layer gives, whatever the number of tokens."""
    if trunk.vocab_size is None:
        trunk = replace(trunk, vocab_size=1)
    key, z, t = jax.random.key(0), jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1))
    return jax.eval_shape(lambda: trunk.features(trunk.init(key), z, t)).shape[-1]
