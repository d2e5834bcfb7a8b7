"""The parts of the backbone, as Flax NNX modules.

Activations travel as (B*L, D): on CPU a dense layer and above all its weight gradient are a third
faster so than on (B, L, D), and elsewhere it makes no difference. Attention alone sees (B, L).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import Array
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from models.attention import AttentionBackend, attend
from models.roles import Matrix, Table
from models.time_inputs import TimeInput

if TYPE_CHECKING:
    from models.transformer import Transformer

BATCH = ("data", "fsdp")  # the axes of a mesh over which the rows of a batch are spread
WIDTH = ("tensor", "fsdp")  # and those over which the width of a table of embeddings is
OUTER, LAST = Matrix(hidden=False), Matrix(hidden=False, closing=True)  # around the layers
Cache = tuple[Array, Array]


def use_mesh(mesh: jax.sharding.Mesh | None) -> Callable[[Callable], Callable]:
    """A decorator of functions that are compiled for the mesh: networks in them keep the split of the
    batch. None changes nothing."""

    if mesh is None:
        return lambda function: function
    abstract = mesh.abstract_mesh

    def decorator(function: Callable) -> Callable:
        @wraps(function)
        def within(*arguments, **options):
            with jax.sharding.use_abstract_mesh(abstract):
                return function(*arguments, **options)

        return within

    return decorator


def constrain_batch(x: Array) -> Array:
    """x (B*L, D) or (B, ...), its rows spread over the batch axes of the mesh compiled for, if any.

    Left to itself, the compiler follows the split of the matrices, which fsdp spreads too: it cuts the
    width of the activations and keeps the whole batch on every device, up to the head's (B, L, V).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]):
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH))


