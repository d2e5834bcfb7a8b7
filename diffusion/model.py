"""What a process and a sampler are given as a model: the network with its parameters bound.

A process calls it and knows nothing else of the network; `models.backbone.Network` is ours.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, Self, cast, runtime_checkable

import jax
import jax.numpy as jnp

Array = jax.Array
Model = Callable[..., Array]
"""model(z, t, **condition) -> out (B, L, V); parameters and dropout key are already bound.

Some processes ask more of it (`models.backbone.Network`): context=x0 for block diffusion, `cache` and
`decode` for samplers from left to right, `energy`, a second network, for residual energies. `log_p` of a
`Sequential` and the any-order bounds ask for a `RowModel`."""


class RowModel(Protocol):
    """A model that knows what its rows hold: several texts, padding, or a text each."""

    @property
    def segments(self) -> Array | None:
        """(B, L), equal for the positions of one text, 0 for padding; None where a row is one text."""
        ...

    def __call__(self, z: Array, t: Array, **condition: Array) -> Array:
        """out (B, L, V), as of every `Model`."""
        ...


class PartedModel(Protocol):
    """A model that consists of several networks, which are called by name."""

    def __call__(self, z: Array, t: Array, **condition: Array) -> Array:
        """out (B, L, V), as of every `Model`."""
        ...

    @property
    def prompt_length(self) -> int:
        """How many of the vectors that its part "prompter" gives stand before a text."""
        ...

    def part(self, name: str) -> Callable[..., Any]:
        """One of its networks, with its parameters."""
        ...


@runtime_checkable
class PositionModel(Protocol):
    """A model that need not compute what it says of every position."""

    def at(
        self,
        function: Callable[..., Array],
        where: Array | None,
        x0: Array,
        z: Array,
        t: Array,
    ) -> Array:
        """`at_positions` of this model."""
        ...

    def given(self, **condition: Array) -> Model:
        """The model with more of a condition."""
        ...


@runtime_checkable
class JointModel(Protocol):
    """A model that draws the tokens of a text together, not each on its own."""

    def __call__(self, z: Array, t: Array, **condition: Array) -> Array:
        """out (B, L, V), as of every `Model`."""
        ...

    def tokens(self, key: Array, log_p0: Array, before: Array) -> Array:
        """x0 (B, L), drawn from log_p0 (B, L, V); before: log_p0 before a logits processor changed
        it."""
        ...

    def saying(self, out: Array) -> Model:
        """The model that puts out `out` (B, L, V), whatever it is given."""
        ...


def saying(model: Model, out: Array) -> Model:
    """The model that puts out `out`, which it has put out before, and draws tokens as it does."""
    return model.saying(out) if isinstance(model, JointModel) else lambda z, t: out


def given(model: Model, **condition: Array) -> Model:
    """The model with more of a condition, the same in every call."""
    if isinstance(model, PositionModel):
        return model.given(**condition)
    return lambda z, t, **more: model(z, t, **condition, **more)


class Around:
    """What a frozen dataclass over a `model` passes on to it: what its rows hold, and conditions."""

    model: Model

    @property
    def segments(self) -> Array | None:
        """Those of the model, as of `RowModel`."""
        return cast(RowModel, self.model).segments

    def given(self, **condition: Array) -> Self:
        """As of `PositionModel`."""
        return replace(cast(Any, self), model=given(self.model, **condition))


def at_positions(
    model: Model,
    function: Callable[..., Array],
    where: Array | None,
    x0: Array,
    z: Array,
    t: Array,
) -> Array:
    """function(out, x0, z, t), (B, L), of out = model(z, t), which of a position takes what is given of
    it alone; 0 where `where` (B, L) is false, None for nowhere."""
    if isinstance(model, PositionModel):
        return model.at(function, where, x0, z, t)
    value = function(model(z, t), x0, z, t)
    return value if where is None else jnp.where(where, value, 0)


LogitsFunction = Callable[[Array], Array]
"""log_p0 (B, L, V) -> the same, changed: what a logits processor does at one step."""
