"""What the published encoders share: settings, the walk over layers, the head of masked language models.

BERT and its successors give logits of a text in which a token [MASK] stands for what is to be guessed.
Here the mask of our processes is a state of its own, V, whose row of the embeddings is the last; it
begins as a copy of the row of [MASK], which stays one of the V tokens and is in no text.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from models.attention import AttentionBackend
from models.backbone import Backbone
from models.functional import bind, init, roles
from models.layers import Attention, constrain_batch, embedding_lookup, linear
from models.roles import Matrix, Table
from models.transformer import Transformer

Build = Callable[[Any, nnx.Rngs], nnx.Module]  # a method that makes a layer, of the class
LayerFunction = Callable[[Build, Array, dict, Array | None], Array]


@dataclass(frozen=True)
class Encoder(Backbone):
    """A network of tokens that all see each other, with the head of masked language models.

    vocab_size: V; None takes the data's. num_layers, width, num_heads: N, D and H. hidden: the width of
    the feed-forward layers. norm_eps: what is added to variances. dropout: the probability of what
    attention and feed-forward layers put out to be dropped, in training.

    attention, scan, remat, chunked_head, dtype: as of `models.transformer.Transformer`.
    """

    has_head: ClassVar[bool] = True
    biased: ClassVar[bool]
    """Whether its dense layers and normalisations have biases."""
    vocab_size: int | None = None
    num_layers: int = 12
    width: int = 768
    num_heads: int = 12
    hidden: int = 3072
    norm_eps: float = 1e-5
    dropout: float = 0.0
    attention: AttentionBackend = "auto"
    scan: bool = False
    remat: bool = False
    chunked_head: bool | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self):
        name = type(self).__name__
        for setting in ("num_layers", "width", "num_heads", "hidden"):
            if getattr(self, setting) < 1:
                raise ValueError(f"{name}.{setting} = {getattr(self, setting)} must be at least 1")
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"{name}.width = {self.width} must be a multiple of 2 x num_heads = "
                f"{2 * self.num_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{name}.dropout = {self.dropout} is outside [0, 1)")

    def init(self, key: Array) -> dict:
        """Parameters, a nested dict of float32 arrays: {"ends": ..., "layers": ... stacked (N, ...)}."""
        key_ends, key_layers = jax.random.split(key)
        layers = jax.vmap(lambda k: init(self._block, k))(
            jax.random.split(key_layers, self.num_layers)
        )
        return {"ends": init(self._ends, key_ends), "layers": layers}

    def roles(self):
        return {"ends": roles(self._ends), "layers": roles(self._block)}

    def apply(
        self,
        params: dict,
        z: Array,
        t: Array,
        dropout_keys: Array | None = None,
        segments: Array | None = None,
    ) -> Array:
        """Logits, float32 (B, L, V), from tokens z, int (B, L), of which V is the mask; t is not used.

        dropout_keys: one key per row (B,), or None for evaluation. segments: int (B, L), equal for the
        positions of one text, which stand together: a text comes out as it does alone.
        """
        return self.head(params, self.features(params, z, t, dropout_keys, segments))

    def head(self, params: dict, features: Array) -> Array:
        ends = bind(self._ends, params["ends"])
        out = ends.logits(features.reshape(-1, self.width))
        return out.astype(jnp.float32).reshape(*features.shape[:2], -1)

    def features(
        self,
        params: dict,
        z: Array,
        t: Array,
        dropout_keys: Array | None = None,
        segments: Array | None = None,
    ) -> Array:
        """What the last layer gives, (B, L, D), from the arguments of `apply`."""
        rows, length = z.shape[:2]
        x = constrain_batch(self._embedded(params, z, t, segments))
        mask = None if segments is None else segments[:, :, None] == segments[:, None]

        def layer(build, x, params, keys):
            return _layer(self, build, length, x, params, keys, mask)

        if self.remat:
            layer = jax.checkpoint(layer, static_argnums=0)
        keys = None
        if dropout_keys is not None and self.dropout > 0:
            split = jax.vmap(lambda key: jax.random.split(key, (self.num_layers, 2)), out_axes=1)
            keys = split(dropout_keys)  # (N, B, 2)
        return self._through(layer, x, params["layers"], keys).reshape(rows, length, -1)

    def for_runtime(self, attention="auto", dtype=None, remat=None):
        changes = {"attention": attention, "dtype": dtype, "remat": remat, "scan": remat or None}
        return replace(self, **{name: v for name, v in changes.items() if v is not None})

    def norm(self, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
        """A LayerNorm of D channels."""
        return nnx.LayerNorm(
            self.width, epsilon=self.norm_eps, use_bias=self.biased, dtype=dtype, rngs=rngs
        )

    def attention_layer(
        self, dtype: DTypeLike, out_scale: float, rngs: nnx.Rngs, **settings: Any
    ) -> Attention:
        """Attention of H heads with other settings of `models.transformer.Transformer`."""
        form = Transformer(
            width=self.width, num_heads=self.num_heads, attention=self.attention, **settings
        )
        return Attention(form, dtype, out_scale, rngs)

    def _embedded(self, params: dict, z: Array, t: Array, segments: Array | None) -> Array:
        """What the first layer reads, (B*L, D)."""
        return bind(self._ends, params["ends"]).embed(z, segments)

    def _through(self, layer: LayerFunction, x: Array, layers: dict, keys: Array | None) -> Array:
        """x (B*L, D) after all layers of these parameters, which are alike here."""
        one = partial(layer, type(self)._block)
        if self.scan:
            return jax.lax.scan(lambda x, xs: (one(x, *xs), None), x, (layers, keys))[0]
        for n in range(self.num_layers):
            x = one(x, *jax.tree.map(lambda leaf, n=n: leaf[n], (layers, keys)))
        return x

    @abstractmethod
    def _block(self, rngs: nnx.Rngs) -> nnx.Module:
        """A layer: x (B*L, D), length, mask and keys (B, 2) -> x."""

    @abstractmethod
    def _ends(self, rngs: nnx.Rngs) -> Any:
        """What stands around the layers."""


class Ends(nnx.Module):
    """Embedding with its normalisation, and the head of a masked language model: a dense layer, GELU,
    a normalisation, and the embedding again, but for the mask's row, with biases."""

    def __init__(self, config: Encoder, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype, V, width = dtype, config.num_tokens, config.width
        self.embedding = table(V + 1, width, rngs)
        self.norm = config.norm(dtype, rngs)
        role = Matrix(hidden=False)
        self.dense = linear(width, width, dtype, rngs, role, bias=config.biased)
        self.head_norm = config.norm(dtype, rngs)
        self.bias = nnx.Param(jnp.zeros((V,)))

    def embed(self, z: Array, segments: Array | None) -> Array:
        """(B*L, D) from tokens z (B, L)."""
        return self.norm(embedding_lookup(self.embedding[...], z.reshape(-1), self.dtype))

    def logits(self, x: Array) -> Array:
        """(B*L, V) from what the last layer gives, (B*L, D)."""
        x = constrain_batch(self.head_norm(jax.nn.gelu(self.dense(x), approximate=False)))
        tied = self.embedding[...][:-1].astype(self.dtype)
        return x @ tied.T + self.bias[...].astype(self.dtype)[None]


def table(rows: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
    """A table of embeddings, (rows, width)."""
    values = nnx.initializers.normal(width**-0.5)(rngs.params(), (rows, width), jnp.float32)
    return nnx.Param(values, role=Table())


@partial(jax.jit, static_argnums=(0, 1, 2))  # traced once for all layers that are alike
def _layer(
    network: Encoder,
    build: Build,
    length: int,
    x: Array,
    params: dict,
    keys: Array | None,
    mask: Array | None,
) -> Array:
    block = bind(build.__get__(network), params)
    return constrain_batch(block(x, length, mask, keys))
