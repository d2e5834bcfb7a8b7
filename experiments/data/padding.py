"""Texts of different lengths in batches of few shapes, so that few programs are compiled."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

SHORTEST = 32  # tokens of a row; lengths are this times a power of two


class Batch(NamedTuple):
    """numbers (n,): which of the texts are in it; tokens, segments: int32 (B, L), segments 1 where a
    token is, and 0 where padding is, of token 0. Rows beyond n repeat others."""

    numbers: np.ndarray
    tokens: np.ndarray
    segments: np.ndarray


def padded_batches(
    texts: Sequence[np.ndarray],
    length: int,
    size: int,
    padded: bool = True,
    shortest: int = SHORTEST,
) -> Iterator[Batch]:
    """The texts, each of 1 to `length` tokens, in batches of `size` rows, the longest first. Not
    `padded`: rows of one batch are equally long, and have no padding. shortest: tokens of a padded row,
    at least."""
    sizes = np.array([len(text) for text in texts])
    order = np.argsort(-sizes, kind="stable")
    while len(order):
        longest = int(sizes[order[0]])
        numbers = order[:size] if padded else order[:size][sizes[order[:size]] == longest]
        order = order[len(numbers) :]
        width = min(_room(longest, shortest), length) if padded else longest
        tokens = np.zeros((len(numbers), width), np.int32)
        segments = np.zeros_like(tokens)
        for row, number in enumerate(numbers):
            tokens[row, : sizes[number]] = texts[number]
            segments[row, : sizes[number]] = 1
        rows = np.resize(np.arange(len(numbers)), size)
        yield Batch(numbers, tokens[rows], segments[rows])


def _room(size: int, shortest: int) -> int:
    """`shortest` times the least power of two that holds so many tokens."""
    room = shortest
    while room < size:
        room *= 2
    return room
