"""How alike two texts are, and the answer of several that is most like the others.

Minimum Bayes risk (Kumar and Byrne, 2004; of diffusion, arXiv 2210.08933 and 2212.09412): the answer
with the highest expected similarity to the right one, where the answers of the model itself stand for
what may be right. An answer that is drawn twice has a voice twice.
"""

from collections.abc import Callable, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from experiments.errors import needed

Similarity = Callable[[str, str], float]


def character_edits(answer: str, reference: str) -> int:
    """How many characters must be put in, left out or replaced, at least, to make one of the other."""
    return Levenshtein.distance(answer, reference)


def word_edits(answer: str, reference: str) -> int:
    """The same of words, which white space parts."""
    return Levenshtein.distance(answer.split(), reference.split())


def _same(a: str, b: str) -> float:
    return float(a == b)


def _bleu() -> Similarity:
    needed("sacrebleu", "--similarity bleu")
    from sacrebleu.metrics.bleu import BLEU  # pyright: ignore[reportMissingImports]  # of an extra

    metric = BLEU(effective_order=True)
    return lambda a, b: metric.sentence_score(a, [b]).score / 100


SIMILARITIES: dict[str, Callable[[], Similarity]] = {
    "characters": lambda: Levenshtein.normalized_similarity,
    "words": lambda: lambda a, b: Levenshtein.normalized_similarity(a.split(), b.split()),
    "exact": lambda: _same,
    "bleu": _bleu,
}
"""Names of similarities, in [0, 1]: 1 - edits / length of the longer text, in characters or words; 1 of
the same text, else 0, which chooses the most frequent answer; BLEU of sentences, by sacrebleu."""


def most_alike(answers: Sequence[str], similarity: Similarity) -> int:
    """The number of the answer with the highest mean similarity to the others, the first of several."""
    # Each is as similar to itself as the others are to themselves.
    return int(np.argmax([sum(similarity(a, b) for b in answers) for a in answers]))
