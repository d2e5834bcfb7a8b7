"""The backbone of texts that grow by insertion: a transformer that also says how many tokens are missing
after each position, and before the first (`diffusion.flex_mdm`).

A position sees those of its own segment alone, and what it does not see hardly tells it that nothing
stands after it: the first and the last of a text are told so by a vector of their own. Two more tell of
gaps that are closed, where nothing can be missing, amid text that is known.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.functional import bind, init, roles
from models.layers import LAST, linear
from models.transformer import Transformer


class _Gaps(nnx.Module):
    """(N, D) -> (N, 2), and vectors that tell the first and the last position of a text, and that the
    gap after a position, or before the first, is closed."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.out = linear(width, 2, jnp.float32, rngs, LAST, scale=0, bias=True)
        self.told = nnx.Param(jnp.zeros((4, width)))


@dataclass(frozen=True)
class InsertionTransformer(Transformer):
    """A `Transformer` with the same settings and two more numbers out: `out` is (B, L, V + 2), after the
    logits log of the expected number of tokens that are missing after the position, and before it, which
    is meant at the first of a text, each over 1 - alpha(t).

    The rest of its parameters are a `Transformer`'s, so that it can begin with a trained one's.
    """

    inserts: ClassVar[bool] = True

    def init(self, key: Array) -> dict:
        """Parameters as those of `Transformer.init`, and those of the gaps, "gaps"."""
        key_backbone, key_gaps = jax.random.split(key)
        return super().init(key_backbone) | {"gaps": init(self._gaps, key_gaps)}

    def roles(self):
        return super().roles() | {"gaps": roles(self._gaps)}

    def apply(self, params, z, t, **condition):
        """As of `Transformer.apply`, with `gaps` besides (`features`)."""
        return self.head(params, self.features(params, z, t, **condition))

    def features(
        self,
        params: dict,
        z: Array,
        t: Array,
        *more: Array | None,
        segments: Array | None = None,
        gaps: Array | None = None,
        **condition: Array | None,
    ) -> Array:
        """As of `Transformer.features`. gaps: int (B, L), 1 where tokens may be missing after a
        position, and 2 more at the first of a text where they may be before it; None is everywhere."""
        there = jnp.ones(z.shape[:2], bool) if segments is None else segments > 0
        neighbours = jnp.pad(there, ((0, 0), (1, 1)))
        first, last = (there & ~neighbours[:, n : n + z.shape[1]] for n in (0, 2))
        gaps = jnp.full(z.shape[:2], 3) if gaps is None else gaps
        told = jnp.stack([first, last, there & (gaps % 2 == 0), first & (gaps < 2)], axis=-1)
        vectors = bind(self._gaps, params["gaps"]).told[...]
        added = told.reshape(-1, 4).astype(vectors.dtype) @ vectors
        return super().features(params, z, t, *more, segments=segments, added=added, **condition)

    def head(self, params, features):
        gaps = bind(self._gaps, params["gaps"]).out(features.reshape(-1, self.width))
        logits = super().head(params, features)
        return jnp.concatenate([logits, gaps.reshape(*logits.shape[:2], 2)], axis=-1)

    def _gaps(self, rngs: nnx.Rngs) -> _Gaps:
        return _Gaps(self.width, rngs)
