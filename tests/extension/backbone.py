"""A network of one's own: every position sees its neighbours' embeddings and the mean of all.

ddlm train --config tests/extension/backbone.py --workdir runs/own-backbone
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from configs import smoke
from models.backbone import Backbone
from models.roles import Matrix, Table


@dataclass(frozen=True)
class LocalMixer(Backbone):
    """width: of the embeddings and of the layer; reach: how many positions left and right are seen."""

    vocab_size: int | None = None
    width: int = 32
    reach: int = 2

    def init(self, key):
        keys = jax.random.split(key, 3)
        seen = (2 * self.reach + 2) * self.width
        return {
            "table": jax.random.normal(keys[0], (self.vocab_size + 1, self.width)),
            "mix": {"w": jax.random.normal(keys[1], (seen, self.width)) * seen**-0.5},
            "say": {"w": jnp.zeros((self.width, self.vocab_size))},
        }

    def roles(self):
        head = Matrix(hidden=False, closing=True)
        return {"table": Table(), "mix": {"w": Matrix()}, "say": {"w": head}}

    def apply(self, params, z, t, dropout_keys=None):
        x, r = params["table"][z], self.reach
        padded = jnp.pad(x, ((0, 0), (r, r), (0, 0)))
        shifted = [padded[:, n : n + x.shape[1]] for n in range(2 * r + 1)]
        mean = jnp.broadcast_to(x.mean(1, keepdims=True), x.shape)
        seen = jnp.concatenate([*shifted, mean], axis=-1)
        return jax.nn.gelu(seen @ params["mix"]["w"]) @ params["say"]["w"]


def get_config():
    return replace(smoke.get_config(), model=LocalMixer())
