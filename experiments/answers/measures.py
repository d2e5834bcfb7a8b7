"""How right answers are beside their references, with standard errors over prompts.

A rate r = sum e / sum n is of all errors e by the lengths n of all references; its standard error is
that of a ratio, by the spread of e - r n. BLEU and chrF of a whole set are no means; their errors are
those of a jackknife that leaves out a twentieth of the prompts at a time.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np

from experiments.answers.similarity import character_edits, word_edits

_GROUPS = 20
Value = dict[str, float | None]
Rows = Sequence[Sequence[str]]


def measures(answers: Rows, references: Sequence[str]) -> dict[str, Value]:
    """The measures of P prompts with K answers each, P x K, by their names: what one answer at random
    is expected to have. BLEU and chrF, in percent, where sacrebleu is installed."""
    return difference(answers, None, references)


def difference(answers: Rows, others: Rows | None, references: Sequence[str]) -> dict[str, Value]:
    """The measures of some answers to P prompts less those of others, which may be more or fewer, with
    the error of the difference; None takes nothing off."""
    characters, words = (
        np.array([len(part(reference)) for reference in references], float)
        for part in (str, str.split)
    )
    counted = {
        "exact": (lambda a, b: float(a == b), np.ones(len(references))),
        "character_error_rate": (character_edits, characters),
        "word_error_rate": (word_edits, words),
    }
    found = {
        name: _ratio(_means(edits, answers, others, references), sizes)
        for name, (edits, sizes) in counted.items()
    }
    return found | {
        name: _jackknife(score, answers, others, references)
        for name, score in _corpus_scores().items()
    }


def _means(edits, answers: Rows, others: Rows | None, references) -> np.ndarray:
    """(P,): the mean over the answers to each prompt, less that over the others."""

    def of(rows):
        pairs = zip(rows, references, strict=True)
        return np.array([np.mean([edits(answer, right) for answer in row]) for row, right in pairs])

    return of(answers) - (0 if others is None else of(others))


def _ratio(sums: np.ndarray, sizes: np.ndarray) -> Value:
    value, count = sums.sum() / sizes.sum(), len(sums)
    if count < 2:
        return {"value": float(value), "standard_error": None}
    spread = np.sqrt(((sums - value * sizes) ** 2).sum() * count / (count - 1))
    return {"value": float(value), "standard_error": float(spread / sizes.sum())}


def _corpus_scores() -> dict[str, Callable[[list[str], list[str]], float]]:
    """score(answers, references) by its name, of a whole set; none without sacrebleu."""
    if find_spec("sacrebleu") is None:
        return {}
    from sacrebleu.metrics.bleu import BLEU  # pyright: ignore[reportMissingImports]  # of an extra
    from sacrebleu.metrics.chrf import CHRF  # pyright: ignore[reportMissingImports]  # of an extra

    def scored(metric):
        return lambda answers, references: metric.corpus_score(answers, [references]).score

    return {"bleu": scored(BLEU()), "chrf": scored(CHRF())}


def _jackknife(score, answers: Rows, others: Rows | None, references) -> Value:
    def of(rows, kept):
        right = [references[i] for i in kept]
        columns = zip(*(rows[i] for i in kept), strict=True)
        return float(np.mean([score(list(column), right) for column in columns]))

    def at(kept):
        return of(answers, kept) - (0.0 if others is None else of(others, kept))

    every = np.arange(len(references))
    groups = min(_GROUPS, len(every))
    if groups < 2:
        return {"value": at(every), "standard_error": None}
    parts = np.array([at(every[every % groups != group]) for group in range(groups)])
    error = np.sqrt((groups - 1) * parts.var())
    return {"value": at(every), "standard_error": float(error)}
