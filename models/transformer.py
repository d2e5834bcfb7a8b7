"""The backbone of every process: a pre-norm transformer (settings, parameters, forward pass).

Rotary positions, so that any length up to what memory allows can be evaluated; optional AdaLN time
conditioning as in DiT (arXiv 2212.09748); optional QK-norm. Layers are stored stacked, (N, ...) per
parameter, whether they run under `lax.scan` or unrolled, so a checkpoint fits both.
"""

from dataclasses import dataclass, fields, replace
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
from models.layers import Block, Cache, EmbedAndHead, Norm, constrain_batch, places_within
from models.readout import DotProduct, Readout
from models.roles import Matrix
from models.time_inputs import Thousandfold, TimeInput


@dataclass(frozen=True)
class Transformer(Backbone):
    """Settings; `init` makes parameters, `apply` is the forward pass.

    vocab_size: V; None takes the data's. num_layers, width, num_heads: N, D and H; D is a multiple of 2
    H. num_key_heads: heads of keys and values, each for as many neighbouring heads of queries; None
    takes H. head_width: C, the channels of a head; None takes D / H. mlp: the activation of the
    feed-forward layers, "gelu" or "swiglu". mlp_ratio: their hidden width over D; SwiGLU takes two
    thirds of it, for as many parameters. mlp_width: their hidden width itself, where it is given.
    mlp_bias: whether they have biases. norm: "rms", "layer" or "layer_bias"; "layer" with mlp_bias is
    the form of the published MDLM, SEDD and BD3-LM networks. norm_eps: what is added to variances; None
    takes 1e-6 of "rms" and 1e-5 of the others. tied: whether the embedding is the output head too.
    head_bias: whether a head of its own has a bias. readout: how logits are made of the hidden state and
    the vectors of the tokens: DotProduct, Harmonic distances, or RareGating, which learns otherwise.
    qk_norm: whether each head's queries and keys are normalised. rotary_base: the slowest of the angles
    turns by about 1 / rotary_base a position (arXiv 2104.09864); smaller ones tell near positions apart
    with more of the channels. learned_positions: so many positions with a vector of their own each, as
    in GPT-2, instead of rotary ones.
    attention_bias: whether queries, keys and values have biases, which begin at 0 ("zero") or so that
    each head looks at a neighbour of its own ("near"), which characters are learned much faster from.
    attention_out_bias: whether what attention puts out has one. embedding_std: the standard deviation
    that embeddings begin with; None takes 1, and D^-1/2 of a tied table. residual_scale: what the
    matrices that close attention and feed-forward layers begin with, as a factor on 1 / sqrt(inputs);
    None takes (2 N)^-1/2. Both are what "Spike No More" (arXiv 2312.16903) asks for: large embeddings
    and small layers. shifted: whether what is put out at a
    position speaks of the next one, as in networks that were autoregressive once (Dream); the first then
    speaks of itself too. dropout: the probability of an activation to be dropped, in training.

    base_width: None, or the width at which the learning rate was chosen: at any other width, with heads
    as wide as there, the same rate is then right (maximal update parametrisation, arXiv 2203.03466).
    Matrices that read activations learn at base_width / width of AdamW's rate, and at the root of that
    of Muon's; weight decay stays as it is. At the base width nothing changes.

    time_conditioning: whether every layer is modulated by the time. condition_width: of the vector that
    time and label enter as. time_input: the number whose sinusoids stand for the time.
    constant_condition: whether layers are modulated though no time is given, as at input 0, like the
    published MDLM. num_labels: how many labels a sequence may have, which enter beside the time (hence
    time_conditioning); None for a network that is given none. label_activation: what a label's vector
    goes through; with "silu", as in the published UDLM, nothing is added where no label is given.

    ahead: how many tokens, its own and the next ones, a position speaks of in multi-token training
    (`Autoregressive.ahead`): those after its own from the hidden state plus one layer each, as in Medusa
    (arXiv 2401.10774), by the head of all. Nothing but that training computes them.

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
    num_key_heads: int | None = None
    head_width: int | None = None
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_ratio: float = 4.0
    mlp_width: int | None = None
    mlp_bias: bool = False
    norm: Norm = "rms"
    norm_eps: float | None = None
    tied: bool = False
    head_bias: bool = True
    readout: Readout = DotProduct()
    qk_norm: bool = False
    rotary_base: float = 10_000.0
    learned_positions: int | None = None
    attention_bias: Literal["none", "zero", "near"] = "none"
    attention_out_bias: bool = False
    embedding_std: float | None = None
    residual_scale: float | None = None
    shifted: bool = False
    time_conditioning: bool = False
    condition_width: int = 128
    time_input: TimeInput = Thousandfold()
    constant_condition: bool = False
    num_labels: int | None = None
    label_activation: Literal["none", "silu"] = "none"
    dropout: float = 0.0
    base_width: int | None = None
    ahead: int = 1
    block_length: int | None = None
    vector_width: int | None = None
    attention: AttentionBackend = "auto"
    scan: bool = False
    remat: bool = False
    chunked_head: bool | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self):
        sizes = ("num_layers", "width", "num_heads", "condition_width", "ahead")
        optional = ("num_key_heads", "head_width", "mlp_width", "learned_positions", "block_length")
        optional += ("num_labels", "base_width")
        for name in sizes + tuple(name for name in optional if getattr(self, name) is not None):
            if getattr(self, name) < 1:
                also = ", or None" if name in optional else ""
                value = getattr(self, name)
                raise ValueError(f"Transformer.{name} = {value} must be at least 1{also}")
        if self.given_labels is not None and not self.time_conditioning:
            raise ValueError(
                f"Transformer.num_labels = {self.num_labels} needs time_conditioning=True, since "
                "labels enter through its layers; or set it to None"
            )
        if self.time_conditioning and self.constant_condition:
            raise ValueError(
                "Transformer.constant_condition = True is for a network without time as input; "
                "set it, or time_conditioning, to False"
            )
        self._check_heads()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Transformer.dropout = {self.dropout} is outside [0, 1)")
        if self.base_width is not None and self.tied:
            raise ValueError(
                f"Transformer.base_width = {self.base_width} needs a head of its own, since a table "
                "that is looked up learns at another rate; set tied to False"
            )
        for name in ("norm_eps", "embedding_std", "residual_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"Transformer.{name} = {value} must be above 0, or None")
        if self.shifted and self.block_length is not None:
            raise ValueError(
                "Transformer.shifted = True is for networks that see all positions; leave "
                "block_length out"
            )

    def _check_heads(self) -> None:
        if self.head_width is None and self.width % (2 * self.num_heads):
            raise ValueError(
                f"Transformer.width = {self.width} must be a multiple of 2 x num_heads = "
                f"{2 * self.num_heads}, since rotary positions turn pairs of a head's channels"
            )
        if self.channels % 2:
            raise ValueError(
                f"Transformer.head_width = {self.head_width} must be even, since rotary positions turn "
                "pairs of a head's channels"
            )
        if self.num_heads % self.key_heads:
            raise ValueError(
                f"Transformer.num_key_heads = {self.num_key_heads} must divide num_heads = "
                f"{self.num_heads}"
            )
        if self.attention_bias == "near" and (
            self.channels * self.key_heads != self.width or self.learned_positions
        ):
            raise ValueError(
                'Transformer.attention_bias = "near" is for rotary positions and heads of width / '
                'num_heads with keys of their own; use "zero"'
            )

    @property
    def channels(self) -> int:
        """C, those of a head."""
        return self.head_width or self.width // self.num_heads

    @property
    def key_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.num_key_heads or self.num_heads

    @property
    def rate(self) -> float:
        """That of the matrices that read activations (`models.roles.Matrix`)."""
        return self.base_width / self.width if self.base_width else 1.0

    @property
    def modulated(self) -> bool:
        """Whether layers are modulated, by the time or by what stands for none."""
        return self.time_conditioning or self.constant_condition

    @property
    def has_head_bias(self) -> bool:
        """Whether tokens have a number of their own in the head."""
        return self.head_bias and self.readout.has_bias

    @property
    def max_length(self):
        return self.learned_positions

    @property
    def given_labels(self) -> int | None:
        """How many labels the network can be given."""
        return self.num_labels

    @property
    def hidden(self) -> int:
        """Width of the MLP; for SwiGLU two thirds of it, which keeps the number of parameters."""
        if self.mlp_width is not None:
            return self.mlp_width
        hidden = self.width * self.mlp_ratio
        return round(hidden * 2 / 3 / 8) * 8 if self.mlp == "swiglu" else round(hidden)

    def init(self, key: Array) -> dict:
        """Parameters, a nested dict of float32 arrays: {"ends": ..., "layers": ... stacked (N, ...)},
        and "ahead" where that is above 1."""
        key_ends, key_layers = jax.random.split(key)
        layers = jax.vmap(lambda k: init(self._block, k))(
            jax.random.split(key_layers, self.num_layers)
        )
        params = {"ends": init(self._ends, key_ends), "layers": layers}
        if self.ahead > 1:
            params["ahead"] = {"kernel": jnp.zeros((self.ahead - 1, self.width, self.width))}
        return params

    def roles(self):
        found = {"ends": roles(self._ends), "layers": roles(self._block)}
        return found | ({"ahead": {"kernel": Matrix(rate=self.rate)}} if self.ahead > 1 else {})

    def apply(
        self,
        params: dict,
        z: Array,
        t: Array,
        dropout_keys: Array | None = None,
        label: Array | None = None,
        context: Array | None = None,
        segments: Array | None = None,
        visible: Array | None = None,
        added: Array | None = None,
        ahead: bool = False,
    ) -> Array:
        """out, float32 (B, L, V), from z: int (B, L), float (B, L, V) weights of tokens, (B, L, V + 1)
        with the mask, or (B, L, D) vectors where D is vector_width; and t: (B, 1) or (B, L).

        dropout_keys: one key per row (B,), or None for evaluation. label: int (B,) or (1,), that of all,
        num_labels where a row has none; None where no row has one. context: clean tokens (B, L), with
        block_length n: then a position of z sees its own block of z and the blocks of the context before
        it, as when the text is made block by block (arXiv 2503.09573), all blocks in one pass. segments:
        int (B, L), equal for the positions of one text: they see those of their own segment alone, and
        since rotary positions are relative, what is packed into a row beside a text, before it too, or
        pads it, changes nothing of it. visible: bool (L, L), whether a position (of the first axis) sees
        another; without a context. added: (B*L, D), put on top of the embeddings. ahead: whether out is
        (B, L, ahead * V), of the next tokens too.
        """
        given = (dropout_keys, label, context, segments, visible, added, ahead)
        return self.head(params, self.features(params, z, t, *given))

    def head(self, params: dict, features: Array) -> Array:
        """As of `Backbone.head`; features (B, L, n D) of n tokens give (B, L, n V)."""
        ends = bind(self._ends, params["ends"])
        rows, length, width = features.shape
        out = ends.logits(features.reshape(-1, self.width), length * (width // self.width))
        return out.reshape(rows, length, -1)

    def features(
        self,
        params: dict,
        z: Array,
        t: Array,
        dropout_keys: Array | None = None,
        label: Array | None = None,
        context: Array | None = None,
        segments: Array | None = None,
        visible: Array | None = None,
        added: Array | None = None,
        ahead: bool = False,
    ) -> Array:
        """What the output head reads, (B, L, D), from the arguments of `apply`; with ahead what it reads
        for the next tokens too, (B, L, ahead * D)."""
        ends = bind(self._ends, params["ends"])
        (rows, length), copies, mask = z.shape[:2], 1, self._mask(z.shape[1])
        places = np.arange(length) if segments is None else places_within(segments)
        x = ends.placed(ends.embed(z), places)
        if added is not None:
            x = x + added.astype(x.dtype)
        if context is not None:
            copies, mask = 2, self._context_mask(length)
            x = _beside(x, ends.placed(ends.embed(context), places), rows)
            t = jnp.broadcast_to(t, (rows, length))
            t = jnp.concatenate([t, jnp.zeros_like(t)], axis=1)
        if visible is not None:
            mask = visible if mask is None else visible & mask
        if segments is not None:
            of_copies = jnp.tile(segments, copies)
            within = of_copies[:, :, None] == of_copies[:, None]
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
        x = x.reshape(rows, copies * length, -1)[:, :length]
        x = _shifted(x, segments) if self.shifted else x
        if not ahead:
            return x
        kernels = params["ahead"]["kernel"].astype(x.dtype)
        return jnp.concatenate([x, *(x + jax.nn.silu(x @ kernel) for kernel in kernels)], axis=-1)

    def cache(self, rows: int, length: int) -> list[Cache]:
        """What `decode` fills: room for keys and values of `length` positions, per layer."""
        shape = (rows, self.key_heads, length, self.channels)
        zeros = jnp.zeros(shape, self._dtype)
        return [(zeros, zeros)] * self.num_layers

    def decode(
        self,
        params: dict,
        z: Array,
        t: Array,
        cache: list[Cache],
        start: Array | int,
        span: int | None = None,
        both_sides: bool = False,
        label: Array | None = None,
        segments: Array | None = None,
        added: Array | None = None,
    ) -> tuple[Array, list[Cache]]:
        """(out (B, n, V), the cache with these positions in it) of the n positions from `start` on.

        They see each other and all that is cached before them, or only the `span` positions up to
        their last: what `apply` gives for a block, with the earlier ones as its context and the same
        label. both_sides: they see what is cached after them too; segments, (B, N) of all positions of
        the cache, are then as of `apply`. added: (B*n, D), put on top of the embeddings. Of a shifted
        network the first of the n speaks of itself.
        """
        ends = bind(self._ends, params["ends"])
        count, room = z.shape[1], cache[0][0].shape[2]
        positions, keys = start + jnp.arange(count), jnp.arange(room)
        last = start + count - 1
        seen = keys <= last if span is None else (keys <= last) & (keys > last - span)
        mask = jnp.broadcast_to(seen | both_sides, (count, room))
        if segments is not None:
            own = jax.lax.dynamic_slice_in_dim(segments, start, count, axis=1)
            mask = mask[None] & (own[:, :, None] == segments[:, None])
        condition, x, new = ends.condition(t, label), ends.placed(ends.embed(z), positions), []
        x = x if added is None else x + added.astype(x.dtype)
        for n in range(self.num_layers):
            block = bind(self._block, jax.tree.map(lambda leaf, n=n: leaf[n], params["layers"]))
            x, filled = block(x, positions, mask, condition, cache=cache[n])
            new.append(filled)
        x = ends.normed(x, count, condition)
        if self.shifted:
            x = _shifted(x.reshape(-1, count, self.width), None).reshape(-1, self.width)
        return ends.logits(x, count), new

    def for_process(self, attention_block, vector_width):
        asked = {"block_length": attention_block, "vector_width": vector_width}
        return replace(self, **{name: n for name, n in asked.items() if n is not None})

    def for_runtime(self, attention="auto", dtype=None, remat=None):
        changes = {"attention": attention, "dtype": dtype, "remat": remat, "scan": remat or None}
        return replace(self, **{name: v for name, v in changes.items() if v is not None})

    def like(self, other):
        if not isinstance(other, Transformer):
            return super().like(other)
        own = ("shifted", "dropout", "attention", "scan", "remat", "chunked_head", "dtype")
        form = {f.name: getattr(other, f.name) for f in fields(Transformer) if f.name not in own}
        return replace(self, **form | {"block_length": None, "vector_width": None})

    def with_mean_mask(self, params):
        table = params["ends"]["embedding"][:-1]
        whole = jnp.concatenate([table, table.mean(0, keepdims=True)])
        return params | {"ends": params["ends"] | {"embedding": whole}}

    def flops_per_token(self, length):
        if self.vocab_size is None:
            return None
        mlp = (3 if self.mlp == "swiglu" else 2) * self.width * self.hidden
        queries, keys = self.num_heads * self.channels, self.key_heads * self.channels
        layer = 2 * self.width * (queries + keys) + mlp + 2 * length * queries
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

    def _block(self, rngs: nnx.Rngs) -> Block:
        return Block(self, self._dtype, rngs)

    def _ends(self, rngs: nnx.Rngs) -> EmbedAndHead:
        return EmbedAndHead(self, self._dtype, rngs)


def _shifted(x: Array, segments: Array | None) -> Array:
    """x (B, L, D), each position in the place of the next; the first of a text stays beside that."""
    before = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
    return (
        before
        if segments is None
        else jnp.where((places_within(segments) == 0)[..., None], x, before)
    )


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
