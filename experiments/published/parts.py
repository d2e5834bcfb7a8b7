"""How an array of a network is held in a published file: small pieces, each in both directions.

A layout is a nested dict like the parameters of a network, with a `Part` in the place of each array.
Matrices of torch are (outputs, inputs), ours (inputs, outputs). What a part reads of a file and has no
place for in the array is its `rest`; a run keeps that, so that its export is what was imported.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]
Get = Callable[[str], np.ndarray]


class Part(ABC):
    """How one array is held. Keys are those of the file without its prefix."""

    @property
    @abstractmethod
    def keys(self) -> tuple[str, ...]:
        """The tensors of the file that the array is made of."""

    @abstractmethod
    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """The shape of the array, from those of the tensors; ValueError where they do not fit
        together."""

    @abstractmethod
    def fill(self, get: Get, room: np.ndarray) -> None:
        """Nothing; `room`, of the shape of the array, holds it, written tensor by tensor."""

    @abstractmethod
    def save(self, array: np.ndarray, rest: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The tensors by their keys, from the array and what `rest` gave."""

    def rest(self, get: Get) -> dict[str, np.ndarray]:
        """What the array has no place for, by key."""
        return {}

    def keeps(self, array: np.ndarray, rest: Mapping[str, np.ndarray]) -> bool:
        """Whether what `save` gives holds all of the array that means something."""
        again = np.empty_like(array)
        self.fill(self.save(array, rest).__getitem__, again)
        return np.array_equal(again, array)


@dataclass(frozen=True)
class Same(Part):
    """The tensor itself."""

    key: str

    @property
    def keys(self):
        return (self.key,)

    def shape(self, shapes):
        return shapes[self.key]

    def fill(self, get, room):
        room[...] = get(self.key)

    def save(self, array, rest):
        return {self.key: array}


@dataclass(frozen=True)
class Flat(Same):
    """A row (1, N), or a column (N, 1), as a vector (N,).

    last: whether N is the last of its axes, as of a row.
    """

    last: bool = True

    def shape(self, shapes):
        shape = shapes[self.key]
        size, one = shape[::-1] if self.last else shape
        if one != 1:
            raise ValueError(f"{self.key} has the shape {shape}, not a row or column of one")
        return (size,)

    def fill(self, get, room):
        room[...] = get(self.key).reshape(-1)

    def save(self, array, rest):
        return {self.key: array[None] if self.last else array[:, None]}


@dataclass(frozen=True)
class Scalars(Part):
    """Several numbers, each a tensor without axes, as a vector."""

    names: tuple[str, ...]

    @property
    def keys(self):
        return self.names

    def shape(self, shapes):
        for name in self.names:
            if shapes[name] != ():
                raise ValueError(f"{name} has the shape {shapes[name]}, and should be one number")
        return (len(self.names),)

    def fill(self, get, room):
        room[...] = [get(name) for name in self.names]

    def save(self, array, rest):
        return {name: np.asarray(x) for name, x in zip(self.names, array, strict=True)}


@dataclass(frozen=True)
class Transposed(Same):
    """A matrix (outputs, inputs), as torch has it."""

    def shape(self, shapes):
        rows, columns = shapes[self.key]
        return columns, rows

    def fill(self, get, room):
        room[...] = get(self.key).T

    def save(self, array, rest):
        return {self.key: array.T}


@dataclass(frozen=True)
class FirstOutputs(Same):
    """The first `count` outputs of a matrix (outputs, inputs), or of a bias (outputs,): the head of a
    network whose last outputs, those of the mask, mean nothing."""

    count: int

    def shape(self, shapes):
        outputs, *inputs = shapes[self.key]
        if outputs < self.count:
            raise ValueError(f"{self.key} has {outputs} outputs, not {self.count} or more")
        return (*inputs, self.count)

    def fill(self, get, room):
        room[...] = get(self.key)[: self.count].T

    def rest(self, get):
        return {self.key: get(self.key)[self.count :]}

    def save(self, array, rest):
        more = rest.get(self.key, np.zeros((1, *array.shape[:-1]), array.dtype))
        return {self.key: np.concatenate([array.T, more.astype(array.dtype)])}


@dataclass(frozen=True)
class Extended(Same):
    """A table (rows, D) of which the first `count` rows stay, and then a copy of row `row`: the mask, or
    the start token, of our networks comes last. Numbers of tokens stay what they are in the file, whose
    own row of the mask is one that no text uses.

    count: None takes all. row: None puts zeros there. returns: whether the last row, which may have been
    trained, goes back to the other, as that of a mask does; that of a token of the text stays its own.
    """

    row: int | None = None
    count: int | None = None
    returns: bool = False

    def shape(self, shapes):
        rows, width = shapes[self.key]
        if self.row is not None and not 0 <= self.row < rows:
            raise ValueError(f"{self.key} has {rows} rows, none of which is {self.row}")
        return (self.count or rows) + 1, width

    def fill(self, get, room):
        table = get(self.key)
        room[:-1] = table[: self.count]
        room[-1] = 0 if self.row is None else table[self.row]

    def rest(self, get):
        return {self.key: get(self.key)[self.count :]} if self.count else {}

    def save(self, array, rest):
        table = array[:-1]
        if self.count:
            more = rest.get(self.key, np.zeros_like(table[:1]))
            table = np.concatenate([table, more.astype(array.dtype)])
        if self.returns:
            if self.row is None:
                raise ValueError(f"{self.key}: the number of the mask is not known")
            table = table.copy()
            table[self.row] = array[-1]
        return {self.key: table}

    def keeps(self, array, rest):
        if self.row is None:  # the last row is one that is never looked up
            return True
        if not self.returns:
            return super().keeps(array, rest)
        return True  # the file's own row of the mask gives way


