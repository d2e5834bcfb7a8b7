"""Labels of a text: every token has one, in runs; the label of a sequence is that of its middle token,
which is the one that most of it has where two of them meet."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from experiments.errors import UserError

PERIODS = ("first-quarter", "second-quarter", "third-quarter", "fourth-quarter")


@dataclass(frozen=True)
class Labels:
    """Runs of tokens: they begin at `starts` (R,), rising, and have the labels names[ids], ids (R,)."""

    names: tuple[str, ...]
    starts: np.ndarray
    ids: np.ndarray

    def of(self, first: np.ndarray, length: int | np.ndarray) -> np.ndarray:
        """The labels, int32 (N,), of sequences of `length` tokens from `first` (N,) on."""
        middle = np.asarray(first) + np.asarray(length) // 2
        return self.ids[np.searchsorted(self.starts, middle, side="right") - 1].astype(np.int32)

    def counted_from(self, position: int) -> "Labels":
        """The same, for the text that begins at `position`."""
        return replace(self, starts=self.starts - position)

    def numbered_as(self, names: tuple[str, ...], source: str) -> "Labels":
        """The same with the numbers that labels have in `names`; UserError for one that has none."""
        other = [name for name in self.names if name not in names]
        if other:
            raise UserError(
                f"{source}: label {other[0]!r} is not in data.label_names = {', '.join(names)}; give "
                "text with these labels, or leave labels out: --set data.labels=None"
            )
        numbers = np.array([names.index(name) for name in self.names])
        return Labels(names, self.starts, numbers[self.ids])


def from_runs(names: tuple[str, ...], runs: Iterable[tuple[str, int]]) -> Labels:
    """The labels of a text in order: (label, number of tokens) of each piece."""
    starts, ids, at = [], [], 0
    for name, size in runs:
        number = names.index(name)
        if size and (not ids or ids[-1] != number):
            starts.append(at)
            ids.append(number)
        at += size
    return Labels(names, np.array(starts, np.int64), np.array(ids, np.int64))


def period(number: int, count: int) -> str:
    """The label of text `number` of `count` in order of date: the quarter of them that it is in."""
    return PERIODS[number * len(PERIODS) // count]


def folder_of(path: Path, root: Path) -> str:
    """The label of a file: the name of the folder below `root` that it is in."""
    return path.relative_to(root).parts[0]


def folder_names(
    root: Path, files: list[Path], splits: set[str], least: int = 2
) -> tuple[str, ...]:
    """The labels of the files, sorted; UserError where they do not tell `least` of them, or are named
    after `splits`."""
    if not root.is_dir():
        raise UserError(
            f"data.labels = folder, but data.path {root} is a file; give a directory with a folder for "
            "each label"
        )
    loose = [file for file in files if file.parent == root]
    if loose:
        raise UserError(
            f"data.labels = folder, but {loose[0]} is in no folder of data.path; move it into the "
            "folder of its label"
        )
    names = sorted({folder_of(file, root) for file in files})
    if len(names) < least:
        raise UserError(
            f"data.labels = folder, but all text of data.path {root} is in the one folder "
            f"{names[0]}; use at least two folders, or leave labels out: --set data.labels=None"
        )
    if {name.lower() for name in names} <= splits:
        raise UserError(
            f"data.labels = folder, but the folders of data.path {root} are {', '.join(names)}; "
            "put the label folders first and name files after splits, such as LABEL/train.txt"
        )
    return tuple(names)


def cut_each(
    path: Path,
    dtype: str,
    names: tuple[str, ...],
    runs: list[tuple[str, int]],
    size: int,
    cut: Callable[[int], tuple[int, ...]],
) -> tuple[list[tuple[str, int]], list[int]]:
    """The runs of the file of tokens, and the ends of the splits of its first `size` tokens, once the
    text of each label in these is cut at cut(its size), and they are first the first pieces of all, and
    last their last. runs: (label, number of tokens) of all in the file; one ends at `size`."""
    joined = path.rename(path.with_name("joined.bin"))
    tokens = np.memmap(joined, dtype, "r")
    count = int(np.searchsorted(np.cumsum([n for _, n in runs]), size)) + 1
    labels, rest = from_runs(names, runs[:count]), runs[count:]
    stops = [*labels.starts[1:], size]
    cuts = [
        [int(start) + n for n in (0, *cut(int(stop - start)))]
        for start, stop in zip(labels.starts, stops, strict=True)
    ]
    made, points, done = [], [], 0
    with open(path, "wb") as file:
        for pieces in zip(*(pairwise(cut) for cut in cuts), strict=True):
            for (start, stop), number in zip(pieces, labels.ids, strict=True):
                tokens[start:stop].tofile(file)
                made.append((labels.names[number], stop - start))
                done += stop - start
            points.append(done)
        tokens[size:].tofile(file)
    joined.unlink()
    return made + rest, points
