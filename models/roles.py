"""What the parameters of a network are: it decides how devices share them, whether weight decay acts on
them, and whether `Muon` takes them. A `Backbone` says it of each of its own (`Backbone.roles`)."""

from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Matrix:
    """The matrix of a dense layer, (inputs, outputs), or several stacked, (N, inputs, outputs): devices
    share it and weight decay acts on it.

    hidden: whether it leads from activations to activations, so that `Muon` takes it; the head does not,
    nor does a layer that reads vectors or times. closing: whether it ends a branch that another matrix
    begins, as the second of an MLP does: devices split its inputs as they split the outputs of the
    first, so that one reduction serves both. rate: times which AdamW's learning rate is multiplied, and
    by whose root Muon's, as widths ask for (`Transformer.base_width`).
    """

    hidden: bool = True
    closing: bool = False
    rate: float = 1.0


@dataclass(frozen=True)
class Table:
    """A table that rows are looked up in, (rows, width): devices share its width."""


@dataclass(frozen=True)
class Vector:
    """All else, such as a bias or a scale: every device holds it whole."""


Role = Matrix | Table | Vector


def by_rank(array: jax.Array | jax.ShapeDtypeStruct) -> Role:
    """The default role of an array: a hidden matrix where it has two or more axes, else a vector."""
    return Matrix() if array.ndim > 1 else Vector()
