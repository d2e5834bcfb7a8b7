"""Batches of sequences: random crops to train on, and fixed chunks that cover a split to evaluate on.

An epoch of training cuts the range of starting positions into as many strata as there are whole
sequences, takes the strata in random order and one random start within each. Example e is a pure
function of (seed, e), so a position is one number and every process computes its own share. Where
documents stand in rows (`experiments.data.rows`), an epoch takes the rows in random order. Of several
texts (`experiments.data.interleaving`) each has epochs of its own.

Batches come with what is given besides: {}, {"label": (B,)}, {"segments": (B, L)}, or of pairs
{"known": bool (B, L)}, the prompts (`experiments.data.pairs`).
"""

from collections.abc import Callable, Iterator, Sequence

import grain
import jax
import numpy as np

from experiments.data.interleaving import Interleaved
from experiments.data.labels import Labels
from experiments.data.rows import Conditioning, Rows

RowsOf = Callable[[list[int]], tuple[np.ndarray, Conditioning]]


class _Strata:
    """Stratum i of the starting positions, as a pair (first, one after the last)."""

    def __init__(self, tokens: np.ndarray, length: int):
        self.starts = len(tokens) - length + 1
        self.count = max(1, len(tokens) // length)

    def __len__(self):
        return self.count

    def __getitem__(self, index: int) -> tuple[int, int]:
        first = index * self.starts // self.count
        return first, max(first + 1, (index + 1) * self.starts // self.count)


def training_starts(tokens: np.ndarray, length: int, seed: int) -> grain.MapDataset:
    """Where example e, a random crop of tokens (N,), begins, at index e without end."""

    def start(stratum, rng: np.random.Generator):
        return rng.integers(*stratum)

    strata = grain.MapDataset.source(_Strata(tokens, length)).seed(seed).shuffle()
    return strata.repeat().random_map(start)


def training_batches(
    text: np.ndarray | Rows | Interleaved,
    length: int,
    batch_size: int,
    seed: int,
    *,
    labels: Labels | None = None,
    start: int = 0,
    local_rows: Sequence[int] | np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, Conditioning]]:
    """Batches start, start + 1, ... of the text, tokens (N,), rows, or several of those: int32 (rows,
    length), and what is given of them. labels: of tokens. local_rows: which rows of a batch, by default
    all.

    Row r of batch b is example b * batch_size + r. Read ahead by a thread.
    """
    local_rows = range(batch_size) if local_rows is None else local_rows
    rows_of = _examples(text, length, seed, labels)

    def batch(b):
        return rows_of([b * batch_size + int(row) for row in local_rows])

    batches = grain.MapDataset.range(start, start + 2**40).map(batch)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def _examples(
    text: np.ndarray | Rows | Interleaved, length: int, seed: int, labels: Labels | None
) -> RowsOf:
    """The function from numbers of examples to their rows, and what is given of them."""
    if isinstance(text, Interleaved):
        return _interleaved(text, length, seed)
    return _shuffled(text, seed) if isinstance(text, Rows) else _cropped(text, length, seed, labels)


def _interleaved(text: Interleaved, length: int, seed: int) -> RowsOf:
    """Each example as that of its text."""
    texts = [_examples(one, length, seed, None) for one in text.texts]
    place_of = text.order(seed)

    def rows_of(examples):
        of_texts, places = np.array([place_of(e) for e in examples]).T
        chosen = np.unique(of_texts)
        parts = [texts[n](places[of_texts == n].tolist()) for n in chosen]
        back = np.argsort(np.concatenate([np.flatnonzero(of_texts == n) for n in chosen]))
        return jax.tree.map(lambda *of_parts: np.concatenate(of_parts)[back], *parts)

    return rows_of


def _shuffled(text: Rows, seed: int) -> RowsOf:
    """The rows of so many examples, an epoch of them in random order."""
    order = grain.MapDataset.range(len(text)).seed(seed).shuffle().repeat()

    def rows_of(examples):
        return text.batch(np.array([order[e] for e in examples]))

    return rows_of


def _cropped(text: np.ndarray, length: int, seed: int, labels: Labels | None) -> RowsOf:
    """The random crops of so many examples."""
    starts = training_starts(text, length, seed)

    def rows_of(examples):
        begin = [starts[e] for e in examples]
        crops = np.stack([text[n : n + length].astype(np.int32) for n in begin])
        return crops, {} if labels is None else {"label": labels.of(np.array(begin), length)}

    return rows_of


def evaluation_batches(
    text: np.ndarray | Rows, length: int, batch_size: int, labels: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, Conditioning, int]]:
    """(rows int32 (batch_size, length or less), what is given of them, how many of them count), every
    token exactly once; labels: those of all rows in order.

    The last whole batch is filled up by repetition; of tokens (N,) the tail of fewer than `length`
    comes last, as a row of its own length.
    """
    if isinstance(text, Rows):
        yield from text.batches(batch_size)
        return

    def conditioning(of_rows):
        return {} if labels is None else {"label": np.resize(of_rows, batch_size)}

    whole = len(text) // length
    for first in range(0, whole, batch_size):
        count = min(batch_size, whole - first)
        rows = text[first * length : (first + count) * length].reshape(count, length)
        of_rows = None if labels is None else labels[first : first + count]
        yield np.resize(rows, (batch_size, length)).astype(np.int32), conditioning(of_rows), count
    tail = text[whole * length :]
    if len(tail):
        of_rows = None if labels is None else labels[whole : whole + 1]
        yield np.tile(tail.astype(np.int32), (batch_size, 1)), conditioning(of_rows), 1
