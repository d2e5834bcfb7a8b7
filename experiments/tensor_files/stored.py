"""Tensors that stand in a file: what is known of them before they are read."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.errors import UserError

DAMAGED = "download it again, or give another file"
_MOST_AXES = 64  # as many as numpy has
_MOST_BYTES = 1 << 62


class Unsupported(ValueError):
    """A file may be whole, and is not of those that are read here."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is not read yet, in a file or made on demand.

    shape, dtype: what `load` returns; bfloat16 is that of ml_dtypes. load: makes the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """How many bytes its elements have."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The array, exact. From a file it is read-only and memory-mapped, and takes memory only where
        it is looked at; what is not aligned is a copy of the tensor's size. ValueError where it is not
        what was promised."""
        array = self.load()
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(
                f"an array of {self.dtype}, {self.shape}, was promised, and made was one of "
                f"{array.dtype}, {array.shape}"
            )
        return array


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of a checkpoint in one or several files.

    tensors: by the names that the files have, in their order. average: the exponential moving average
    of the parameters, in the order of `model.parameters()`, where the file has one; else None.
    paths: the files that were read.
    """

    tensors: dict[str, StoredTensor]
    average: tuple[StoredTensor, ...] | None
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Region:
    """Bytes of a file: `size` of them from byte `start`."""

    path: Path
    start: int
    size: int

    def map(self) -> np.ndarray:
        """The bytes, (size,), memory-mapped; UserError where the file has changed meanwhile."""
        if not self.size:
            return np.zeros(0, np.uint8)
        try:
            return np.memmap(self.path, np.uint8, "r", self.start, (self.size,))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path}: cannot be read any more ({error})", "leave it as it is meanwhile"
            ) from error


def load(
    region: Region,
    dtype: np.dtype,
    shape: tuple[int, ...],
    start: int = 0,
    strides: tuple[int, ...] | None = None,
) -> np.ndarray:
    """The tensor that starts at byte `start` of the region and whose strides are in bytes too (None: row
    by row); mapped, or a copy where it is not aligned. UserError for a truth value neither 0 nor 1."""
    if 0 in shape:
        return np.zeros(shape, dtype)
    # A plain array, whose constructor checks the bounds once more.
    array = np.ndarray(shape, dtype, region.map(), start, strides)
    if dtype.kind == "b" and array.view(np.uint8).max() > 1:
        raise UserError(f"{region.path}: a truth value is neither 0 nor 1", DAMAGED)
    return array if array.flags.aligned else array.copy()


def checked_shape(shape: object) -> tuple[int, ...]:
    """The shape, where it is a sequence of sizes whose array numpy can have; else ValueError."""
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise ValueError("its shape is no sequence of numbers")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("its shape is not made of natural numbers")
    if len(shape) > _MOST_AXES:
        raise ValueError(f"it has {len(shape)} axes; {_MOST_AXES} are possible")
    if (
        any(size > _MOST_BYTES for size in shape)
        or math.prod(max(n, 1) for n in shape) > _MOST_BYTES
    ):
        raise ValueError("its shape is larger than any array can be")
    return tuple(shape)
