"""Batches of sequences: random crops to train on, and fixed chunks that cover a split to evaluate on.

An epoch of training cuts the range of starting positions into as many strata as there are whole
sequences, takes the strata in random order and one random start within each. Example e is a pure
function of (seed, e), so a position is one number and every process computes its own share.
"""

from collections.abc import Iterator

import grain
import numpy as np

from experiments.data.labels import Labels


class _Strata:
    """Stratum i of the starting positions, as a pair (first, one after the last)."""

    def __init__(self, tokens: np.ndarray, length: int):
        self.starts = len(tokens) - length + 1
        self.count = max(1, len(tokens) // length)

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        first = i * self.starts // self.count
        return first, max(first + 1, (i + 1) * self.starts // self.count)


def training_starts(tokens: np.ndarray, length: int, seed: int) -> grain.MapDataset:
    """Where example e, a random crop of tokens (N,), begins, at index e without end."""

    def start(stratum, rng: np.random.Generator):
        return rng.integers(*stratum)

    strata = grain.MapDataset.source(_Strata(tokens, length)).seed(seed).shuffle()
    return strata.repeat().random_map(start)


def training_batches(
    tokens: np.ndarray,
    length: int,
    batch_size: int,
    seed: int,
    *,
    labels: Labels | None = None,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Batches start, start + 1, ...: this process's rows, int32 (batch_size / processes, length), and
    their labels, int32 (rows,), or None where the text has none.

    Row r of batch b of all processes together is example b * batch_size + r. Read ahead by a thread.
    """
    starts = training_starts(tokens, length, seed)
    rows = batch_size // process_count

    def batch(b):
        first = b * batch_size + process_index * rows
        begin = [starts[first + r] for r in range(rows)]
        crops = np.stack([tokens[n : n + length].astype(np.int32) for n in begin])
        return crops, None if labels is None else labels.of(np.array(begin), length)

    batches = grain.MapDataset.range(start, start + 2**40).map(batch)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def evaluation_batches(
    tokens: np.ndarray, length: int, batch_size: int, labels: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray | None, int]]:
    """(rows int32 (batch_size, length or less), their labels (batch_size,) or None, how many of them
    count), every token exactly once; labels: those of all rows in order.

    The last whole batch is filled up by repetition; the tail of fewer than `length` tokens comes last,
    as a row of its own length.
    """
    whole = len(tokens) // length
    for first in range(0, whole, batch_size):
        count = min(batch_size, whole - first)
        rows = tokens[first * length : (first + count) * length].reshape(count, length)
        of_rows = labels if labels is None else np.resize(labels[first : first + count], batch_size)
        yield np.resize(rows, (batch_size, length)).astype(np.int32), of_rows, count
    tail = tokens[whole * length :]
    if len(tail):
        of_rows = labels if labels is None else np.full(batch_size, labels[whole])
        yield np.tile(tail.astype(np.int32), (batch_size, 1)), of_rows, 1
