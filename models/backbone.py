"""What a network is to the rest of the program, and a network with its parameters."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import Field, dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from jax import Array

from models.positions import apply_where
from models.roles import by_rank

LARGE = 4096  # tokens from which on the head is a large part of the work


class Backbone(ABC):
    """A network as two pure functions, `init` and `apply`. An implementation is a frozen dataclass of
    settings; `vocab_size` None means: the data's, which is filled in.

    inputs: the states that `apply` takes: int tokens (B, L), float weights of tokens (B, L, V) on the
    simplex, float vectors (B, L, D). output: what `apply` gives: logits of the tokens (B, L, V), the
    log-probability of a label (B,), or an energy (B,). decodes: whether it has `cache` and `decode`,
    takes a `context` of clean blocks, `segments`, and what is `visible`. has_head: whether `apply` is
    `head` of `features`. inserts: whether its logits are followed by how many tokens are missing. Of
    networks that are a part of another one the output may be a "vector" (B, D), or several.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings
    inputs: ClassVar[tuple[Literal["tokens", "simplex", "vectors"], ...]] = ("tokens",)
    output: ClassVar[Literal["tokens", "label", "energy", "vector"]] = "tokens"
    decodes: ClassVar[bool] = False
    has_head: ClassVar[bool] = False
    inserts: ClassVar[bool] = False
    vocab_size: int | None
    time_conditioning: bool = False
    """Whether it takes the time as input."""
    num_labels: int | None = None
    """Number of labels that it classifies or is conditioned on; None for none."""
    ahead: int = 1
    """Of how many tokens, its own and the next ones, each position speaks in training: with the
    condition `ahead=True` `apply` gives logits (B, L, ahead * V)."""
    block_length: int | None = None
    """Attention by blocks of so many positions from left to right; None lets each see every other."""
    chunked_head: bool | None = None
    """Whether losses are computed by chunks of positions, where `apply` is `head` of `features`, so that
    no array (B, L, V) is made; None: only those of masked tokens, and of a large vocabulary."""
    dtype: str = "float32"
    """What it computes in: float32, bfloat16, or auto, which depends on the device."""
    prompt_length: int = 0
    """How many vectors stand before a text, of a network with a part "prompter"."""
    frozen: ClassVar[tuple[str, ...]] = ()
    """Top-level names of parameters that training leaves as they are."""
    fitted_rows: ClassVar[int] = 0
    """How many rows of the training text `fitted` is given before training; 0 does not call it."""

    @property
    def num_tokens(self) -> int:
        """V; ValueError where the data has yet to fill it in."""
        if self.vocab_size is None:
            raise ValueError(
                f"{type(self).__name__}.vocab_size = None is filled in when the data is read; give a "
                "number to use the network without data"
            )
        return self.vocab_size

    @property
    def _dtype(self):
        if self.dtype == "auto":
            return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        return jnp.dtype(self.dtype)

    @property
    def max_length(self) -> int | None:
        """The most positions of a row; None for any number."""
        return None

    @abstractmethod
    def init(self, key: Array) -> dict:
        """Parameters, a nested dict of float32 arrays, under names of the backbone's own."""

    def roles(self) -> dict:
        """What each parameter is, a `models.roles.Role` in the place of each array of `init`.

        By default `by_rank` guesses: right for dense layers that are not stacked. It takes a table, or
        biases stacked over layers, for matrices, which weight decay and `Muon` then act on.
        """
        return jax.tree.map(by_rank, jax.eval_shape(self.init, jax.random.key(0)))

    def cache(self, rows: int, length: int) -> Any:
        """What `decode` fills: room for `length` positions of so many rows."""
        raise NotImplementedError(f"{type(self).__name__} decodes nothing (Backbone.decodes)")

    def decode(
        self,
        params: dict,
        z: Array,
        t: Array,
        cache: Any,
        start: Array | int,
        span: int | None = None,
        both_sides: bool = False,
        label: Array | None = None,
        segments: Array | None = None,
        added: Array | None = None,
    ) -> tuple[Array, Any]:
        """(out (B, n, V), the cache with these in it) of the n positions from `start` on; span: how
        many positions up to the last they see, None for all; both_sides: whether they see what is
        cached after them too. label: (B,), where it has labels. segments: (B, N) of all that is
        cached. added: (B*n, D), put on top of the embeddings."""
        raise NotImplementedError(f"{type(self).__name__} decodes nothing (Backbone.decodes)")

    @abstractmethod
    def apply(self, params: dict, z: Array, t: Array, **condition: Any) -> Array:
        """out, float32 (B, L, V), from a state z and times t, (B, 1) or (B, L).

        z: tokens 0..V, where V is the mask or the start token, or what else `inputs` names. condition:
        dropout_keys (B,) in all training; segments (B, L) where data.rows is not "wrap"; label (B,)
        where data.labels is set, which asks for `num_labels` and `time_conditioning` as settings;
        context (B, L) under block diffusion; visible (L, L) where train.attention_annealing is set. See
        `models.transformer.Transformer.apply`.
        """

    def features(self, params: dict, z: Array, t: Array, **condition: Any) -> Array:
        """(B, L, D): the last hidden state at each position, with the condition of `apply`."""
        raise NotImplementedError(f"{type(self).__name__} gives no features of text")

    def head(self, params: dict, features: Array) -> Array:
        """out (B, L, V), of any positions, from their `features`."""
        raise NotImplementedError(f"{type(self).__name__} has no head apart (Backbone.has_head)")

    def for_runtime(
        self,
        attention: str | None = "auto",
        dtype: str | None = None,
        remat: bool | None = None,
    ) -> Self:
        """The same network as it is to be computed on another machine: kernels of attention, what it is
        computed in, whether layers are computed again in the backward pass; None leaves a setting."""
        return self

    def for_process(self, attention_block: int | None, vector_width: int | None) -> Self:
        """The same with what a process asks of it (`diffusion.process.Traits`): attention by blocks, and
        states that are vectors of a width. ValueError where it has no such form."""
        if attention_block is not None or vector_width is not None:
            raise ValueError(
                f"model {type(self).__name__} attends to all positions of tokens; use Transformer"
            )
        return self

    def like(self, other: "Backbone") -> "Backbone":
        """A network with the parameters of another in the manner of this one: how it is computed, and
        what changes no shapes. ValueError where the other is of another class."""
        if type(other) is not type(self):
            raise ValueError(
                f"the network of the run is a {type(other).__name__}, and model a "
                f"{type(self).__name__}; take model = {type(other).__name__}"
            )
        return other

    @property
    def parts(self) -> dict[str, "Backbone"]:
        """The networks that it consists of, each with the parameters under its name; {} where it is one
        by itself."""
        return {}

    def fitted(self, params: dict, tokens: Array) -> dict:
        """The parameters that training begins with, once what is measured of the training text is in
        them: of rows of tokens (N, L). By default they stay as they are."""
        return params

    @property
    def inner(self) -> "Backbone":
        """The network that is called with what `merge` gives: itself, or the one that it is over."""
        return self

    def merge(self, params: dict) -> dict:
        """The parameters of `inner`, from those of this network."""
        return params

    def place(self, params: dict) -> dict:
        """Parameters of a network like `inner`, and others beside them, under this network's names."""
        return params

    def with_mean_mask(self, params: dict) -> dict:
        """The parameters with the state of id V, which was the start token of an autoregressive model,
        begun anew as a mask: the mean of all tokens. By default they stay as they are."""
        return params

    def flops_per_token(self, length: int) -> int | None:
        """Multiplications and additions of one forward pass per token; None where it is not known."""
        return None


