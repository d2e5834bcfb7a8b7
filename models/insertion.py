"""The backbone of texts that grow by insertion: a transformer that also says how many tokens are missing
after each position, and before the first (`diffusion.flex_mdm`).

A position sees those of its own segment alone, and what it does not see hardly tells it that nothing
stands after it: the first and the last of a text are told so by a vector of their own.
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
    """(N, D) -> (N, 2), and vectors that tell the first and the last position of a text."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.out = linear(width, 2, jnp.float32, rngs, LAST, scale=0, bias=True)
        self.first = nnx.Param(jnp.zeros((width,)))
        self.last = nnx.Param(jnp.zeros((width,)))


@dataclass(frozen=True)
class InsertionTransformer(Transformer):
    """A `Transformer` with the same settings and two more numbers out: `out` is (B, L, V + 2), after the
    logits log of the expected number of tokens that are missing after the position, and before it, which
    is meant at the first of a text.

    The rest of its parameters are a `Transformer`'s, so that it can begin with a trained one's.
    """

    inserts: ClassVar[bool] = True

    def init(self, key: Array) -> dict:
        """Parameters as those of `Transformer.init`, and those of the gaps, "gaps"."""
        key_backbone, key_gaps = jax.random.split(key)
        return super().init(key_backbone) | {"gaps": init(self._gaps, key_gaps)}

    def roles(self):
        return super().roles() | {"gaps": roles(self._gaps)}

    def features(
        self, params, z, t, dropout_keys=None, label=None, context=None, segments=None,
        visible=None, added=None,
    ):  # fmt: skip
        gaps = bind(self._gaps, params["gaps"])
        there = jnp.ones(z.shape[:2], bool) if segments is None else segments > 0
        neighbours = jnp.pad(there, ((0, 0), (1, 1)))
        first, last = (there & ~neighbours[:, n : n + z.shape[1]] for n in (0, 2))
        ends = first.reshape(-1, 1) * gaps.first[...][None]
        ends = ends + last.reshape(-1, 1) * gaps.last[...][None]
        added = ends if added is None else added + ends
        return super().features(
            params, z, t, dropout_keys, label, context, segments, visible, added
        )

    def head(self, params, features):
        gaps = bind(self._gaps, params["gaps"]).out(features.reshape(-1, self.width))
        logits = super().head(params, features)
        return jnp.concatenate([logits, gaps.reshape(*logits.shape[:2], 2)], axis=-1)

    def _gaps(self, rngs: nnx.Rngs) -> _Gaps:
        return _Gaps(self.width, rngs)
