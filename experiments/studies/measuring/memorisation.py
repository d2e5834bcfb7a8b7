"""Which share of a text is in long matches with the training text."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.comparison.record_table import markdown
from experiments.data.repeats import covered
from experiments.data.text import prepare as prepare_text
from experiments.run import load_run
from experiments.sample_metrics.occurrences import match_lengths
from experiments.sample_metrics.record import pieces_of, real_texts
from experiments.sampling.request import Request, prepare
from experiments.sampling.samples import sample_run

_BATCH = 16  # samples at a time


@dataclass(frozen=True)
class Share:
    """The mean over texts of the share of each, and its standard error, NaN of one text."""

    mean: float
    error: float


def shares_in_matches(matches: Sequence[np.ndarray], lengths: Sequence[int]) -> list[Share]:
    """For each of the lengths k, which share of the positions of a text is in a match of at least k;
    matches: of each text (n,) how many characters from there on occur in the other, n at least 1."""
    shares = []
    for k in lengths:
        of_texts = np.array([covered(of >= k, k).mean() for of in matches])
        count = len(of_texts)
        error = of_texts.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
        shares.append(Share(float(of_texts.mean()), float(error)))
    return shares


def measure(
    name: str,
    workdir: str,
    lengths: Sequence[int],
    num: int,
    steps: int | None,
    seed: int,
    log: Callable[[str], None],
) -> dict[str, list[Share]]:
    """The shares of samples of the run in `workdir`, under its `name`, and of its held-out text."""
    ready = prepare(load_run(workdir), Request(steps=steps, seed=seed), workdir)
    data = ready.run.experiment.data
    decode = data.tokenizer.decode
    drawn = sample_run(ready.run, num, seed, ready.known, _BATCH, ready.constraints)
    samples = [text for _, sampled, _ in drawn if (text := decode(np.asarray(sampled.x0)))]
    corpus = prepare_text(data)
    groups = {name: samples, f"{name}, held out": real_texts(corpus, "validation", samples)}
    pieces = pieces_of(corpus.split("train", 1), corpus.tokenizer, log)
    matches = match_lengths([text for group in groups.values() for text in group], pieces)
    return {
        group: shares_in_matches(matches[n * len(samples) : (n + 1) * len(samples)], lengths)
        for n, group in enumerate(groups)
    }


def table(lengths: Sequence[int], curves: Mapping[str, Sequence[Share]]) -> str:
    """The shares in percent as a Markdown table, a row for each of the lengths; no final newline."""
    rows = [
        [str(k), *(f"{100 * of[n].mean:.1f} ± {100 * of[n].error:.1f}" for of in curves.values())]
        for n, k in enumerate(lengths)
    ]
    return markdown([["at least", *curves], *rows], ())
