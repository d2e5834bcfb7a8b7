"""The bound over a corpus: a compiled estimate per batch, and the record that is written about it."""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.any_order import AnyOrder
from experiments.config import Experiment
from experiments.data.corpus import Corpus
from experiments.data.pipeline import evaluation_batches
from experiments.data.protocols import protocol_of
from experiments.data.rows import Rows
from experiments.data.text import Text, prepare
from experiments.errors import UserError
from experiments.labels import check_labels, gives_labels
from experiments.memory import check_memory
from experiments.runs import Run
from experiments.settings import resolve
from experiments.sharding import batch_shards, global_batch, replicated
from experiments.stored import encode
from experiments.train_step import without_padding
from experiments.units import Estimate


def make_bound(
    experiment: Experiment,
    num_times: int,
    seed: int,
    mesh,
    quantity: Literal["bound", "loss"] = "bound",
):
    """bound(params, x0 (B, L), first, frozen, given) -> {term: (B, K)}, nats summed over positions
    without padding; jitted. With quantity "loss" the loss is the only term. given: what the network is
    given of the rows, as `experiments.data.pipeline` has it.

    Sequence number first + row and time sample k decide all randomness; the K times of a sequence
    are stratified.
    """

    def bound(params, x0, first, frozen=None, given=None):
        process = experiment.bind(params, frozen)
        if quantity == "bound" and experiment.evaluation.estimator == "any_order":
            process = AnyOrder(process, experiment.evaluation.group)
        numbers = first + jnp.arange(x0.shape[0])
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)
        offset = jax.vmap(lambda k: jax.random.uniform(k, minval=1e-6, maxval=1 - 1e-6))(keys)
        given = given or {}
        network = experiment.network(params, **given)

        def at(k):
            u = ((k + offset) / num_times)[:, None]
            keys_k = jax.vmap(lambda key: jax.random.fold_in(key, k))(keys)
            if quantity == "loss":
                terms = {"loss": process.loss(keys_k, network, x0, u)}
            else:
                terms = process.bound_terms(keys_k, network, x0, u)
            return {name: without_padding(term, given).sum(1) for name, term in terms.items()}

        terms = jax.lax.map(at, jnp.arange(num_times))
        return {name: term.T for name, term in terms.items()}

    return jax.jit(bound, out_shardings=replicated(mesh))


