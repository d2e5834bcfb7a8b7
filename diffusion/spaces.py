"""What a noisy state is made of: tokens, points of the simplex, or vectors of an embedding space.

The sampling loop, traces and guidance work on states of any process through these few methods, and
never ask an array how many axes it has. `known` is int (B, L), -1 where nothing is known.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


class StateSpace(ABC):
    """Where the states z of a process live; a process has one as its `space`."""

    mask: int | None = None
    """The number of the mask among the states; None where there is no mask."""

    @abstractmethod
    def empty(self, shape: tuple[int, int]) -> Array:
        """An array of the shape and type of the states of a batch of `shape` (B, L), all zeros."""

    @abstractmethod
    def pure(self, x: Array) -> Array:
        """The states that are certainly the tokens x, int (B, L); any state where x is -1."""

    @abstractmethod
    def tokens(self, z: Array) -> Array:
        """int32 (B, L): the token that stands at each position, the likeliest where several do; the
        mask where it is masked."""

    @abstractmethod
    def weights(self, z: Array) -> Array:
        """float (B, L, V): how much of each token stands at each position; 0 of all under a mask."""

    @abstractmethod
    def distance(self, a: Array, b: Array) -> Array:
        """float (B, L): how far apart two states are at each position; 0 where they are equal."""

    def clamp(self, z: Array, known: Array | None) -> Array:
        """The states z with the known tokens in their places, clean."""
        if known is None:
            return z
        is_known = (known >= 0).reshape(known.shape + (1,) * (z.ndim - known.ndim))
        return jnp.where(is_known, self.pure(known).astype(z.dtype), z)


@dataclass(frozen=True)
class Tokens(StateSpace):
    """States are int (B, L) below `num_states`: V tokens and, where there is one more, the mask.

    vocab_size: V. num_states: S, V or V + 1.
    """

    vocab_size: int
    num_states: int

    @property
    def mask(self) -> int | None:
        """V where the mask is one of the states, else None."""
        return self.vocab_size if self.num_states > self.vocab_size else None

    def empty(self, shape: tuple[int, int]) -> Array:
        return jnp.zeros(shape, jnp.int32)

    def pure(self, x: Array) -> Array:
        return x

    def tokens(self, z: Array) -> Array:
        return z.astype(jnp.int32)

    def weights(self, z: Array) -> Array:
        return jax.nn.one_hot(z, self.vocab_size)

    def distance(self, a: Array, b: Array) -> Array:
        return (a != b).astype(jnp.float32)


@dataclass(frozen=True)
class Simplex(StateSpace):
    """States are float (B, L, V), not negative and of sum 1: weights of the tokens at each position.

    vocab_size: V.
    """

    vocab_size: int

    def empty(self, shape: tuple[int, int]) -> Array:
        return jnp.zeros((*shape, self.vocab_size))

    def pure(self, x: Array, dtype: DTypeLike = jnp.float32) -> Array:
        """(B, L, V): the vertices of the simplex at the tokens x."""
        return jax.nn.one_hot(x, self.vocab_size, dtype=dtype)

    def tokens(self, z: Array) -> Array:
        return jnp.argmax(z, axis=-1).astype(jnp.int32)

    def weights(self, z: Array) -> Array:
        return z

    def distance(self, a: Array, b: Array) -> Array:
        return jnp.abs(a - b).max(-1)


@dataclass(frozen=True)
class Vectors(StateSpace):
    """States are float (B, L, D): vectors near those of the tokens.

    embeddings: (V, D), one row a token.
    """

    embeddings: Array = field(compare=False)

    def empty(self, shape: tuple[int, int]) -> Array:
        return jnp.zeros((*shape, self.embeddings.shape[1]))

    def pure(self, x: Array) -> Array:
        return self.embeddings[jnp.maximum(x, 0)]

    def tokens(self, z: Array) -> Array:
        """int32 (B, L): the tokens whose vectors are nearest in the Euclidean distance."""
        closeness = z @ self.embeddings.T - (self.embeddings**2).sum(-1)[None, None] / 2
        return jnp.argmax(closeness, axis=-1).astype(jnp.int32)

    def weights(self, z: Array) -> Array:
        return jax.nn.one_hot(self.tokens(z), len(self.embeddings))

    def distance(self, a: Array, b: Array) -> Array:
        return jnp.linalg.norm(a - b, axis=-1)
