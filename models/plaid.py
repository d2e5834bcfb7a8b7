"""The network of Plaid (arXiv 2305.18619), in the form of its published code.

Pre-norm layers of rotary attention and feed-forward, both times 1 / sqrt(N) where they are added. It
reads vectors [z, estimate] and gamma = -log SNR, through a dense layer each; gamma by sinusoids,

    [sin(f (gamma - shift)), cos(f (gamma - shift))],    f = e^-5 ... e^5.

What the head reads is divided by width / 256, as the code trains networks of any width.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from models.encoder import Encoder
from models.functional import bind
from models.layers import (
    LAST,
    MLP,
    OUTER,
    constrain_batch,
    dropout,
    linear,
    normalisation,
    per_position,
)

FREQUENCIES = 32
_BASE_WIDTH = 256


@dataclass(frozen=True)
class PlaidTransformer(Encoder):
    """Plaid's network, of vectors whose process tells it -log SNR (`Plaid.told`).

    vector_width: of [z, estimate]; filled in as the process asks. shift: what is taken from -log SNR;
    log D for embeddings of norm sqrt(D), where the published code has 1.
    """

    inputs: ClassVar[tuple[str, ...]] = ("vectors",)
    biased: ClassVar[bool] = False
    vector_width: int | None = None
    shift: float = 0.0

    def for_process(self, attention_block, vector_width):
        if vector_width is None or vector_width % 2:
            raise ValueError(
                f"model PlaidTransformer reads vectors beside an estimate of them, not a width of "
                f"{vector_width}; take process Plaid with self_conditioning above 0, or Transformer"
            )
        super().for_process(attention_block, None)
        return replace(self, vector_width=vector_width)

    def flops_per_token(self, length):
        if self.vocab_size is None:
            return None
        D = self.width
        layer = 4 * D**2 + 2 * D * self.hidden + 2 * length * D
        return 2 * (self.num_layers * layer + D * self.vocab_size)

    def _embedded(self, params, z, t, segments):
        return bind(self._ends, params["ends"]).embed(z, t)

    def _block(self, rngs):
        return Block(self, self._dtype, rngs)

    def _ends(self, rngs):
        return Ends(self, self._dtype, rngs)


class Ends(nnx.Module):
    """What stands around the layers."""

    def __init__(self, config: PlaidTransformer, dtype: DTypeLike, rngs: nnx.Rngs):
        half, width = (config.vector_width or 2) // 2, config.width
        self.dtype, self.half, self.shift = dtype, half, config.shift
        self.vectors = linear(half, width, dtype, rngs, OUTER)
        self.estimate = linear(half, width, dtype, rngs, OUTER)
        self.time = linear(2 * FREQUENCIES, width, dtype, rngs, OUTER)
        self.norm = normalisation("layer", width, dtype, rngs, config.norm_eps)
        self.head = linear(width, config.num_tokens, dtype, rngs, LAST, scale=0, bias=True)
        self.divided = width / _BASE_WIDTH

    def embed(self, z: Array, gamma: Array) -> Array:
        """(B*L, D) from [z, estimate] (B, L, 2 x half) and gamma, (B, 1) or (B, L)."""
        if z.shape[-1] != 2 * self.half:
            raise ValueError(
                f"a state of width {z.shape[-1]}, and the network was made for vectors of width "
                f"{2 * self.half}"
            )
        frequencies = jnp.exp(jnp.linspace(-5.0, 5.0, FREQUENCIES))[None, None]
        angles = (gamma.astype(jnp.float32) - self.shift)[..., None] * frequencies
        time = self.time(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1))
        x = rearrange(z, "b l d -> (b l) d").astype(self.dtype)
        x = self.vectors(x[:, : self.half]) + self.estimate(x[:, self.half :])
        return x + per_position(time, z.shape[1]).astype(x.dtype)

    def logits(self, x: Array) -> Array:
        """(B*L, V) from what the last layer gives, (B*L, D)."""
        return self.head(constrain_batch(self.norm(x)) / self.divided)


class Block(nnx.Module):
    """One pre-norm layer: attention, then the feed-forward layer."""

    def __init__(self, config: PlaidTransformer, dtype: DTypeLike, rngs: nnx.Rngs):
        self.rate, self.scale = config.dropout, config.num_layers**-0.5
        width, eps = config.width, config.norm_eps
        self.norm_attention = normalisation("rms", width, dtype, rngs, eps)
        self.attention = config.attention_layer(dtype, 1.0, rngs)
        self.norm_mlp = normalisation("rms", width, dtype, rngs, eps)
        self.mlp = MLP(width, config.hidden, "gelu", False, dtype, 1.0, rngs)

    def __call__(
        self, x: Array, length: int, mask: Array | None, keys: Array | None = None
    ) -> Array:
        """The activations (B*L, D) after this layer."""
        rows = x.shape[0] // length
        first, second = (None, None) if keys is None else jnp.moveaxis(keys, 1, 0)
        h, _ = self.attention(self.norm_attention(x), np.arange(length), mask)
        x = x + self.scale * dropout(h, self.rate, first, rows)
        return x + self.scale * dropout(self.mlp(self.norm_mlp(x)), self.rate, second, rows)
