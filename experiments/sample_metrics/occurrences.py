"""What of some texts occurs in a far longer one, which is read once, piece by piece.

A window of d symbols has a number: the place of (number of its first d - 1 symbols, last symbol) among
those of the windows of the rows. The text's positions carry the number of the window that begins there
and drop out at the first symbol that no row continues with. So the comparison is exact, hashes nothing,
and costs a few binary searches per position of the text, in memory for one piece and the rows.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from experiments.sample_metrics.text_measures import code_points

_TABLE = 1 << 22  # up to so many possible windows, a table is quicker than binary search
_KEPT = 24  # depths whose windows are numbered once; further down few positions are left


class Occurrences:
    """For each position of `rows`, arrays of symbols >= 1, how many symbols from there on occur in what
    `read` was given: 0 to those left in the row, or to `deepest`."""

    def __init__(self, rows: Sequence[np.ndarray], deepest: int | None = None):
        longest = max(map(len, rows))
        self.deepest = min(longest, deepest or longest)
        self._bounds = np.cumsum([0, *(len(row) + 1 for row in rows)])
        ended = [np.append(row, 0) for row in rows]
        self._symbols = np.concatenate([*ended, np.zeros(longest, int)]).astype(np.int64)
        self._base = int(self._symbols.max()) + 1
        self._longest = np.zeros(self._bounds[-1], np.int32)
        self._levels = [(np.zeros(1, np.int64), np.zeros(self._bounds[-1], np.int64))]

    def read(self, text: np.ndarray) -> None:
        """Takes note of what occurs in `text` (N,), symbols, 0 for one that is in no row."""
        at, number = np.flatnonzero(text), np.zeros(np.count_nonzero(text), np.int64)
        keys, numbers = self._levels[0]
        for depth in range(1, self.deepest + 1):
            previous = len(keys)
            keys, numbers = self._level(depth, numbers)
            inside = at < len(text) - (depth - 1)
            at, number = at[inside], number[inside]
            wanted = number * self._base + text[at + depth - 1]
            places = _places(keys, wanted, previous * self._base)
            known = places >= 0
            at, number = at[known], places[known]
            if not len(at):
                return
            occurs = np.zeros(len(keys) + 1, bool)  # the last for number -1
            occurs[number] = True
            met = occurs[numbers]
            self._longest[met] = np.maximum(self._longest[met], depth)
            numbers = np.where(met, numbers, -1) if depth >= _KEPT else numbers

    def _level(self, depth: int, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(keys, sorted; number of the window at each position, or -1) of the windows of `depth`, of
        those positions whose number is not -1 in `before`, the numbers of the depth above."""
        if depth < len(self._levels):
            return self._levels[depth]
        numbers = np.full(len(before), -1)
        at = np.flatnonzero(before >= 0)
        last = self._symbols[at + depth - 1]
        at, last = at[last > 0], last[last > 0]
        keys, numbers[at] = np.unique(before[at] * self._base + last, return_inverse=True)
        if depth <= _KEPT:
            self._levels.append((keys, numbers))
        return keys, numbers

    def lengths(self) -> list[np.ndarray]:
        """The lengths found so far, an array as long as the row for each."""
        pairs = zip(self._bounds[:-1], self._bounds[1:], strict=True)
        return [self._longest[start : stop - 1] for start, stop in pairs]


def _places(keys: np.ndarray, wanted: np.ndarray, size: int) -> np.ndarray:
    """Where each of `wanted`, below `size`, is in the sorted `keys`, or -1."""
    if size <= _TABLE:
        table = np.full(size, -1, np.int32)
        table[keys] = np.arange(len(keys))
        return table[wanted]
    nearest = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[nearest] == wanted, nearest, -1) if len(keys) else np.full(len(wanted), -1)


def match_lengths(texts: Sequence[str], pieces: Iterable[str]) -> list[np.ndarray]:
    """For each position of each text, the number of characters from there on that stand together in the
    text of which `pieces` are the consecutive parts."""
    symbols = np.unique(np.concatenate([code_points(text) for text in texts]))
    table = np.zeros(int(symbols.max()) + 2, np.int64)
    table[symbols] = np.arange(1, len(symbols) + 1)
    occurrences = Occurrences([table[code_points(text)] for text in texts])
    carried = np.zeros(0, np.int64)
    for piece in pieces:
        points = table[np.minimum(code_points(piece), len(table) - 1)]
        points = np.concatenate([carried, points])
        occurrences.read(points)
        carried = points[max(0, len(points) - occurrences.deepest + 1) :]
    return occurrences.lengths()


def word_match_lengths(
    rows: Sequence[Sequence[str]], pieces: Iterable[str], n: int
) -> list[np.ndarray]:
    """As `match_lengths`, in words, up to n: `rows` are the words of each text."""
    vocabulary = {w: i for i, w in enumerate(dict.fromkeys(w for row in rows for w in row), 1)}
    occurrences = Occurrences([np.array([vocabulary[w] for w in row], np.int64) for row in rows], n)
    carried = np.zeros(0, np.int64)
    for words in _whole_words(pieces):
        numbers = np.fromiter((vocabulary.get(w, 0) for w in words), np.int64, len(words))
        numbers = np.concatenate([carried, numbers])
        occurrences.read(numbers)
        carried = numbers[max(0, len(numbers) - n + 1) :]
    return occurrences.lengths()


def _whole_words(pieces: Iterable[str]) -> Iterator[list[str]]:
    """The words of a text in order, those cut by the end of a piece put together."""
    cut = ""
    for piece in pieces:
        words = (cut + piece).split()
        cut = words.pop() if words and not piece[-1:].isspace() else ""
        yield words
    yield [cut] if cut else []
