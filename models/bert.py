"""BERT with the head of masked language models (Devlin et al., arXiv 1810.04805), as published.

    x = norm(token + position + type 0)
    x = norm(x + attention(x));  x = norm(x + W2 gelu(W1 x))      N times, the exact GELU
    logits = E norm(gelu(W x)) + b                                E the embeddings of the V tokens

DiffusionBERT (arXiv 2211.15029) is the spindle schedule on it: configs/lm1b/diffusion_bert.py.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from models.encoder import Encoder, Ends, table
from models.layers import MLP, dropout, embedding_lookup, placed, places_within


@dataclass(frozen=True)
class Bert(Encoder):
    """BERT, by default of the size of bert-base.

    learned_positions: the most positions of a text, each of which has a vector of its own. num_types:
    rows of the table of token types, of which the first alone is used.
    """

    biased: ClassVar[bool] = True
    norm_eps: float = 1e-12
    learned_positions: int = 512
    num_types: int = 2

    def __post_init__(self):
        super().__post_init__()
        for name in ("learned_positions", "num_types"):
            if getattr(self, name) < 1:
                raise ValueError(f"Bert.{name} = {getattr(self, name)} must be at least 1")

    @property
    def max_length(self):
        return self.learned_positions

    def flops_per_token(self, length):
        if self.vocab_size is None:
            return None
        D = self.width
        layer = 4 * D**2 + 2 * D * self.hidden + 2 * length * D
        return 2 * (self.num_layers * layer + D**2 + D * self.vocab_size)

    def _block(self, rngs):
        return Block(self, self._dtype, rngs)

    def _ends(self, rngs):
        return EndsWithPositions(self, self._dtype, rngs)


class EndsWithPositions(Ends):
    """As `Ends`, with learned positions and token types."""

    def __init__(self, config: Bert, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(config, dtype, rngs)
        self.positions = table(config.learned_positions, config.width, rngs)
        self.types = table(config.num_types, config.width, rngs)

    def embed(self, z: Array, segments: Array | None) -> Array:
        """(B*L, D) from tokens z (B, L); the positions of each segment begin at 0."""
        x = embedding_lookup(self.embedding[...], z.reshape(-1), self.dtype)
        places = np.arange(z.shape[1]) if segments is None else places_within(segments)
        x = placed(x, self.positions[...], places)
        return self.norm(x + self.types[...][:1].astype(self.dtype))


class Block(nnx.Module):
    """One post-norm layer: attention, then the feed-forward layer."""

    def __init__(self, config: Bert, dtype: DTypeLike, rngs: nnx.Rngs):
        self.rate = config.dropout
        self.attention = config.attention_layer(
            dtype, 1.0, rngs, attention_bias="zero", attention_out_bias=True, learned_positions=1
        )
        self.norm_attention = config.norm(dtype, rngs)
        self.mlp = MLP(config.width, config.hidden, "gelu_exact", True, dtype, 1.0, rngs)
        self.norm_mlp = config.norm(dtype, rngs)

    def __call__(
        self, x: Array, length: int, mask: Array | None, keys: Array | None = None
    ) -> Array:
        """The activations (B*L, D) after this layer."""
        rows = x.shape[0] // length
        first, second = (None, None) if keys is None else jnp.moveaxis(keys, 1, 0)
        h, _ = self.attention(x, np.arange(length), mask)
        x = self.norm_attention(x + dropout(h, self.rate, first, rows))
        return self.norm_mlp(x + dropout(self.mlp(x), self.rate, second, rows))
