"""Documents in rows: one a row, padded, or as many as fit, each a segment of its own; or in pieces.

A document of more tokens than a row has goes on in the next, as if it were another; so every token is in
one row, once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

Conditioning = dict[str, np.ndarray]


@dataclass(frozen=True)
class Rows:
    """Row r holds the tokens starts[r] to stops[r], at most `length`; a segment begins at each of
    `segments` (S,), rising."""

    tokens: np.ndarray
    length: int
    starts: np.ndarray
    stops: np.ndarray
    segments: np.ndarray

    def __len__(self):
        return len(self.starts)

    def chosen(self, numbers: np.ndarray) -> "Rows":
        """Those rows alone."""
        return replace(self, starts=self.starts[numbers], stops=self.stops[numbers])

    @property
    def counted_from(self) -> np.ndarray:
        """Where what is counted of each row begins; it ends at `stops`."""
        return self.starts

    @property
    def sizes(self) -> np.ndarray:
        """How many tokens of each row are counted."""
        return self.stops - self.counted_from

    @property
    def count(self) -> int:
        """How many tokens are counted."""
        return int(self.sizes.sum())

    def read(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and segments of rows, int32 (n, length) each; segments count from 1, and 0 is padding,
        whose token is 0."""
        tokens = np.zeros((len(numbers), self.length), np.int32)
        segments = np.zeros_like(tokens)
        for row, number in enumerate(numbers):
            start, stop = int(self.starts[number]), int(self.stops[number])
            tokens[row, : stop - start] = self.tokens[start:stop]
            of = np.searchsorted(self.segments, np.arange(start, stop), side="right")
            segments[row, : stop - start] = of - of[0] + 1
        return tokens, segments

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, Conditioning]:
        """Tokens of rows, int32 (n, length), and what is given of them."""
        tokens, segments = self.read(numbers)
        return tokens, {"segments": segments}

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, Conditioning, int]]:
        """(tokens, what is given of them, how many rows count), all rows in order, the last batch filled
        up by repetition."""
        for first in range(0, len(self), size):
            count = min(size, len(self) - first)
            yield *self.batch(np.resize(np.arange(first, first + count), size)), count


def make_pieces(tokens: np.ndarray, starts: np.ndarray, length: int) -> Rows:
    """Rows of 1 to `length` tokens, padded: documents that begin at starts (D + 1,), cut into pieces of
    sizes that are drawn evenly, always the same for a text."""
    first, last = int(starts[0]), int(starts[-1])
    # The sum of so many exceeds the text by many deviations.
    enough = 100 + 5 * (last - first) // (2 * length)
    draws = np.random.default_rng(0).integers(1, length, enough, endpoint=True)
    cuts = first + np.cumsum(draws)
    begins = np.union1d(starts[:-1], cuts[cuts < last])
    return Rows(tokens, length, begins, np.append(begins[1:], last), begins)


def make_rows(tokens: np.ndarray, starts: np.ndarray, length: int, pack: bool) -> Rows:
    """The rows of documents that begin at starts (D + 1,): one document each, or if `pack` the next ones
    as long as whole documents fit."""
    sizes = np.diff(starts)
    pieces = -(-sizes // length)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begins = np.repeat(starts[:-1], pieces) + number * length
    ends = np.append(begins[1:], starts[-1])
    if not pack:
        return Rows(tokens, length, begins, ends, begins)
    rows, room = [], 0
    for piece, size in enumerate(memoryview(ends - begins)):
        if size > room:
            rows.append(piece)
            room = length
        room -= size
    rows = np.array(rows, np.int64)
    return Rows(tokens, length, begins[rows], ends[np.append(rows[1:], len(begins)) - 1], begins)
