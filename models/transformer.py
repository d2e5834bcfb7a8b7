"""The backbone of every process: a pre-norm transformer (settings, parameters, forward pass).

Rotary positions, so that any length up to what memory allows can be evaluated; optional AdaLN time
conditioning as in DiT (arXiv 2212.09748); optional QK-norm. Layers are stored stacked, (N, ...) per
parameter, whether they run under `lax.scan` or unrolled, so a checkpoint fits both.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from models.functional import bind, init
from models.layers import AttentionBackend, Block, Ends


@dataclass(frozen=True)
class Transformer:
    """Settings; `init` makes parameters, `apply` is the forward pass. vocab_size None: the data's.

    num_labels makes the network take a label of each sequence, beside the time (hence
    time_conditioning).

    block_length None lets every position see every other; 1 is causal; n lets position i see j where
    j // n <= i // n. dtype "auto" computes in bfloat16 on accelerators and float32 on CPU;
    parameters, normalisation statistics, softmax and logits are float32 throughout.
    """

    vocab_size: int | None = None
    num_layers: int = 12
    width: int = 768
    num_heads: int = 12
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_ratio: float = 4.0
    tied: bool = False
    qk_norm: bool = False
    time_conditioning: bool = False
    condition_width: int = 128
    num_labels: int | None = None
    dropout: float = 0.0
    block_length: int | None = None
    attention: AttentionBackend = "auto"
    scan: bool = False
    remat: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self):
        for name in ("num_layers", "width", "num_heads", "condition_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"Transformer.{name} = {getattr(self, name)} must be at least 1")
        if self.num_labels is not None and (self.num_labels < 1 or not self.time_conditioning):
            raise ValueError(
                f"Transformer.num_labels = {self.num_labels} must be at least 1, with "
                "time_conditioning=True, by whose layers labels enter; or None"
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

    def apply(
        self,
        params: dict,
        z: Array,
        t: Array,
        dropout_keys: Array | None = None,
        label: Array | None = None,
    ) -> Array:
        """out, float32 (B, L, V), from z: int (B, L) or simplex (B, L, V), and t: (B, 1) or (B, L).

        dropout_keys: one key per row (B,), or None for evaluation. label: int (B,), num_labels where a
        row has none; None where no row has one.
        """
        ends = bind(self._ends, params["ends"])
        length = z.shape[1]
        condition = ends.condition(t, label)

        def layer(x, params_and_keys):
            params, keys = params_and_keys
            return bind(self._block, params)(x, length, self._mask(length), condition, keys)

        if self.remat:
            layer = jax.checkpoint(layer)
        keys = None
        if dropout_keys is not None and self.dropout > 0:
            split = jax.vmap(lambda key: jax.random.split(key, (self.num_layers, 2)), out_axes=1)
            keys = split(dropout_keys)  # (N, B, 2)
        x = ends.embed(z)
        if self.scan:
            x, _ = jax.lax.scan(lambda x, xs: (layer(x, xs), None), x, (params["layers"], keys))
        else:
            for n in range(self.num_layers):
                x = layer(x, jax.tree.map(lambda leaf, n=n: leaf[n], (params["layers"], keys)))
        return ends.logits(x, length, condition)

    def flops_per_token(self, length: int) -> int:
        """Multiplications and additions of one forward pass per token; three times that to train."""
        mlp = (3 if self.mlp == "swiglu" else 2) * self.width * self.hidden
        layer = 4 * self.width**2 + mlp + 2 * length * self.width
        return 2 * (self.num_layers * layer + self.width * self.vocab_size)

    def _mask(self, length: int) -> Array | None:
        if self.block_length is None:
            return None
        block = jnp.arange(length) // self.block_length
        return block[None, :] <= block[:, None]

    @property
    def _dtype(self):
        if self.dtype == "auto":
            return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        return jnp.dtype(self.dtype)

    def _block(self, rngs) -> Block:
        return Block(self, self._dtype, rngs)

    def _ends(self, rngs) -> Ends:
        return Ends(self, self._dtype, rngs)


def num_parameters(params: dict) -> int:
    """The number of scalars in a nested dict of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
