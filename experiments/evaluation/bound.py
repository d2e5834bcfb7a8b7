"""The bound over a corpus: a compiled estimate per batch, and the record that is written about it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.config import Experiment
from experiments.data.corpus import Corpus
from experiments.data.pairs import PairRows
from experiments.data.pipeline import evaluation_batches
from experiments.data.rows import Rows
from experiments.data.text import prepare
from experiments.data.tokenizers import OutsideAlphabet
from experiments.devices.distributed import agree, in_turn
from experiments.devices.memory import check_program
from experiments.devices.sharding import BATCH, batch_shards, global_batch
from experiments.errors import Diverged, UserError
from experiments.evaluation.agreement import rate_of
from experiments.evaluation.breakdown import Breakdown, at_times, mean_breakdown
from experiments.evaluation.estimators import check_bound, make_bound, times_per_sequence
from experiments.evaluation.record import make_record, of_source, per_word
from experiments.evaluation.units import Estimate, weighted_mean
from experiments.labels import check_labels, gives_labels
from experiments.overrides import resolve
from experiments.progress import Progress
from experiments.run import Run


def estimate(
    experiment: Experiment,
    bound: Callable,
    params: dict,
    text: np.ndarray | Rows,
    mesh: jax.sharding.Mesh,
    characters: int,
    progress: Callable[[int, int], None] | None = None,
    frozen: dict | None = None,
    labels: np.ndarray | None = None,
    not_text: int | None = None,
) -> tuple[Estimate, Breakdown]:
    """The estimate over all of the text, which has so many characters, and where its nats are.
    frozen: the teacher's parameters where `bound` asks for them; labels: those of the sequences (N,),
    which are then given; not_text: as in Estimate.

    Rows are padded to whole batches and left out of the sums; the tail shorter than a sequence is a
    sequence of its own, so every token counts once.
    """
    length = experiment.data.length
    batch = _batch(experiment, text, mesh)
    terms: dict[str, list] = {}
    positions: dict[str, np.ndarray] = {}
    times, first = [], 0
    total = len(text) if isinstance(text, Rows) else -(-len(text) // length)
    for tokens, inputs, count in evaluation_batches(text, length, batch, labels):
        rows, conditioning = jax.tree.map(
            lambda array: global_batch(mesh, array, axis=0), (tokens, inputs)
        )
        values = bound(params, rows, first, frozen, conditioning)
        for name, value in values.terms.items():
            terms.setdefault(name, []).append(np.asarray(value, np.float64)[:count])
            parts = np.asarray(values.by_position[name], np.float64)[:count].sum(0)
            positions[name] = positions.get(name, 0) + parts
        if values.times is not None:
            times.append(np.asarray(values.times)[:count])
        first += count
        if progress:
            progress(first, total)
    stacked = {name: np.concatenate(value) for name, value in terms.items()}
    sizes = _sizes(text, length)
    result = Estimate(sum(stacked.values(), np.zeros(())), sizes, characters, not_text)
    return result, Breakdown(
        {name: float(v.mean(1).sum() / sizes.sum()) for name, v in stacked.items()},
        _per_token(at_times(stacked, times), sizes),
        _per_token(positions, sizes),
    )


def _sizes(text: np.ndarray | Rows, length: int) -> np.ndarray:
    """How many tokens of each sequence are counted, (N,)."""
    if isinstance(text, Rows):
        return text.sizes
    return np.diff(np.append(np.arange(0, len(text), length), len(text)))


def _per_token(parts: dict[str, np.ndarray], sizes: np.ndarray) -> dict[str, list[float]]:
    return {name: (part / sizes.sum()).tolist() for name, part in parts.items()}


def _batch(experiment: Experiment, text: np.ndarray | Rows, mesh) -> int:
    """Sequences at a time, no more than there are."""
    whole = len(text) if isinstance(text, Rows) else len(text) // experiment.data.length
    shards = batch_shards(mesh)
    return -(-min(experiment.evaluation.batch_size, max(whole, 1)) // shards) * shards


def check_estimate(
    experiment: Experiment,
    bound: Callable,
    params: dict,
    text: np.ndarray | Rows,
    mesh: jax.sharding.Mesh,
    frozen: dict | None = None,
    labels: np.ndarray | None = None,
) -> None:
    """UserError where an `estimate` does not fit into memory; its program is compiled here. params may
    be described alone."""
    batch, split = _batch(experiment, text, mesh), NamedSharding(mesh, P(BATCH))
    length = experiment.data.length
    rows = jax.ShapeDtypeStruct((batch, length), np.int32, sharding=split)
    given = text.batch(np.zeros(batch, int))[1] if isinstance(text, Rows) else {}
    conditioning = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=split)
        for name, array in given.items()
    }
    if labels is not None:
        conditioning["label"] = jax.ShapeDtypeStruct((batch,), np.int32, sharding=split)
    lowered = bound.lower(params, rows, 0, frozen, conditioning)
    check_program(lowered, batch, length, mesh, "evaluation.batch_size (--batch-size)")


def spread(tokens: np.ndarray, length: int, max_sequences: int) -> np.ndarray:
    """At most `max_sequences` whole sequences taken at equal distances over the split."""
    count = len(tokens) // length
    if count <= max_sequences:
        return tokens
    chosen = _equally_spaced(count, max_sequences)
    return np.concatenate([tokens[i * length : (i + 1) * length] for i in chosen])


def _equally_spaced(count: int, number: int) -> np.ndarray:
    return np.linspace(0, count - 1, number).round().astype(int)


def sequences(
    experiment: Experiment, corpus: Corpus, split: str, max_sequences: int | None = None
) -> tuple[np.ndarray | Rows, np.ndarray | None]:
    """The tokens or rows of a split, or at most so many sequences at equal distances, and the labels
    (N,) of the sequences; None where the bound is not given them."""
    length = experiment.data.length
    text, labels = corpus.sequences(split, length, experiment.data.rows), None
    if isinstance(text, Rows):
        if max_sequences is not None and len(text) > max_sequences:
            text = text.chosen(_equally_spaced(len(text), max_sequences))
        return text, None
    count = len(text) // length
    if gives_labels(experiment):
        first = np.arange(0, len(text), length)
        sizes = np.minimum(length, len(text) - first)
        known = corpus.split_labels(split)
        assert known is not None  # `gives_labels`
        labels = known.of(first, sizes)
    if max_sequences is None or count <= max_sequences:
        return text, labels
    if labels is not None:
        labels = labels[_equally_spaced(count, max_sequences)]
    return spread(text, length, max_sequences), labels


@dataclass(frozen=True)
class Counts:
    """What a text has of each; not_text: bytes in no character, None where tokens are no bytes."""

    characters: int
    words: int
    not_text: int | None


def spelled(corpus: Corpus, split: str, text: np.ndarray | Rows, length: int) -> Counts:
    """The counts of the text, all of a split or sequences of `length` of it, of pairs those of the
    answers; characters and words of a part that was read by documents in proportion to its tokens."""
    tokenizer, documents = corpus.tokenizer, corpus.split_documents(split)
    runs = _runs(text, length, len(text) == int(np.diff(corpus.bounds[split])[0]))
    not_text = sum(map(tokenizer.count_not_text, runs)) if tokenizer.binary else None
    if documents is None:
        assert isinstance(text, np.ndarray)  # rows are made of documents
        characters = sum(map(tokenizer.count_characters, runs))
        return Counts(characters, tokenizer.count_words(text), not_text)
    if isinstance(text, PairRows):
        answers = np.searchsorted(documents.starts, text.answers, side="right") - 1
        return Counts(
            int(documents.characters[answers].sum()), int(documents.words[answers].sum()), not_text
        )
    share = (text.count if isinstance(text, Rows) else len(text)) / documents.starts[-1]
    characters, words = (
        round(each.sum() * share) for each in (documents.characters, documents.words)
    )
    return Counts(characters, words, not_text)


def _runs(text: np.ndarray | Rows, length: int, whole: bool) -> list[np.ndarray]:
    """The parts of the text in each of which it goes on."""
    if isinstance(text, Rows):
        return [text.tokens[a:b] for a, b in zip(text.counted_from, text.stops, strict=True)]
    return [text] if whole else np.split(text, range(length, len(text), length))


@dataclass(frozen=True)
class Part:
    """A text that is evaluated by itself, with its share of what is evaluated: tokens or rows, the
    labels of its sequences or None, and what it has of each."""

    source: str
    weight: float
    text: np.ndarray | Rows
    labels: np.ndarray | None
    counts: Counts


def parts_of(
    experiment: Experiment, corpus: Corpus, split: str, max_sequences: int | None = None
) -> list[Part]:
    """The texts of a split: of a mixture those of its sources, else the one; of each at most so many
    sequences at equal distances."""
    parts = []
    for one, weight in corpus.weighted():
        text, labels = sequences(experiment, one, split, max_sequences)
        counts = spelled(one, split, text, experiment.data.length)
        parts.append(Part(one.source, weight, text, labels, counts))
    return parts


def estimate_parts(
    experiment: Experiment,
    bound: Callable,
    params: dict,
    parts: Sequence[Part],
    mesh: jax.sharding.Mesh,
    progress: Callable[[int, int], None] | None = None,
    frozen: dict | None = None,
) -> tuple[Estimate, Breakdown, list[Estimate]]:
    """As `estimate`, of several texts: their mean by weight, where its nats are, and the estimate of
    each."""
    found, breakdowns = [], []
    for part in parts:
        result, breakdown = estimate(
            experiment, bound, params, part.text, mesh, part.counts.characters, progress, frozen,
            part.labels, part.counts.not_text,
        )  # fmt: skip
        found.append(result)
        breakdowns.append(breakdown)
    weights = [part.weight for part in parts]
    return weighted_mean(found, weights), mean_breakdown(breakdowns, weights), found


def of_other_text(path: str) -> tuple[str, ...]:
    """The changes of settings, as of --set, by which a run is evaluated on the text at `path`."""
    own = "data.sources=()", "data.weights=()", "data.train_tokens=None"
    return f"data.path={path}", *own, "data.split_points=None", "data.splits=None"


def _check_finite(run: Run, result: Estimate, terms: dict[str, float]) -> None:
    """Nothing; Diverged where the bound of a sequence is not finite."""
    bad = np.asarray(~np.isfinite(result.nats).all(1))
    if bad.any():
        named = ", ".join(name for name, nats in terms.items() if not math.isfinite(nats))
        raise Diverged(
            f"the bound ({named}) is not finite for {bad.sum():,} of {len(bad):,} sequences at "
            f"checkpoint {run.step}, so there is no record: the run has diverged; evaluate an earlier "
            "checkpoint with --step, or train again with a lower optimizer.schedule.peak_lr"
        )


def evaluate_run(
    run: Run,
    split: str,
    seed: int,
    ema: bool,
    log: Callable[[str], None],
    max_sequences: int | None = None,
    whole: bool = False,
) -> dict:
    """The evaluation record of a trained model over a whole split, or over at most `max_sequences`
    whole sequences at equal distances in it. whole: a text without splits of its own is taken whole, as
    the split "all". Diverged where the bound is not finite."""
    experiment = run.experiment
    check_bound(experiment)
    check_labels(experiment)
    try:
        with in_turn():
            corpus = prepare(experiment.data)
    except OutsideAlphabet as error:
        raise UserError(error.what, experiment.data.tokenizer.advice()) from error
    resolve(experiment, corpus.tokenizer)  # rejects text of another alphabet
    if whole and corpus.one:
        corpus, split = corpus.whole("all"), "all"
    elif experiment.data.path is not None or experiment.data.sources:
        log(f"{corpus.source}: {corpus.files}")
    agree({"the text": corpus.sha256.get(split, "")})
    every = [sequences(experiment, one, split)[0] for one, _ in corpus.weighted()]
    in_split = sum(len(_sizes(text, experiment.data.length)) for text in every)
    parts = parts_of(experiment, corpus, split, max_sequences)
    bound = make_bound(experiment, times_per_sequence(experiment), seed, run.mesh)
    for part in parts:
        check_estimate(experiment, bound, run.params, part.text, run.mesh, labels=part.labels)
    start = time.perf_counter()
    with Progress(log) as progress:
        result, breakdown, found = estimate_parts(
            experiment, bound, run.params, parts, run.mesh, progress
        )
    seconds = time.perf_counter() - start
    _check_finite(run, result, breakdown.terms)
    record = make_record(run, corpus, split, result, breakdown, seed=seed, ema=ema, seconds=seconds)
    sources = [
        of_source(part.source, part.weight, each, part.counts.words, corpus_of.sha256[split])
        for part, each, (corpus_of, _) in zip(parts, found, corpus.weighted(), strict=True)
    ]
    words = sum(part.counts.words for part in parts)
    record |= per_word(result, words, rate_of(sources, "words"))
    record |= {"sources": sources} if len(sources) > 1 else {}
    return record | {"sequences_in_split": in_split}
