"""Low-rank adaptation (LoRA, arXiv 2106.09685): a trained network stays, each of its matrices W becomes

    W + (alpha / rank) down up,     down (inputs, rank), up (rank, outputs),

of which down and up alone are trained. up begins at 0, and the network as what it was.
"""

from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from models.backbone import Backbone
from models.roles import Matrix
from models.transformer import Transformer

OF_BASE = (  # what it takes and gives is what the network below does
    "inputs", "output", "decodes", "has_head", "vocab_size", "time_conditioning", "num_labels",
    "ahead", "block_length", "chunked_head", "dtype",
)  # fmt: skip


@dataclass(frozen=True)
class LoRA(Backbone):
    """A network over another that is frozen. Parameters are {"base": ..., "lora": ...}; the optimiser
    holds moments of the second alone.

    base: the network below. rank: of what is added to each matrix. alpha: by how much it counts. where:
    names, one of which has to be on the path of a hidden matrix for it to be adapted, such as
    "attention" or "qkv"; () takes all.
    """

    frozen: ClassVar[tuple[str, ...]] = ("base",)
    base: Backbone = Transformer()
    rank: int = 8
    alpha: float = 16.0
    where: tuple[str, ...] = ()

    def __post_init__(self):
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(
                f"LoRA.rank = {self.rank} must be at least 1 and alpha = {self.alpha} above 0"
            )
        if isinstance(self.base, LoRA):
            raise ValueError("LoRA.base is a LoRA itself; give the network below it")
        for name in OF_BASE:
            object.__setattr__(self, name, getattr(self.base, name))

    @property
    def max_length(self):
        return self.base.max_length

    @property
    def inner(self):
        return self.base

    def init(self, key: Array) -> dict:
        key_base, key_factors = jax.random.split(key)
        factors: dict = {}
        for n, (path, (*stack, inputs, outputs)) in enumerate(self._adapted().items()):
            drawn = jax.random.normal(
                jax.random.fold_in(key_factors, n), (*stack, inputs, self.rank)
            )
            up = jnp.zeros((*stack, self.rank, outputs))
            _put(factors, path, {"down": drawn / sqrt(inputs), "up": up})
        return {"base": self.base.init(key_base), "lora": factors}

    def roles(self):
        factors: dict = {}
        for path in self._adapted():
            both = {"down": Matrix(hidden=False), "up": Matrix(hidden=False, closing=True)}
            _put(factors, path, both)
        return {"base": self.base.roles(), "lora": factors}

    def apply(self, params: dict, z: Array, t: Array, **condition: Any) -> Array:
        return self.base.apply(self.merge(params), z, t, **condition)

    def merge(self, params):
        base = jax.tree.map(jax.lax.stop_gradient, params["base"])  # copies the dicts, too
        for path in self._adapted():
            factors, where = params["lora"], base
            for name in path[:-1]:
                factors, where = factors[name], where[name]
            pair = factors[path[-1]]
            where[path[-1]] += self.alpha / self.rank * (pair["down"] @ pair["up"])
        return base

    def place(self, params):
        own = jax.eval_shape(self.base.init, jax.random.key(0))
        other = {name: part for name, part in params.items() if name not in own}
        return {"base": {name: part for name, part in params.items() if name in own}} | other

    def for_runtime(self, attention="auto", dtype=None, remat=None):
        return replace(self, base=self.base.for_runtime(attention, dtype, remat))

    def for_process(self, attention_block, vector_width):
        network = replace(self, base=self.base.for_process(attention_block, vector_width))
        network._adapted()
        return network

    def like(self, other):
        return replace(self, base=self.base.like(other))

    def flops_per_token(self, length):
        return self.base.flops_per_token(length)

    def _adapted(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        """The shape of each matrix that is adapted, by its path. ValueError where there is none."""
        shapes = dict(
            jax.tree_util.tree_leaves_with_path(jax.eval_shape(self.base.init, jax.random.key(0)))
        )
        found, hidden = {}, []
        for path, role in jax.tree_util.tree_leaves_with_path(self.base.roles()):
            if isinstance(role, Matrix) and role.hidden:
                names = tuple(key.key for key in path)
                hidden.append("/".join(names))
                if not self.where or set(self.where) & set(names):
                    found[names] = shapes[path].shape
        if not found:
            raise ValueError(
                f"LoRA.where = {self.where} names none of the hidden matrices ({', '.join(hidden)})"
            )
        return found


def _put(tree: dict, path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
