"""Baselines by counting: interpolated n-grams with Witten-Bell smoothing (Bell, Cleary, Witten 1990).

    p_n(c | h) = (count(h c) + kinds(h) p_{n-1}(c | h without its first token)) / (count(h) + kinds(h))

where h is the n - 1 tokens before, kinds(h) the number of different tokens seen after h, and p_0
uniform. Order 1 is the unigram. A distribution for every h, so its cost is an exact likelihood.
"""

import numpy as np

from experiments.data.tokenizers import Tokenizer
from experiments.evaluation.units import Estimate


def ngram_estimate(
    train: np.ndarray,
    tokens: np.ndarray,
    length: int,
    order: int,
    vocab_size: int,
    tokenizer: Tokenizer,
) -> Estimate:
    """The exact cost of `tokens` cut as evaluation cuts them, no context crossing a cut."""
    nats = ngram_nats(train, tokens, length, order, vocab_size)
    starts = np.arange(0, len(tokens), length)
    sizes = np.diff(np.append(starts, len(tokens)))
    per_sequence = np.add.reduceat(nats, starts)[:, None]
    return Estimate(per_sequence, sizes, tokenizer.count_characters(tokens))


def ngram_nats(
    train: np.ndarray, tokens: np.ndarray, length: int, order: int, vocab_size: int
) -> np.ndarray:
    """-log p of each token (N,), given at most order - 1 tokens before it in its own sequence."""
    if vocab_size**order >= 2**63:
        raise ValueError(f"order = {order} is too high for {vocab_size} tokens")
    position = np.arange(len(tokens)) % length
    p = np.full(len(tokens), 1 / vocab_size)
    for n in range(1, order + 1):
        grams, counts = np.unique(_windows(train, n, vocab_size), return_counts=True)
        contexts, first = np.unique(grams // vocab_size, return_index=True)
        total = np.add.reduceat(counts, first)
        kinds = np.diff(np.append(first, len(grams)))
        places = np.flatnonzero(position >= n - 1)
        gram = _windows(tokens, n, vocab_size)[places - (n - 1)]
        count = _look_up(grams, counts, gram)
        kinds_after = _look_up(contexts, kinds, gram // vocab_size)
        total_after = _look_up(contexts, total, gram // vocab_size)
        seen = total_after > 0
        mixed = (count + kinds_after * p[places]) / np.maximum(total_after + kinds_after, 1)
        p[places] = np.where(seen, mixed, p[places])
    return -np.log(p)


def _windows(tokens: np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """Every run of n tokens as one number, the last token its lowest digit."""
    code = np.zeros(max(0, len(tokens) - n + 1), np.int64)
    for i in range(n):
        code = code * vocab_size + tokens[i : len(tokens) - n + 1 + i]
    return code


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values[i] where keys[i] == wanted, 0 where there is none; keys sorted."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