def embedding_lookup(table: Array, z: Array, dtype: DTypeLike) -> Array:
    """(N, D): rows z (N,) of a table (V, D) whose width is split over WIDTH, spread as by
    `constrain_batch`.

    Where a device has fewer rows to look up than the table has, it looks up its part of the width for
    those of all devices along fsdp, and they exchange; else the table is made whole, which is less to
    send. Left to itself, the compiler makes the gradient of all activations, or of a large table, whole
    on every device. Rows become `dtype` after they are looked up: the gradient of a frequent one, the
    mask's, is a long sum, of which bfloat16 loses most.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or len(z) % (mesh.shape["data"] * mesh.shape["fsdp"]):
        return table[z].astype(dtype)
    (rows, width), split = table.shape, jax.lax.with_sharding_constraint
    few = len(z) < rows * mesh.shape["data"] * mesh.shape["fsdp"]
    if not few or width % (mesh.shape["tensor"] * mesh.shape["fsdp"]):
        return split(table, P())[z].astype(dtype)
    x = split(table[split(z, P("data"))].astype(dtype), P("data", WIDTH))
    return split(split(x, P(BATCH, "tensor")), P(BATCH))


def placed(x: Array, table: Array, positions: Array | np.ndarray) -> Array:
    """x (B*L, D) with the rows of a table of learned positions added, of positions (L,) or (B, L).
    ValueError where there are more than the table has."""
    length = positions.shape[-1]
    if length > len(table):
        raise ValueError(
            f"{length} positions, but the network has learned {len(table)} "
            "(model.learned_positions); use a smaller length"
        )
    added = table[positions.reshape(-1, length)].astype(x.dtype)
    return (x.reshape(-1, length, x.shape[-1]) + added).reshape(x.shape)


def places_within(segments: Array) -> Array:
    """(B, L): how many positions stand before each in its own segment, of segments (B, L)."""
    place = jnp.arange(segments.shape[1])[None]
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return place - jax.lax.cummax(jnp.where(begins, place, 0), axis=1)


def linear(
    inputs: int,
    outputs: int,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    role: Matrix,
    scale: float = 1.0,
    bias: bool = False,
) -> nnx.Linear:
    """A dense layer with normal weights of standard deviation scale / sqrt(inputs)."""
    std = scale * inputs**-0.5
    init = nnx.initializers.normal(std) if std > 0 else nnx.initializers.zeros
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        kernel_init=init,
        dtype=dtype,
        rngs=rngs,
        kernel_metadata={"role": role},
    )


Norm = Literal["rms", "layer", "layer_bias"]


def normalisation(
    kind: Norm, width: int, dtype: DTypeLike, rngs: nnx.Rngs, eps: float | None = None
) -> nnx.RMSNorm | nnx.LayerNorm:
    """RMSNorm, or LayerNorm without or with a bias, with a scale per channel. eps: what is added to the
    variance; None takes 1e-6 of the first and 1e-5 of the others."""
    if kind == "rms":
        return nnx.RMSNorm(width, epsilon=eps or 1e-6, dtype=dtype, rngs=rngs)
    bias = kind == "layer_bias"
    return nnx.LayerNorm(width, epsilon=eps or 1e-5, use_bias=bias, dtype=dtype, rngs=rngs)


def rotary(x: Array, positions: Array | np.ndarray, base: float = 10_000.0) -> Array:
    """x (B, H, L, C) rotated by position, in split halves (RoPE, arXiv 2104.09864).

    Of positions in numpy the angles' sines are constants of the program; others the compiler may compute
    anew for every row and head.
    """
    half = x.shape[-1] // 2
    lib = np if isinstance(positions, np.ndarray) else jnp
    frequencies = base ** (-lib.arange(half, dtype=lib.float32) / half)
    angles = (positions.astype(lib.float32)[:, None] * frequencies[None])[None, None]
    cos, sin = jnp.asarray(lib.cos(angles), x.dtype), jnp.asarray(lib.sin(angles), x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def near_biases(width: int, num_heads: int, base: float, causal: bool) -> Array:
    """(3*D,): biases of queries, keys and values with which each head begins by looking at a place of
    its own, whatever stands there: 1, -1, 2, -2 ... positions back, or 1, 2, 3 ... where it is causal.

    With rotary angles of frequencies f and biases c of keys, those of queries turned by d positions,
    the score of a position n back has a term c^2 sum_f cos(f (n - d)), largest at n = d. Only
    frequencies that tell neighbours apart take part.
    """
    half, heads = width // num_heads // 2, np.arange(num_heads)
    frequencies = base ** (-np.arange(half) / half)
    size = np.where(frequencies > 0.3, 5.0, 0.0)
    back = heads + 1 if causal else (heads // 2 + 1) * np.where(heads % 2, -1, 1)
    turned = back[:, None] * frequencies
    q = np.concatenate([size * np.cos(turned), -size * np.sin(turned)], axis=1)
    k = np.broadcast_to(np.concatenate([size, 0 * size]), q.shape)
    return jnp.asarray(np.stack([q, k, 0 * q]).reshape(-1), jnp.float32)


class Attention(nnx.Module):
    """Multi-head self-attention on activations (B*L, D), with rotary positions unless learned ones are
    in the activations. Each head of keys and values serves as many neighbouring heads of queries."""

    def __init__(self, config: "Transformer", dtype: DTypeLike, out_scale: float, rngs: nnx.Rngs):
        width, head, bias = config.width, config.channels, config.attention_bias
        self.num_heads, self.key_heads = config.num_heads, config.key_heads
        self.rotary_base = None if config.learned_positions else config.rotary_base
        self.backend: AttentionBackend = config.attention
        queries, keys = self.num_heads * head, self.key_heads * head
        self.qkv = linear(
            width, queries + 2 * keys, dtype, rngs, Matrix(rate=config.rate), bias=bias != "none"
        )
        if bias == "near" and self.qkv.bias is not None:
            self.qkv.bias[...] = near_biases(
                width, self.num_heads, config.rotary_base, config.block_length == 1
            )
        closing = Matrix(closing=True, rate=config.rate)
        self.out = linear(
            queries, width, dtype, rngs, closing, out_scale, config.attention_out_bias
        )
        norms = [
            normalisation("rms", head, dtype, rngs, config.norm_eps) if config.qk_norm else None
            for _ in range(2)
        ]
        self.q_norm, self.k_norm = norms

    def __call__(
        self,
        x: Array,
        positions: Array | np.ndarray,
        mask: Array | None,
        cache: Cache | None = None,
    ) -> tuple[Array, Cache | None]:
        """(mixed, cache), from x of the L positions (L,). cache: keys and values (B, K, N, C) of the
        first N positions, into which those of `positions`, consecutive, are written before attending."""
        heads = rearrange(
            self.qkv(x),
            "(b l) (h c) -> b h l c",
            l=len(positions),
            h=self.num_heads + 2 * self.key_heads,
        )
        q, k, v = jnp.split(heads, (self.num_heads, self.num_heads + self.key_heads), axis=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary_base is not None:
            q, k = (rotary(x, positions, self.rotary_base) for x in (q, k))
        if cache is not None:
            write, at = jax.lax.dynamic_update_slice, (0, 0, positions[0], 0)
            k, v = cache = write(cache[0], k, at), write(cache[1], v, at)
        if self.key_heads < self.num_heads:
            k, v = (jnp.repeat(x, self.num_heads // self.key_heads, axis=1) for x in (k, v))
        mixed = attend(q, k, v, mask, self.backend, BATCH)
        return self.out(rearrange(mixed, "b h l c -> (b l) (h c)")), cache


_gelu_exact = partial(jax.nn.gelu, approximate=False)
ACTIVATIONS = {
    "gelu": jax.nn.gelu, "gelu_exact": _gelu_exact, "swiglu": jax.nn.silu, "geglu": _gelu_exact
}  # fmt: skip
Activation = Literal["gelu", "gelu_exact", "swiglu", "geglu"]


class MLP(nnx.Module):
    """Feed-forward layer, (..., D) -> (..., D): GELU by its tanh approximation or exact; or a gate,
    through SiLU or the exact GELU, times values."""

    def __init__(
        self,
        width: int,
        hidden: int,
        kind: Activation,
        bias: bool,
        dtype: DTypeLike,
        out_scale: float,
        rngs: nnx.Rngs,
        rate: float = 1.0,
    ):
        self.activation, self.gated = ACTIVATIONS[kind], kind in ("swiglu", "geglu")
        both = hidden * (2 if self.gated else 1)
        closing = Matrix(closing=True, rate=rate)
        self.up = linear(width, both, dtype, rngs, Matrix(rate=rate), bias=bias)
        self.down = linear(hidden, width, dtype, rngs, closing, out_scale, bias)

    def __call__(self, x: Array) -> Array:
        """(..., D), from x (..., D)."""
        x = self.up(x)
        if self.gated:
            gate, x = jnp.split(x, 2, axis=-1)
            return self.down(self.activation(gate) * x)
        return self.down(self.activation(x))


class TimeEmbedding(nnx.Module):
    """t (B, 1) or (B, L) -> (B, 1 or L, C): sinusoids of the network's time input through two layers."""

    FREQUENCIES = 128

    def __init__(self, width: int, time_input: TimeInput, dtype: DTypeLike, rngs: nnx.Rngs):
        self.time_input = time_input
        self.up = linear(2 * self.FREQUENCIES, width, dtype, rngs, OUTER, bias=True)
        self.out = linear(width, width, dtype, rngs, LAST, bias=True)

    def __call__(self, t: Array) -> Array:
        """The embedding (B, 1 or L, C) of times t, (B, 1) or (B, L)."""
        span = jnp.arange(self.FREQUENCIES, dtype=jnp.float32) / self.FREQUENCIES
        angles = self.time_input(t.astype(jnp.float32))[..., None] * (10_000.0**-span)[None, None]
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return jax.nn.silu(self.out(jax.nn.silu(self.up(features))))


