"""Which of several texts each example comes from.

Of each _BLOCK examples a text has its exact share, rounded to 1 / _BLOCK, in random order: a row of any
batch comes from a text with its weight, wherever the row stands, and over a run the shares are exact.
Example e is the next one of its text. Both follow from (seed, e) alone, without reading what came
before, so that a run continues anywhere and devices share a batch in any way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from experiments.data.rows import Rows

_BLOCK = 4096


@dataclass(frozen=True)
class Interleaved:
    """Texts, each tokens (N,) or rows, and their weights, which sum to 1."""

    texts: tuple[np.ndarray | Rows, ...]
    weights: tuple[float, ...]

    def order(self, seed: int) -> Callable[[int], tuple[int, int]]:
        """The function from the number of an example to (which text, its number in that)."""
        quotas = apportioned(self.weights, _BLOCK, least=1)

        @lru_cache(maxsize=2)
        def block(number: int) -> tuple[np.ndarray, np.ndarray]:
            random = np.random.default_rng([seed, number])
            texts = random.permutation(np.repeat(np.arange(len(quotas)), quotas))
            places = np.empty_like(texts)
            for text, quota in enumerate(quotas):
                places[texts == text] = number * quota + np.arange(quota)
            return texts, places

        def of(example: int) -> tuple[int, int]:
            texts, places = block(example // _BLOCK)
            return int(texts[example % _BLOCK]), int(places[example % _BLOCK])

        return of


def apportioned(weights: Sequence[float], total: int, least: int = 0) -> list[int]:
    """Whole numbers that sum to `total`, nearest to the weights' shares of it (of largest remainder);
    those below `least` are raised to it, and the largest gives."""
    shares = np.array(weights) / np.sum(weights) * total
    parts = np.floor(shares).astype(int)
    parts[np.argsort(parts - shares, kind="stable")[: total - int(parts.sum())]] += 1
    raised = np.maximum(parts, least)
    raised[np.argmax(raised)] -= raised.sum() - total
    return raised.tolist()