def estimate(
    experiment: Experiment,
    bound: Callable,
    params: dict,
    text: np.ndarray | Rows,
    mesh,
    characters: int,
    progress: Callable[[int, int], None] | None = None,
    frozen: dict | None = None,
    labels: np.ndarray | None = None,
) -> tuple[Estimate, dict[str, float]]:
    """The estimate over all of the text, which has so many characters, and its terms in nats per token.
    frozen: the teacher's parameters where `bound` asks for them; labels: those of the sequences (N,),
    which are then given.

    Rows are padded to whole batches and left out of the sums; the tail shorter than a sequence is a
    sequence of its own, so every token counts once.
    """
    length = experiment.data.length
    shards = batch_shards(mesh)
    batch = -(-experiment.evaluation.batch_size // shards) * shards
    local = batch // jax.process_count()
    rows_here = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
    terms: dict[str, list] = {}
    sizes, first = [], 0
    total = len(text) if isinstance(text, Rows) else -(-len(text) // length)
    for *batch_here, count in evaluation_batches(text, length, batch, labels):
        counted = batch_here[1].get("segments", batch_here[0] + 1) > 0
        rows, given = jax.tree.map(
            lambda array: global_batch(mesh, array[rows_here], axis=0), batch_here
        )
        values = bound(params, rows, first, frozen, given)
        for name, value in values.items():
            terms.setdefault(name, []).append(np.asarray(value, np.float64)[:count])
        sizes += counted.sum(1)[:count].tolist()
        first += count
        if progress:
            progress(first, total)
    stacked = {name: np.concatenate(value) for name, value in terms.items()}
    sizes = np.array(sizes)
    result = Estimate(sum(stacked.values()), sizes, characters)
    per_token = {name: float(v.mean(1).sum() / sizes.sum()) for name, v in stacked.items()}
    return result, per_token


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
        labels = corpus.split_labels(split).of(first, sizes)
    if max_sequences is None or count <= max_sequences:
        return text, labels
    if labels is not None:
        labels = labels[_equally_spaced(count, max_sequences)]
    return spread(text, length, max_sequences), labels


def spelled(corpus: Corpus, split: str, text: np.ndarray | Rows) -> tuple[int, int]:
    """(characters, words) of the text, all or a part of a split; of a part that was read by documents,
    in proportion to its tokens."""
    documents = corpus.split_documents(split)
    if documents is None:
        return corpus.tokenizer.count_characters(text), corpus.tokenizer.count_words(text)
    share = (text.count if isinstance(text, Rows) else len(text)) / documents.starts[-1]
    return round(documents.characters.sum() * share), round(documents.words.sum() * share)


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
    whole sequences at equal distances in it. whole: the split is all of the text."""
    experiment = run.experiment
    check_bound(experiment)
    check_labels(experiment)
    check_memory(experiment, experiment.evaluation.batch_size, run.mesh, "evaluation.batch_size")
    corpus = prepare(experiment.data)
    resolve(experiment, corpus.tokenizer)  # refuses text of another alphabet
    corpus = corpus.whole(split) if whole else corpus
    every, _ = sequences(experiment, corpus, split)
    length = experiment.data.length
    in_split = len(every) if isinstance(every, Rows) else -(-len(every) // length)
    text, labels = sequences(experiment, corpus, split, max_sequences)
    characters, words = spelled(corpus, split, text)
    bound = make_bound(experiment, times_per_sequence(experiment), seed, run.mesh)
    start = last = time.perf_counter()

    def progress(done, total):
        nonlocal last
        now = time.perf_counter()
        if done == total or now - last > 5:
            last = now
            left = (now - start) / done * (total - done)
            log(f"{done:,} of {total:,} sequences, {left:.0f} s left")

    result, terms = estimate(
        experiment, bound, run.params, text, run.mesh, characters, progress, labels=labels
    )
    seconds = time.perf_counter() - start
    record = make_record(run, corpus, split, result, terms, seed=seed, ema=ema, seconds=seconds)
    return record | per_word(result, words) | {"sequences_in_split": in_split}


def times_per_sequence(experiment: Experiment) -> int:
    """How many times a sequence are sampled: as the evaluation says, or 1 of what depends on none."""
    return 1 if experiment.process.likelihood == "exact" else experiment.evaluation.num_times


def _estimator(experiment: Experiment) -> str:
    times, group = times_per_sequence(experiment), experiment.evaluation.group
    if experiment.process.likelihood == "exact":
        return "exact, one pass"
    if experiment.evaluation.estimator == "any_order":
        return (
            f"random order, {group} token{'s' if group > 1 else ''} at a time: mean over {times} "
            "stratified numbers of known tokens per sequence"
        )
    return f"mean over {times} stratified times per sequence"


def check_bound(experiment: Experiment) -> None:
    """UserError for a process that has no likelihood bound, or none by the estimator asked for."""
    process = experiment.process
    if process.likelihood == "none":
        raise UserError(
            f"{type(process).__name__} has no likelihood bound to evaluate: it is judged by its samples"
        )
    if experiment.evaluation.estimator == "any_order":
        try:
            AnyOrder(process, experiment.evaluation.group)
        except ValueError as error:
            raise UserError(f"evaluation.estimator = any_order: {error}") from error


def per_word(result: Estimate, words: int) -> dict:
    """What a record says of words, parted by white space in the text."""
    if words == 0:
        return {"words": 0}
    nats = result.nats_per_token * result.tokens.sum() / words
    error = result.standard_error() * result.tokens.sum() / words
    perplexity = math.exp(min(nats, 700))  # of untrained networks it may be no number
    return {
        "words": words,
        "nats_per_word": nats,
        "perplexity_per_word": perplexity,
        "perplexity_per_word_standard_error": perplexity * error,
    }


def context_of(data: Text, corpus: Corpus) -> dict:
    """How the text stands in sequences, what is counted, and the name of the protocol that this is."""
    rows = {
        "wrap": "fixed chunks of the text as it goes on, not overlapping, the shorter tail included",
        "sentence": "one document a row, longer ones in several",
        "pack": "whole documents packed into rows, none seeing another",
    }
    return {
        "protocol": protocol_of(data, corpus.bounds) or data.rows,
        "length": data.length,
        "chunks": rows[data.rows],
        "packed": data.rows != "sentence",
        "documents": data.document if data.by_documents else "file",
        "length_given": data.rows != "wrap",
        "added_tokens": [token for token in (data.begin, data.end) if token],
        "bos_or_eos_counted": bool(data.begin or data.end),
    }


def make_record(
    run: Run,
    corpus: Corpus,
    split: str,
    result: Estimate,
    terms: dict[str, float],
    *,
    seed: int,
    ema: bool,
    seconds: float,
) -> dict:
    """The value, what kind of value it is, and all that it depends on."""
    experiment, times = run.experiment, times_per_sequence(run.experiment)
    exact = experiment.process.likelihood == "exact"
    se = result.standard_error()
    tokenizer = dataclasses.asdict(experiment.data.tokenizer)
    tokenizer.pop("path", None)  # where it lies is not what it is
    tokenizer = json.dumps(tokenizer, sort_keys=True)
    device = jax.devices()[0]
    return {
        "process": type(experiment.process).__name__,
        "process_settings": encode(experiment.process),
        "value": result.bits_per_character,
        "unit": "bits per character",
        "kind": experiment.process.likelihood,
        "standard_error": result.to_bits_per_character(se),
        "standard_error_over_times": 0.0
        if exact
        else result.to_bits_per_character(result.time_standard_error()),
        "nats_per_token": result.nats_per_token,
        "nats_per_token_standard_error": se,
        "perplexity_per_token": result.perplexity,
        "perplexity_per_token_standard_error": result.perplexity * se,
        "terms_nats_per_token": terms,
        "labels": "given" if gives_labels(experiment) else "none",
        "estimator": _estimator(experiment),
        "num_times": times,
        "seed": seed,
        "sequences": len(result.tokens),
        "tokens": int(result.tokens.sum()),
        "characters": result.characters,
        "context": context_of(experiment.data, corpus),
        "tokenizer": type(experiment.data.tokenizer).__name__,
        "tokenizer_sha256": hashlib.sha256(tokenizer.encode()).hexdigest(),
        "unknown_tokens": corpus.unknown.get(split, 0),
        "source": corpus.source,
        **({"dataset": corpus.dataset} if corpus.dataset else {}),
        "split": split,
        "split_points": experiment.data.split_points,
        "split_sha256": corpus.sha256[split],
        "ema": ema,
        "precision": experiment.model.dtype
        if experiment.model.dtype != "auto"
        else ("float32" if jax.default_backend() == "cpu" else "bfloat16"),
        "checkpoint_step": run.step,
        "checkpoint_fingerprint": run.fingerprint,
        "device": f"{jax.device_count()} x {device.device_kind}",
        "seconds": round(seconds, 2),
        "version": version("ddlm"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