@dataclass(frozen=True)
class Network:
    """A network with its parameters: the model(z, t, **condition) that processes and samplers call.

    backbone: its functions. params: its parameters, a nested dict. condition: what is the same in every
    call, such as dropout_keys, a label or segments. energy: the second network of a residual energy
    model, called in its own way.
    """

    backbone: Backbone
    params: dict
    condition: dict = field(default_factory=dict)
    energy: "Network | None" = None

    def __call__(self, z: Array, t: Array, **condition: Any) -> Array:
        """out, as of `Backbone.apply`; condition beside the network's own."""
        return self.backbone.apply(self.params, z, t, **(self.condition | condition))

    def given(self, **condition: Any) -> "Network":
        """The network with more of a condition, the same in every call."""
        return replace(self, condition=self.condition | condition)

    def at(
        self,
        function: Callable[..., Array],
        where: Array | None,
        x0: Array,
        z: Array,
        t: Array,
    ) -> Array:
        """function(out, x0, z, t), (B, L), which of each position depends on what is given of it alone;
        0 where `where` (B, L) is false, None for nowhere. What need not be computed of `out` is not, of
        a large vocabulary (`Backbone.chunked_head`): same number, fewer operations."""
        backbone = self.backbone
        chunked = backbone.chunked_head
        if chunked is None:
            chunked = where is not None and (backbone.vocab_size or 0) >= LARGE
        if not (chunked and backbone.has_head):
            value = function(self(z, t), x0, z, t)
            return value if where is None else jnp.where(where, value, 0)
        features = backbone.features(self.params, z, t, **self.condition)
        return apply_where(
            lambda x, x0, z, t: function(backbone.head(self.params, x), x0, z, t),
            features,
            jnp.ones(features.shape[:2], bool) if where is None else where,
            (x0, z, jnp.broadcast_to(t, features.shape[:2])),
        )

    @property
    def prompt_length(self) -> int:
        """How many of the vectors that its part "prompter" gives stand before a text."""
        return self.backbone.prompt_length

    def part(self, name: str) -> "Network":
        """A network that it consists of (`Backbone.parts`), without the condition."""
        return Network(self.backbone.parts[name], self.params[name])

    @property
    def segments(self) -> Array | None:
        """Those of its condition, (B, L); None where a row is one text."""
        return self.condition.get("segments")

    def cache(self, rows: int, length: int) -> Any:
        """What `decode` fills, as of `Backbone.cache`."""
        return self.backbone.cache(rows, length)

    def decode(
        self,
        z: Array,
        t: Array,
        cache: Any,
        start: Array | int,
        span: int | None = None,
        both_sides: bool = False,
        added: Array | None = None,
    ) -> tuple[Array, Any]:
        """(out, the cache filled further), as of `Backbone.decode`, with the label and the segments of
        the condition."""
        given = {k: v for k, v in self.condition.items() if k in ("label", "segments")}
        if both_sides:
            given["both_sides"] = True
        if added is not None:
            given["added"] = added
        return self.backbone.decode(self.params, z, t, cache, start, span, **given)


def num_parameters(params: dict) -> int:
    """The number of scalars in a nested dict of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
