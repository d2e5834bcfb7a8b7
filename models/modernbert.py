"""ModernBERT with the head of masked language models (Warner et al., arXiv 2412.13663), as published.

    x = norm(token)
    x = x + attention(norm(x));  x = x + Wo (gelu(a) * b), [a, b] = Wi norm(x)      N times
    logits = E norm(gelu(W norm(x))) + b                          E the embeddings of the V tokens

The first layer's attention reads x itself. Every third layer sees the whole text, the others a window
around each position; each kind has rotary positions of its own base. The exact GELU; no biases but b.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from models.encoder import Encoder, Ends
from models.layers import MLP, dropout


@dataclass(frozen=True)
class ModernBert(Encoder):
    """ModernBERT, by default of the size of ModernBERT-base.

    global_every: of so many layers the first sees the whole text. local_attention: the width of the
    window in the others, half of it to each side. global_base, local_base: of their rotary positions.
    """

    biased: ClassVar[bool] = False
    num_layers: int = 22
    hidden: int = 1152
    global_every: int = 3
    local_attention: int = 128
    global_base: float = 160_000.0
    local_base: float = 10_000.0

    def __post_init__(self):
        super().__post_init__()
        if self.global_every < 1 or self.local_attention < 0:
            raise ValueError(
                f"ModernBert.global_every = {self.global_every} must be at least 1, and "
                f"local_attention = {self.local_attention} at least 0"
            )

    def init(self, key: Array) -> dict:
        """As of `Encoder.init`; the normalisations before attention are of all layers but the first,
        (N - 1, ...)."""
        params = super().init(key)
        layers = params["layers"]
        norms = jax.tree.map(lambda leaf: leaf[1:], layers["norm_attention"])
        return params | {"layers": layers | {"norm_attention": norms}}

    def flops_per_token(self, length):
        if self.vocab_size is None:
            return None
        D = self.width
        layer = 4 * D**2 + 3 * D * self.hidden + 2 * length * D
        return 2 * (self.num_layers * layer + D**2 + D * self.vocab_size)

    def _through(self, layer, x, layers, keys):
        rest = {name: part for name, part in layers.items() if name != "norm_attention"}
        first, later = (
            jax.tree.map(lambda leaf, at=at: leaf[at], (rest, keys)) for at in (0, np.s_[1:])
        )
        x = layer(ModernBert._first, x, *first)
        later = (later[0] | {"norm_attention": layers["norm_attention"]}, later[1])
        whole, local = (partial(layer, f) for f in (ModernBert._block, ModernBert._local))
        sees_all = np.arange(1, self.num_layers) % self.global_every == 0
        if self.scan:

            def either(x, xs):
                return jax.lax.cond(xs[0], whole, local, x, *xs[1:]), None

            return jax.lax.scan(either, x, (jnp.asarray(sees_all), *later))[0]
        for n, every in enumerate(sees_all):
            chosen = whole if every else local
            x = chosen(x, *jax.tree.map(lambda leaf, n=n: leaf[n], later))
        return x

    def _block(self, rngs):
        return Block(self, self._dtype, rngs)

    def _first(self, rngs: nnx.Rngs) -> "Block":
        return Block(self, self._dtype, rngs, first=True)

    def _local(self, rngs: nnx.Rngs) -> "Block":
        return Block(self, self._dtype, rngs, reach=self.local_attention // 2)

    def _ends(self, rngs):
        return EndsWithFinalNorm(self, self._dtype, rngs)


class EndsWithFinalNorm(Ends):
    """As `Ends`, whose head normalises what the last layer gives."""

    def __init__(self, config: ModernBert, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(config, dtype, rngs)
        self.final_norm = config.norm(dtype, rngs)

    def logits(self, x: Array) -> Array:
        """(B*L, V) from what the last layer gives, (B*L, D)."""
        return super().logits(self.final_norm(x))


class Block(nnx.Module):
    """One pre-norm layer, but for the first one's attention. reach: how many positions to each side are
    seen; None for all."""

    def __init__(
        self,
        config: ModernBert,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        first: bool = False,
        reach: int | None = None,
    ):
        self.rate, self.reach = config.dropout, reach
        base = config.global_base if reach is None else config.local_base
        self.norm_attention = None if first else config.norm(dtype, rngs)
        scale = (2 * config.num_layers) ** -0.5
        self.attention = config.attention_layer(dtype, scale, rngs, rotary_base=base)
        self.norm_mlp = config.norm(dtype, rngs)
        self.mlp = MLP(config.width, config.hidden, "geglu", False, dtype, scale, rngs)

    def __call__(
        self, x: Array, length: int, mask: Array | None, keys: Array | None = None
    ) -> Array:
        """The activations (B*L, D) after this layer."""
        rows = x.shape[0] // length
        first, second = (None, None) if keys is None else jnp.moveaxis(keys, 1, 0)
        if self.reach is not None:
            place = jnp.arange(length)
            near = (jnp.abs(place[:, None] - place[None]) <= self.reach)[None]
            mask = near if mask is None else near & mask
        h = x if self.norm_attention is None else self.norm_attention(x)
        h, _ = self.attention(h, np.arange(length), mask)
        x = x + dropout(h, self.rate, first, rows)
        return x + dropout(self.mlp(self.norm_mlp(x)), self.rate, second, rows)
