"""An energy of whole sequences: the backbone, the mean over positions, two layers to one number."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.backbone import Backbone
from models.functional import bind, init, roles
from models.layers import Pooled
from models.transformer import Transformer


class _Head(Pooled):
    """(B, D) -> (B, 1); and a vector that tells proposed tokens from known ones."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        super().__init__(width, 1, rngs)
        self.proposed = nnx.Param(jnp.zeros((width,)))


@dataclass(frozen=True)
class EnergyTransformer(Backbone):
    """E(x, z, t) of tokens x proposed for the masked positions of z.

    backbone: its layers, with the parameters of a `Transformer`, so that it can begin with a trained
    one's.
    """

    backbone: Transformer = Transformer()
    output: ClassVar[str] = "energy"

    @property
    def vocab_size(self) -> int | None:
        """V, of the backbone."""
        return self.backbone.vocab_size

    def init(self, key: Array) -> dict:
        """Parameters as those of `Transformer.init`, and those of the head, "energy"."""
        key_backbone, key_head = jax.random.split(key)
        return self.backbone.init(key_backbone) | {"energy": init(self._head, key_head)}

    def roles(self):
        return self.backbone.roles() | {"energy": roles(self._head)}

    def apply(
        self,
        params: dict,
        x: Array,
        t: Array,
        dropout_keys: Array | None = None,
        *,
        state: Array,
    ) -> Array:
        """E, float32 (B,), from x and state z, both int (B, L), and t (B, 1)."""
        head = bind(self._head, params["energy"])
        proposed = (state == self.backbone.vocab_size).reshape(-1, 1) * head.proposed[...][None]
        features = self.backbone.features(params, x, t, dropout_keys, added=proposed)
        return head(features.mean(1))[:, 0]

    def _head(self, rngs: nnx.Rngs) -> _Head:
        return _Head(self.backbone.width, rngs)
