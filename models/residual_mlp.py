"""A network of vectors: residual layers, told a time and, beside it, a second vector.

    h = W z + C c + time(t);   h = h + W2 gelu(W1 norm(h))   N times;   out = W3 norm(h)

With out = 0 at first.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.backbone import Backbone
from models.functional import bind, init, roles
from models.layers import LAST, MLP, OUTER, TimeEmbedding, linear, normalisation
from models.time_inputs import Thousandfold


@dataclass(frozen=True)
class ResidualMLP(Backbone):
    """Layers from one vector to another, or to several.

    num_layers, width: N, and how many numbers go from layer to layer. reads, beside, outputs: how many
    numbers z has, the second vector (0 for none), and a vector that comes out; count: how many come out,
    None for one without an axis. Those four are filled in by the network that it is a part of.
    """

    output: ClassVar[str] = "vector"
    vocab_size: ClassVar[int | None] = None
    num_layers: int = 4
    width: int = 256
    reads: int = 1
    beside: int = 0
    outputs: int = 1
    count: int | None = None

    def __post_init__(self):
        for name in ("num_layers", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"ResidualMLP.{name} = {getattr(self, name)} must be at least 1")

    def made_for(
        self, reads: int, beside: int, outputs: int, count: int | None = None
    ) -> "ResidualMLP":
        """The same, for vectors of these widths."""
        return replace(self, reads=reads, beside=beside, outputs=outputs, count=count)

    def init(self, key: Array) -> dict:
        """Parameters, {"ends": ..., "layers": ... stacked (N, ...)}."""
        key_ends, key_layers = jax.random.split(key)
        keys = jax.random.split(key_layers, self.num_layers)
        layers = jax.vmap(lambda k: init(self._block, k))(keys)
        return {"ends": init(self._ends, key_ends), "layers": layers}

    def roles(self):
        return {"ends": roles(self._ends), "layers": roles(self._block)}

    def apply(self, params: dict, z: Array, t: Array, beside: Array | None = None) -> Array:
        """float32 (B, outputs) or (B, count, outputs), from z (B, reads), t (B, 1) in [0, 1] and
        `beside` (B, beside)."""
        ends = bind(self._ends, params["ends"])
        x = ends.read(z.astype(jnp.float32)) + ends.time(t)[:, 0]
        if ends.beside is not None and beside is not None:
            x = x + ends.beside(beside.astype(jnp.float32))
        for n in range(self.num_layers):
            block = bind(self._block, jax.tree.map(lambda leaf, n=n: leaf[n], params["layers"]))
            x = x + block.mlp(block.norm(x))
        out = ends.out(ends.norm(x))
        return out if self.count is None else out.reshape(len(z), self.count, self.outputs)

    def _block(self, rngs: nnx.Rngs) -> "_Block":
        return _Block(self, rngs)

    def _ends(self, rngs: nnx.Rngs) -> "_Ends":
        return _Ends(self, rngs)


class _Block(nnx.Module):
    def __init__(self, config: ResidualMLP, rngs: nnx.Rngs):
        width, scale = config.width, (2 * config.num_layers) ** -0.5
        self.norm = normalisation("rms", width, jnp.float32, rngs)
        self.mlp = MLP(width, 4 * width, "gelu", True, jnp.float32, scale, rngs)


class _Ends(nnx.Module):
    def __init__(self, config: ResidualMLP, rngs: nnx.Rngs):
        width, dtype = config.width, jnp.float32
        self.read = linear(config.reads, width, dtype, rngs, OUTER, bias=True)
        self.beside = linear(config.beside, width, dtype, rngs, OUTER) if config.beside else None
        self.time = TimeEmbedding(width, Thousandfold(), dtype, rngs)
        self.norm = normalisation("rms", width, dtype, rngs)
        outputs = config.outputs * (config.count or 1)
        self.out = linear(width, outputs, dtype, rngs, LAST, scale=0, bias=True)
