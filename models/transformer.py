"""The backbone of every process: a pre-norm transformer (settings, parameters, forward pass).

Rotary positions, so that any length up to what memory allows can be evaluated; optional AdaLN time
conditioning as in DiT (arXiv 2212.09748); optional QK-norm. Layers are stored stacked, (N, ...) per
parameter, whether they run under `lax.scan` or unrolled, so a checkpoint fits both.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from models.attention import AttentionBackend
from models.backbone import Backbone
from models.functional import bind, init, roles
from models.layers import Block, Cache, EmbedAndHead, constrain_batch


@dataclass(frozen=True)
class Transformer(Backbone):
    """Settings; `init` makes parameters, `apply` is the forward pass.

    vocab_size: V; None takes the data's. num_layers, width, num_heads: N, D and H; D is a multiple of 2
    H. mlp: the activation of the feed-forward layers, "gelu" or "swiglu". mlp_ratio: their hidden width
    over D; SwiGLU takes two thirds of it, for as many parameters. mlp_bias: whether they have biases.
    norm: "rms" or "layer", which with mlp_bias is the form of the published MDLM, SEDD and BD3-LM
    networks. tied: whether the embedding is the output head too. qk_norm: whether each head's queries
    and keys are normalised. rotary_base: the slowest of the angles turns by about 1 / rotary_base a
    position (arXiv 2104.09864); smaller ones tell near positions apart with more of the channels.
    attention_bias: whether queries, keys and values have biases, which begin at 0 ("zero") or so that
    each head looks at a neighbour of its own ("near"), which characters are learned much faster from.
    dropout: the probability of an activation to be dropped, in training.

    time_conditioning: whether every layer is modulated by the time. condition_width: of the vector that
    time and label enter as. num_labels: how many labels a sequence may have, which enter beside the time
    (hence time_conditioning); None for a network that is given none.

    block_length: None lets every position see every other; 1 is causal; n lets position i see j where j
    // n <= i // n. vector_width: D of states that are vectors, which a linear layer reads; None takes
    tokens and weights of tokens. Both are filled in as the process asks.

    attention: the forms of `models.attention.attend`. scan: whether the layers run as a loop, which
    compiles in the time of one and computes the same. remat: whether they are computed again in the
    backward pass, which saves memory. chunked_head: whether losses are computed by chunks of positions,
    and again in the backward pass, so that no array (B, L, V) is made; None does so where V is at least
    4096 for processes that mask tokens, of which only masked ones have a loss. dtype: "auto" computes in
    bfloat16 on accelerators and float32 on CPU; parameters, normalisation statistics, softmax and logits
    are float32 throughout.
    """

    inputs: ClassVar[tuple[str, ...]] = ("tokens", "simplex", "vectors")
    decodes: ClassVar[bool] = True
    has_head: ClassVar[bool] = True
    vocab_size: int | None = None
    num_layers: int = 12
    width: int = 768
    num_heads: int = 12
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_ratio: float = 4.0
    mlp_bias: bool = False
    norm: Literal["rms", "layer"] = "rms"
    tied: bool = False
    qk_norm: bool = False
    rotary_base: float = 10_000.0
    attention_bias: Literal["none", "zero", "near"] = "none"
    time_conditioning: bool = False
    condition_width: int = 128
    num_labels: int | None = None
    dropout: float = 0.0
    block_length: int | None = None
    vector_width: int | None = None
    attention: AttentionBackend = "auto"
    scan: bool = False
    remat: bool = False
    chunked_head: bool | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self):
        for name in ("num_layers", "width", "num_heads", "condition_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"Transformer.{name} = {getattr(self, name)} must be at least 1")
        if self.num_labels is not None and self.num_labels < 1:
            raise ValueError(
                f"Transformer.num_labels = {self.num_labels} must be at least 1, or None"
            )
        if self.given_labels is not None and not self.time_conditioning:
            raise ValueError(
                f"Transformer.num_labels = {self.num_labels} asks for time_conditioning=True, by whose "
                "layers labels enter; or set it to None"
            )
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"Transformer.width = {self.width} must be a multiple of 2 x num_heads = "
                f"{2 * self.num_heads}, since rotary positions turn pairs of a head's channels"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Transformer.dropout = {self.dropout} is outside [0, 1)")
        if self.block_length is not None and self.block_length < 1:
            raise ValueError(f"Transformer.block_length = {self.block_length} must be at least 1")

    @property
    def given_labels(self) -> int | None:
        """How many labels the network can be given."""
        return self.num_labels

    @property
    def hidden(self) -> int:
        """Width of the MLP; for SwiGLU two thirds of it, which keeps the number of parameters."""
        hidden = self.width * self.mlp_ratio
        return round(hidden * 2 / 3 / 8) * 8 if self.mlp == "swiglu" else round(hidden)

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
        label: Array | None = None,
        context: Array | None = None,
        segments: Array | None = None,
    ) -> Array:
        """out, float32 (B, L, V), from z: int (B, L), float (B, L, V) weights of tokens, (B, L, V + 1)
        with the mask, or (B, L, D) vectors where D is vector_width; and t: (B, 1) or (B, L).

        dropout_keys: one key per row (B,), or None for evaluation. label: int (B,) or (1,), that of all,
        num_labels where a row has none; None where no row has one. context: clean tokens (B, L), with
        block_length n: then a position of z sees its own block of z and the blocks of the context before
        it, as when the text is made block by block (arXiv 2503.09573), all blocks in one pass. segments:
        int (B, L), equal for the positions of one text: they see those of their own segment alone, and
        since rotary positions are relative, what is packed into a row beside a text, before it too, or
        pads it, changes nothing of it.
        """
        return self.head(
            params, self.features(params, z, t, dropout_keys, label, context, segments)
        )

    def head(self, params: dict, features: Array) -> Array:
        ends = bind(self._ends, params["ends"])
        return ends.logits(features.reshape(-1, self.width), features.shape[1])

    def features(
        self,
        params: dict,
        z: Array,
        t: Array,
        dropout_keys: Array | None = None,
        label: Array | None = None,
        context: Array | None = None,
        segments: Array | None = None,
        added: Array | None = None,
    ) -> Array:
        """What the output head reads, (B, L, D), from the arguments of `apply`; added: (B*L, D), put on
        top of the embeddings."""
        ends = bind(self._ends, params["ends"])
        (rows, length), copies, mask = z.shape[:2], 1, self._mask(z.shape[1])
        x = ends.embed(z)
        if added is not None:
            x = x + added.astype(x.dtype)
        if context is not None:
            copies, mask = 2, self._context_mask(length)
            x = _beside(x, ends.embed(context), rows)
            t = jnp.broadcast_to(t, (rows, length))
            t = jnp.concatenate([t, jnp.zeros_like(t)], axis=1)
        if segments is not None:
            within = segments[:, :, None] == segments[:, None]
            mask = within if mask is None else within & mask[None]
        condition, x = ends.condition(t, label), constrain_batch(x)

        def layer(x, params_and_keys):
            return _layer(self, length, copies, x, *params_and_keys, mask, condition)

        if self.remat:
            layer = jax.checkpoint(layer)
        keys = None
        if dropout_keys is not None and self.dropout > 0:
            split = jax.vmap(lambda key: jax.random.split(key, (self.num_layers, 2)), out_axes=1)
            keys = split(dropout_keys)  # (N, B, 2)
        if self.scan:
            x, _ = jax.lax.scan(lambda x, xs: (layer(x, xs), None), x, (params["layers"], keys))
        else:
            for n in range(self.num_layers):
                x = layer(x, jax.tree.map(lambda leaf, n=n: leaf[n], (params["layers"], keys)))
        x = ends.normed(x, copies * length, condition)
        return x.reshape(rows, copies * length, -1)[:, :length]

    def cache(self, rows: int, length: int) -> list[Cache]:
        """What `decode` fills: room for keys and values of `length` positions, per layer."""
        shape = (rows, self.num_heads, length, self.width // self.num_heads)
        zeros = jnp.zeros(shape, self._dtype)
        return [(zeros, zeros)] * self.num_layers

    def decode(
        self,
        params: dict,
        z: Array,
        t: Array,
        cache: list[Cache],
        start: Array,
        span: int | None = None,
        label: Array | None = None,
    ) -> tuple[Array, list[Cache]]:
        """(out (B, n, V), the cache with these positions in it) of the n positions from `start` on.

        They see each other and all that is cached before them, or only the `span` positions up to
        their last: what `apply` gives for a block, with the earlier ones as its context and the same
        label.
        """
        ends = bind(self._ends, params["ends"])
        count, room = z.shape[1], cache[0][0].shape[2]
        positions, keys = start + jnp.arange(count), jnp.arange(room)
        last = start + count - 1
        seen = keys <= last if span is None else (keys <= last) & (keys > last - span)
        mask = jnp.broadcast_to(seen, (count, room))
        condition, x, new = ends.condition(t, label), ends.embed(z), []
        for n in range(self.num_layers):
            block = bind(self._block, jax.tree.map(lambda leaf, n=n: leaf[n], params["layers"]))
            x, filled = block(x, positions, mask, condition, cache=cache[n])
            new.append(filled)
        return ends.logits(ends.normed(x, count, condition), count), new

    def for_process(self, attention_block, vector_width):
        asked = {"block_length": attention_block, "vector_width": vector_width}
        return replace(self, **{name: n for name, n in asked.items() if n is not None})

    def for_runtime(self, attention="auto", dtype=None, remat=None):
        changes = {"attention": attention, "dtype": dtype, "remat": remat, "scan": remat or None}
        return replace(self, **{name: v for name, v in changes.items() if v is not None})

    def flops_per_token(self, length):
        if self.vocab_size is None:
            return None
        mlp = (3 if self.mlp == "swiglu" else 2) * self.width * self.hidden
        layer = 4 * self.width**2 + mlp + 2 * length * self.width
        return 2 * (self.num_layers * layer + self.width * self.vocab_size)

    def _mask(self, length: int) -> Array | None:
        if self.block_length is None:
            return None
        block = jnp.arange(length) // self.block_length
        return block[None, :] <= block[:, None]

    def _context_mask(self, length: int) -> Array:
        """(2L, 2L) for [z; context]: see `apply`. The context itself is causal over blocks."""
        if self.block_length is None:
            raise ValueError("Transformer.block_length is None: a context needs a length of blocks")
        block = jnp.arange(length) // self.block_length
        own, before = block[None] == block[:, None], block[None] < block[:, None]
        return jnp.block([[own, before], [jnp.zeros_like(own), own | before]])

    @property
    def _dtype(self):
        if self.dtype == "auto":
            return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        return jnp.dtype(self.dtype)

    def _block(self, rngs: nnx.Rngs) -> Block:
        return Block(self, self._dtype, rngs)

    def _ends(self, rngs: nnx.Rngs) -> EmbedAndHead:
        return EmbedAndHead(self, self._dtype, rngs)


def _beside(a: Array, b: Array, rows: int) -> Array:
    """(B*2L, D): each row's positions of `a` and then those of `b`, both (B*L, D)."""
    a, b = (x.reshape(rows, -1, x.shape[-1]) for x in (a, b))
    return jnp.concatenate([a, b], axis=1).reshape(-1, a.shape[-1])


@partial(jax.jit, static_argnums=(0, 1, 2))  # traced once for all layers
def _layer(
    network: Transformer,
    length: int,
    copies: int,
    x: Array,
    params: dict,
    keys: Array | None,
    mask: Array | None,
    condition: Array | None,
) -> Array:
    """x after a layer: of rows of so many positions, `copies` times beside each other."""
    positions = np.tile(np.arange(length), copies)
    block = bind(network._block, params)
    return constrain_batch(block(x, positions, mask, condition, keys)[0])