def dropout(x: Array, rate: float, keys: Array | None, rows: int) -> Array:
    """x (rows*L, D), entries zeroed with probability rate; keys (rows,), or None to leave x alone."""
    if keys is None or rate == 0:
        return x
    shape = (x.shape[0] // rows, x.shape[1])
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
    return jnp.where(kept.reshape(x.shape), x / (1 - rate), 0)


class Block(nnx.Module):
    """One pre-norm layer: attention, then MLP, each modulated by time where there is a condition."""

    def __init__(self, config: "Transformer", dtype: DTypeLike, rngs: nnx.Rngs):
        width, out_scale = config.width, config.residual_scale or (2 * config.num_layers) ** -0.5
        self.rate = config.dropout
        norm, eps = config.norm, config.norm_eps
        self.norm_attention = normalisation(norm, width, dtype, rngs, eps)
        self.attention = Attention(config, dtype, out_scale, rngs)
        self.norm_mlp = normalisation(norm, width, dtype, rngs, eps)
        mlp = config.hidden, config.mlp, config.mlp_bias
        self.mlp = MLP(width, *mlp, dtype, out_scale, rngs, config.rate)
        self.modulation = (
            linear(config.condition_width, 6 * width, dtype, rngs, Matrix(), scale=0, bias=True)
            if config.modulated
            else None
        )

    def __call__(
        self,
        x: Array,
        positions: Array | np.ndarray,
        mask: Array | None,
        condition: Array | None,
        keys: Array | None = None,
        cache: Cache | None = None,
    ) -> tuple[Array, Cache | None]:
        """(x, cache): the activations (B*L, D) after this layer, and what `Attention` cached."""
        length = len(positions)
        rows = x.shape[0] // length
        first, second = (None, None) if keys is None else jnp.moveaxis(keys, 1, 0)
        if self.modulation is None or condition is None:
            h, cache = self.attention(self.norm_attention(x), positions, mask, cache)
            x = x + dropout(h, self.rate, first, rows)
            return x + dropout(self.mlp(self.norm_mlp(x)), self.rate, second, rows), cache
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(
            per_position(self.modulation(condition), length), 6, axis=-1
        )
        h = self.norm_attention(x) * (1 + scale_a) + shift_a
        h, cache = self.attention(h, positions, mask, cache)
        x = x + gate_a * dropout(h, self.rate, first, rows)
        h = self.mlp(self.norm_mlp(x) * (1 + scale_m) + shift_m)
        return x + gate_m * dropout(h, self.rate, second, rows), cache


class Pooled(nnx.Module):
    """Two layers from a vector of each sequence, float32 (B, D) -> (B, outputs), 0 at first."""

    def __init__(self, width: int, outputs: int, rngs: nnx.Rngs):
        self.up = linear(width, width, jnp.float32, rngs, OUTER, bias=True)
        self.out = linear(width, outputs, jnp.float32, rngs, LAST, scale=0, bias=True)

    def __call__(self, x: Array) -> Array:
        """float32 (B, outputs), from x (B, D)."""
        return self.out(jax.nn.relu(self.up(x)))


def per_position(condition: Array, length: int) -> Array:
    """(B, 1 or L, C) -> (B*L, C)."""
    full = jnp.broadcast_to(condition, (condition.shape[0], length, condition.shape[-1]))
    return constrain_batch(rearrange(full, "b l c -> (b l) c"))


class EmbedAndHead(nnx.Module):
    """What stands around the layers: embedding, time embedding, final norm and output head.

    The embedding has a row for each of V tokens and one more, the last, for the mask (or the start
    token of an autoregressive model). Simplex inputs weigh the first V rows.
    """

    def __init__(self, config: "Transformer", dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype = dtype
        V = config.num_tokens
        usual = config.width**-0.5 if config.tied else 1.0
        init = nnx.initializers.normal(config.embedding_std or usual)
        table = init(rngs.params(), (V + 1, config.width), jnp.float32)
        self.embedding = nnx.Param(table, role=Table())
        self.norm = normalisation(config.norm, config.width, dtype, rngs, config.norm_eps)
        last = replace(LAST, rate=config.rate)
        self.head = (
            None
            if config.tied
            else linear(config.width, V, dtype, rngs, last, scale=0, bias=config.has_head_bias)
        )
        self.readout = config.readout
        self.timed, self.label_activation = config.time_conditioning, config.label_activation
        self.time = (
            TimeEmbedding(config.condition_width, config.time_input, dtype, rngs)
            if config.modulated
            else None
        )
        self.labels = (
            nnx.Embed(
                config.given_labels + 1,
                config.condition_width,
                embedding_init=nnx.initializers.normal(0.5),
                dtype=jnp.float32,  # as `embedding_lookup`
                embedding_metadata={"role": Table()},
                rngs=rngs,
            )
            if config.given_labels is not None
            else None
        )
        self.modulation = (
            linear(config.condition_width, 2 * config.width, dtype, rngs, OUTER, scale=0, bias=True)
            if config.modulated
            else None
        )
        self.positions = (
            nnx.Param(
                nnx.initializers.normal(0.02)(
                    rngs.params(), (config.learned_positions, config.width), jnp.float32
                ),
                role=Table(),
            )
            if config.learned_positions
            else None
        )
        self.vector_width = config.vector_width
        self.vectors = (
            linear(config.vector_width, config.width, dtype, rngs, OUTER)
            if config.vector_width is not None
            else None
        )

    def condition(self, t: Array, label: Array | None) -> Array | None:
        """(B, 1 or L, C) from t and labels (B,); the number of labels, or None, means: no label."""
        if self.time is None:
            return None
        condition = self.time(t if self.timed else jnp.zeros_like(t[:, :1]))
        silu = self.label_activation == "silu"
        if self.labels is not None and not (silu and label is None):
            if label is None:
                label = jnp.full(1, self.labels.num_embeddings - 1)
            added = self.labels(label)[:, None]
            added = jax.nn.silu(added) if silu else added
            condition = condition + added.astype(self.dtype)
        return constrain_batch(condition)

    def embed(self, z: Array) -> Array:
        """(B*L, D) from tokens (B, L), simplex points (B, L, V), mixtures of states (B, L, V + 1), or
        vectors. ValueError for another width."""
        table = self.embedding[...]
        if z.ndim == 2:
            return embedding_lookup(table, z.reshape(-1), self.dtype)
        if self.vectors is not None:
            if z.shape[-1] != self.vector_width:
                raise ValueError(
                    f"a state of width {z.shape[-1]}, and the network was made for vectors of width "
                    f"{self.vector_width}"
                )
            return self.vectors(rearrange(z, "b l d -> (b l) d").astype(self.dtype))
        if z.shape[-1] not in (len(table) - 1, len(table)):
            raise ValueError(
                f"a state of width {z.shape[-1]} is neither weights of the {len(table) - 1} tokens nor, "
                "with the mask, of all states; set model.vector_width for vectors"
            )
        table = table[: z.shape[-1]].astype(self.dtype)
        return rearrange(z, "b l v -> (b l) v").astype(self.dtype) @ table

    def placed(self, x: Array, positions: Array | np.ndarray) -> Array:
        """x (B*L, D) with the learned positions (L,) or (B, L) added, of a network that has some."""
        return x if self.positions is None else placed(x, self.positions[...], positions)

    def normed(self, x: Array, length: int, condition: Array | None) -> Array:
        """What the head reads, (B*L, D) from (B*L, D)."""
        x = self.norm(x)
        if self.modulation is None or condition is None:
            return x
        shift, scale = jnp.split(per_position(self.modulation(condition), length), 2, axis=-1)
        return x * (1 + scale) + shift

    def logits(self, x: Array, length: int) -> Array:
        """float32 (B, L, V) from what `normed` gives."""
        # Without this the compiler swapped rows of the batch, between devices of data and of fsdp, where
        # the layers are a loop and a device has few tokens.
        x = constrain_batch(x)
        if self.head is None:
            kernel, bias = self.embedding[...][:-1].astype(self.dtype).T, None
        else:
            kernel, bias = self.head.kernel[...].astype(self.dtype), self.head.bias
        out = self.readout(x, kernel, None if bias is None else bias[...].astype(self.dtype))
        return rearrange(out.astype(jnp.float32), "(b l) v -> b l v", l=length)