@dataclass(frozen=True)
class _Several(Part):
    """An array made of parts."""

    parts: tuple[Part, ...]

    @property
    def keys(self):
        return tuple(key for part in self.parts for key in part.keys)

    def rest(self, get):
        return {key: value for part in self.parts for key, value in part.rest(get).items()}


@dataclass(frozen=True)
class Beside(_Several):
    """Several arrays beside each other along the last axis, such as queries, keys and values."""

    sizes: tuple[int, ...]
    """How much of the last axis each takes."""

    def shape(self, shapes):
        each = [part.shape(shapes) for part in self.parts]
        if any(shape[:-1] != each[0][:-1] for shape in each):
            raise ValueError(f"{', '.join(self.keys)}: {each} do not go beside each other")
        for shape, size, part in zip(each, self.sizes, self.parts, strict=True):
            if shape[-1] != size:
                raise ValueError(f"{part.keys[0]} has {shape[-1]} outputs, not {size}")
        return (*each[0][:-1], sum(self.sizes))

    def fill(self, get, room):
        ends = np.cumsum(self.sizes)[:-1]
        for part, piece in zip(self.parts, np.split(room, ends, axis=-1), strict=True):
            part.fill(get, piece)

    def save(self, array, rest):
        ends = np.cumsum(self.sizes)[:-1]
        pieces = zip(self.parts, np.split(array, ends, axis=-1), strict=True)
        return {k: v for part, piece in pieces for k, v in part.save(piece, rest).items()}


@dataclass(frozen=True)
class Stacked(_Several):
    """An array of each layer, (N, ...)."""

    def shape(self, shapes):
        each = [part.shape(shapes) for part in self.parts]
        for part, shape in zip(self.parts, each, strict=True):
            if shape != each[0]:
                raise ValueError(
                    f"{part.keys[0]} has {shapes[part.keys[0]]}, and {self.keys[0]} "
                    f"{shapes[self.keys[0]]}"
                )
        return (len(each), *each[0])

    def fill(self, get, room):
        for part, layer in zip(self.parts, room, strict=True):
            part.fill(get, layer)

    def save(self, array, rest):
        pieces = zip(self.parts, array, strict=True)
        return {k: v for part, piece in pieces for k, v in part.save(piece, rest).items()}


@dataclass(frozen=True)
class Grouped(Same):
    """A matrix of queries, keys and values, (outputs, inputs), whose outputs come group by group: the
    queries of `queries` heads, then a head of keys and one of values (lit-gpt)."""

    groups: int
    queries: int
    """Heads of queries in a group."""

    def shape(self, shapes):
        outputs, inputs = shapes[self.key]
        if outputs % (self.groups * (self.queries + 2)):
            raise ValueError(
                f"{self.key} has {outputs} outputs, which are not {self.groups} groups of "
                f"{self.queries + 2} heads"
            )
        return inputs, outputs

    def fill(self, get, room):
        tensor = get(self.key)
        heads = tensor.reshape(self.groups, self.queries + 2, -1, tensor.shape[-1])
        parts = heads[:, : self.queries], heads[:, self.queries : -1], heads[:, -1:]
        room[...] = np.concatenate([part.reshape(-1, tensor.shape[-1]) for part in parts]).T

    def save(self, array, rest):
        width = array.shape[0]
        head = array.shape[1] // (self.groups * (self.queries + 2))
        ends = np.array([self.queries, self.queries + 1]) * self.groups * head
        parts = [part.reshape(self.groups, -1, head, width) for part in np.split(array.T, ends)]
        return {self.key: np.concatenate(parts, axis=1).reshape(-1, width)}


def flat(layout: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Part]]:
    """(path, part) of each array of a layout, in its order."""
    for name, value in layout.items():
        if isinstance(value, dict):
            yield from flat(value, (*path, name))
        else:
            yield (*path, name), value


def stacked(count: int, make: Callable[[int], dict]) -> dict:
    """The layout of `count` layers, each array stacked, from that of layer i, make(i)."""
    layers = [dict(flat(make(i))) for i in range(count)]
    layout: dict = {}
    for path in layers[0] if layers else ():
        where = layout
        for name in path[:-1]:
            where = where.setdefault(name, {})
        where[path[-1]] = Stacked(tuple(layer[path] for layer in layers))
    return layout


def linear(name: str, bias: bool = False) -> dict:
    """The layout of a dense layer of torch: its kernel, and its bias."""
    return {"kernel": Transposed(f"{name}.weight")} | (
        {"bias": Same(f"{name}.bias")} if bias else {}
    )


def norm(name: str, bias: bool = False) -> dict:
    """The layout of a normalisation: its scale, and its bias."""
    return {"scale": Same(f"{name}.weight")} | ({"bias": Same(f"{name}.bias")} if bias else {})
