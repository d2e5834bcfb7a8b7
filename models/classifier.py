"""A classifier of sequences: the backbone, the mean over positions, two layers to the labels."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.functional import bind, init, roles
from models.layers import Pooled
from models.transformer import Transformer


@dataclass(frozen=True)
class Classifier(Transformer):
    """A classifier with the settings of a `Transformer`, but for one.

    num_labels: how many it tells apart, not what it is given, so they ask for no time conditioning. The
    rest of its parameters are a `Transformer`'s, so that it can begin with a trained one's.
    """

    output: ClassVar[str] = "label"
    decodes: ClassVar[bool] = False

    @property
    def given_labels(self) -> None:
        """None: the network is given no labels."""
        return None

    def init(self, key: Array) -> dict:
        """Parameters as those of `Transformer.init`, and those of the head, "classifier"."""
        key_backbone, key_head = jax.random.split(key)
        return super().init(key_backbone) | {"classifier": init(self._head, key_head)}

    def roles(self):
        return super().roles() | {"classifier": roles(self._head)}

    def apply(
        self,
        params: dict,
        z: Array,
        t: Array,
        dropout_keys: Array | None = None,
        *,
        label: Array,
    ) -> Array:
        """log p(label | z, t), float32 (B,), from z: int (B, L), or float (B, L, V) on the simplex, or
        float (B, L, V + 1), one-hot states with the mask; label: int (B,), or (1,), that of all."""
        log_p = self.log_p_labels(params, z, t, dropout_keys)
        label = jnp.broadcast_to(label, (len(z),))
        return jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]

    def log_p_labels(
        self, params: dict, z: Array, t: Array, dropout_keys: Array | None = None
    ) -> Array:
        """log p(label | z, t) of every label, (B, N), as of `apply`."""
        features = self.features(params, z, t, dropout_keys)
        return jax.nn.log_softmax(bind(self._head, params["classifier"])(features.mean(1)))

    def _head(self, rngs: nnx.Rngs) -> Pooled:
        if self.num_labels is None:
            raise ValueError(
                "Classifier.num_labels = None is filled in when the data is read; give a number to use "
                "the network without data"
            )
        return Pooled(self.width, self.num_labels, rngs)
