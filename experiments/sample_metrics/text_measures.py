"""What counting alone says of texts: entropy of n-grams of characters, and how often words repeat.

The entropy of n-grams is H_n = -sum_g p(g) log2 p(g) over the n-grams g that lie within one text, p
their frequencies over all texts together. Counted on little text it is too low, so it compares texts of
the same length only. distinct-n (arXiv 1510.03055) is the number of different n-grams of words over that
of all; it falls with the length of the text as well.
"""

from collections.abc import Sequence

import numpy as np


def entropy_bits(counts: np.ndarray) -> float:
    """The entropy, in bits, of the frequencies that `counts` (K,) are in proportion to."""
    share = counts[counts > 0] / counts.sum()
    return max(0.0, float(-(share * np.log2(share)).sum()))


def code_points(text: str) -> np.ndarray:
    """The characters of a text as numbers, uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def ngram_entropy(texts: Sequence[str], n: int) -> float:
    """Bits of an n-gram of characters; nan where every text is shorter than n."""
    windows = [
        np.lib.stride_tricks.sliding_window_view(code_points(text), n)
        for text in texts
        if len(text) >= n
    ]
    if not windows:
        return float("nan")
    return entropy_bits(np.unique(np.concatenate(windows), axis=0, return_counts=True)[1])


def mean_entropy(texts: Sequence[str]) -> float:
    """Bits of a character by the frequencies of its own text, the mean over texts: low where each text
    repeats itself, even if no two are alike."""
    return float(np.mean([ngram_entropy([text], 1) for text in texts]))


def inner_words(text: str) -> list[str]:
    """The words of a text, less the first and the last, which its ends may have cut."""
    return text.split()[1:-1]


def distinct(words: Sequence[Sequence[str]], n: int) -> float:
    """The share of different ones among the n-grams of `words`, those of each text; nan without any."""
    ngrams = [tuple(row[i : i + n]) for row in words for i in range(len(row) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else float("nan")
