"""All measures of a file of samples at once, with the same of real text beside it."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np

from experiments.data.interleaving import apportioned
from experiments.data.reading import CHUNK
from experiments.data.text import Corpus, Text, prepare
from experiments.data.tokenizers import OutsideAlphabet, Tokenizer
from experiments.errors import UserError
from experiments.evaluation.units import perplexity
from experiments.progress import Progress
from experiments.run import load_run
from experiments.sample_metrics.mauve_score import load_mauve
from experiments.sample_metrics.occurrences import match_lengths, word_match_lengths
from experiments.sample_metrics.scorers import NGramScorer, Scorer, load_scorer
from experiments.sample_metrics.text_measures import (
    distinct,
    inner_words,
    mean_entropy,
    ngram_entropy,
)
from experiments.sampling.samples_file import common, network_calls, read_samples

Log = Callable[[str], None]
ORDERS = (1, 2, 3)  # of the n-grams of entropy and of distinct-n
SAMPLES, REAL = "samples", "real text"


def measure(
    path: Path,
    scorer_path: str,
    log: Callable[[str], None],
    *,
    workdir: str | None = None,
    text: str | None = None,
    training_text: str | None = None,
    ngram: int = 4,
    with_mauve: bool = False,
) -> dict:
    """The record of `experiments.quality`: where the samples come from, what they are compared with, and
    under "rows" the same measures of the samples and of real text.

    path: the file of samples. scorer_path: a run, or a folder in the format of `transformers`. workdir:
    the run whose text they are compared with, by default the scorer. text, training_text: a file or
    folder in place of that run's text, of its training text. ngram: words of an n-gram for novelty.
    """
    read = read_samples(path)
    samples = list(read.values())
    texts = [sample["text"] for sample in samples]
    mauve = load_mauve(len(texts)) if with_mauve else None
    scorer = load_scorer(scorer_path)
    for where, sample in read.items():
        scorer.tokens(sample["text"], where)  # rejected now, not after a minute of counting
    experiment = load_run(workdir).experiment if workdir else scorer.experiment
    if experiment is None:
        raise UserError(
            f"--scorer {scorer_path} is not a ddlm run, so its data is unknown; give --workdir "
            "RUN, the run whose training and validation text to compare with"
        )
    data = experiment.data
    corpus = _text_at("--text", text, replace(data, splits=None)) if text else prepare(data)
    groups = {SAMPLES: texts, REAL: real_texts(corpus, "validation", texts)}
    training, source = _training_text(training_text, data, corpus, log)
    log(f"scorer {scorer_path}; training text of {source['characters']:,} characters")
    rows = measured(groups, scorer, training, ngram, log)
    if mauve:
        points = {name: _points(scorer, row, log) for name, row in groups.items()}
        other = _points(scorer, real_texts(corpus, "test", texts), log)
        rows[SAMPLES]["mauve"] = _finite(mauve(points[REAL], points[SAMPLES]))
        rows[REAL]["mauve"] = _finite(mauve(points[REAL], other))
    rows[SAMPLES]["network_calls"] = network_calls(samples)
    origin = (
        "seed",
        "checkpoint_step",
        "checkpoint_fingerprint",
        "precision",
        "process",
        "sampler",
    )
    return {
        "samples": str(path),
        "samples_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "num": len(samples),
        **{name: common(samples, name) for name in origin},
        "scorer": scorer.described
        | {
            "context": "each text from its start, no context before it; longer ones in pieces of `room`"
        },
        "reference": {
            "source": corpus.source,
            "split": "validation",
            "sha256": corpus.sha256["validation"],
        },
        "training_text": source,
        "ngram": ngram,
        "mauve": "of samples to validation text, and of that to test text" if mauve else None,
        "rows": rows,
        "version": version("ddlm"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def of_texts(
    texts: Mapping[str, Sequence[str]], data: Text, scorer: Scorer | None, ngram: int, log: Log
) -> dict[str, dict]:
    """The measures of groups of texts by their names, beside data, and under REAL of as much of its
    validation text. scorer: None is trigrams of the training text, counted. UserError where a group is
    empty or called as the real text is."""
    empty = [name for name, group in texts.items() if not group]
    if empty or not texts or REAL in texts:
        raise UserError(
            f"texts {', '.join(empty or texts) or '{}'}",
            f"give at least one text in each group, and no group the name {REAL!r}",
        )
    corpus = prepare(data)
    training, _ = _training_text(None, data, corpus, log)
    tokens = corpus.split("train", 1)
    scorer = scorer or NGramScorer(tokens, corpus.tokenizer)
    groups = dict(texts) | {REAL: real_texts(corpus, "validation", next(iter(texts.values())))}
    return measured(groups, scorer, training, ngram, log)


def measured(
    groups: Mapping[str, Sequence[str]],
    scorer: Scorer,
    pieces: Callable[[], Iterator[str]],
    ngram: int,
    log: Log,
) -> dict[str, dict]:
    """The measures of each group of texts by its name; pieces() are the parts of the training text."""
    rows = {name: _of_texts(row) | _scored(scorer, row, log) for name, row in groups.items()}
    for name, overlap in zip(rows, overlaps(list(groups.values()), pieces, ngram), strict=True):
        rows[name] |= overlap
    return {name: {k: _finite(v) for k, v in row.items()} for name, row in rows.items()}


def _training_text(
    path: str | None, data: Text, corpus: Corpus, log: Callable[[str], None]
) -> tuple[Callable[[], Iterator[str]], dict]:
    """(pieces(), the text at `path` from its beginning, or without a path the training split of the
    corpus; what it is, for the record)."""
    if path:
        whole = Text(path, data.tokenizer, cache_dir=data.cache_dir, splits=("*", "", ""))
        corpus = _text_at("--train", path, whole)
        tokens, split = corpus.tokens, "all of it"
    else:
        tokens, split = corpus.split("train", 1), "train"
    tokenizer = corpus.tokenizer
    characters = sum(
        tokenizer.count_characters(tokens[k : k + CHUNK]) for k in range(0, len(tokens), CHUNK)
    )
    about = {"source": corpus.source, "split": split, "characters": characters}
    return partial(pieces_of, tokens, tokenizer, log), about


def pieces_of(tokens: np.ndarray, tokenizer: Tokenizer, log: Log) -> Iterator[str]:
    """The text of tokens (N,), of training, in consecutive pieces. Where tokens are bytes, a character
    that the end of a piece cuts is not recognised."""
    with Progress(log, "tokens of training text") as progress:
        for start in range(0, len(tokens), CHUNK):
            yield tokenizer.decode(tokens[start : start + CHUNK])
            progress(min(start + CHUNK, len(tokens)), len(tokens))


def _text_at(option: str, path: str, data: Text) -> Corpus:
    """The text at `path`, which the option gives, read as `data` says."""
    if not Path(path).expanduser().exists():
        raise UserError(f"{option} {path} does not exist; give a text file or a directory")
    try:
        return prepare(replace(data, path=path, sources=(), weights=(), train_tokens=None))
    except OutsideAlphabet as error:
        raise UserError(error.what, "give text in the alphabet of the run", about=option) from error
    except UserError as error:
        raise UserError(error.what, error.advice, about=option) from error


def real_texts(corpus: Corpus, split: str, texts: Sequence[str]) -> list[str]:
    """As many texts of the same numbers of characters, from places at equal distances in a split; of a
    mixture from each of its texts by weight."""
    parts = corpus.weighted()
    ends = np.cumsum([0, *apportioned([weight for _, weight in parts], len(texts))])
    longest = max(map(len, texts))
    real = []
    for (part, _), (start, end) in zip(parts, pairwise(ends), strict=True):
        if end > start:
            real += _real_texts(part, split, texts[start:end], longest)
    return real


def _real_texts(corpus: Corpus, split: str, texts: Sequence[str], longest: int) -> list[str]:
    decode, tokens = corpus.tokenizer.decode, corpus.split(split, 1)
    if len(tokens) < longest:
        raise UserError(
            f"{corpus.source}: the {split} split has {len(tokens)} tokens, and the longest sample "
            f"{longest} characters; give the --workdir of a run with more text"
        )
    starts = np.linspace(0, len(tokens) - longest, len(texts)).round().astype(int)
    # A token is a character or more, but for bytes, of which a character has up to four.
    pairs = zip(starts, texts, strict=True)
    return [decode(tokens[start : start + 4 * len(text)])[: len(text)] for start, text in pairs]


def _of_texts(texts: Sequence[str]) -> dict:
    words = [inner_words(text) for text in texts]
    return {
        "characters": sum(map(len, texts)),
        "words": sum(map(len, words)),
        **{f"entropy_{n}gram_bits": ngram_entropy(texts, n) for n in ORDERS},
        "entropy_within_text_bits": mean_entropy(texts),
        **{f"distinct_{n}": distinct(words, n) for n in ORDERS},
    }


def _points(scorer: Scorer, texts: Sequence[str], log: Log) -> np.ndarray:
    with Progress(log, "pieces of text for MAUVE") as progress:
        return scorer.features(texts, progress)


def _scored(scorer: Scorer, texts: Sequence[str], log: Log) -> dict:
    with Progress(log, "pieces of text scored") as progress:
        result = scorer.score(texts, progress)
    error = result.standard_error()
    per_token, per_token_error = perplexity(result.nats_per_token, error)
    return {
        "scorer_bits_per_character": result.bits_per_character,
        "scorer_bits_per_character_standard_error": result.to_bits_per_character(error),
        "scorer_perplexity_per_token": per_token,
        "scorer_perplexity_per_token_standard_error": per_token_error,
        "scored_tokens": int(result.tokens.sum()),
        "scored_characters": result.characters,
    }


def overlaps(
    groups: Sequence[Sequence[str]], pieces: Callable[[], Iterator[str]], n: int
) -> list[dict]:
    """For each group of texts, what of it occurs in the training text, whose parts pieces() are: the
    shares of words and of word n-grams, and the longest matches in characters."""
    texts = [text for group in groups for text in group]
    words = [inner_words(text) for text in texts]
    in_words = iter(word_match_lengths(words, pieces(), n))
    in_characters = iter(match_lengths(texts, pieces()))
    rows = []
    for group in groups:
        matched = [next(in_words) for _ in group]
        longest = [int(next(in_characters).max()) for _ in group]
        known = _share(matched, n)
        rows.append(
            {
                "words_in_training_text": _share(matched, 1),
                "ngrams_in_training_text": known,
                "ngram_novelty": 1 - known,
                "longest_match_characters": max(longest),
                "mean_longest_match_characters": float(np.mean(longest)),
            }
        )
    return rows


def _share(matched: Sequence[np.ndarray], n: int) -> float:
    """The share of the n-grams of all rows whose match is n long; nan where there are none."""
    full = [row[: max(0, len(row) - n + 1)] >= n for row in matched]
    total = sum(map(len, full))
    return float(sum(row.sum() for row in full) / total) if total else float("nan")


def _finite(value: float | None) -> float | None:
    """None for what too little text leaves undefined, which JSON has no number for."""
    return None if value is None or not np.isfinite(value) else value
