"""The likelihood of how a text goes on, given how it begins: log p(continuation | context).

The context stands clean in every state, and the continuation alone is noised and counted
(`diffusion.conditional`). The text ends where the continuation does: its length is given.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple
from zlib import crc32

import jax
import numpy as np

from diffusion.process import Sequential, denoising_process
from experiments.config import Experiment
from experiments.data.padding import SHORTEST, padded_batches
from experiments.data.text import Text
from experiments.data.tokenizers import OutsideAlphabet, SubwordTokenizer, Tokenizer, token_number
from experiments.devices.sharding import batch_shards, global_batch, replicated
from experiments.errors import UserError
from experiments.evaluation.estimators import (
    check_bound,
    kind_of,
    make_bound,
    times_per_sequence,
)
from experiments.run import Run
from experiments.training.train_step import of_network, only_counted
from models.layers import use_mesh

Progress = Callable[[int, int], None]


class Pair(NamedTuple):
    """Tokens of a context, (m,), and of what comes after it, (n,)."""

    context: np.ndarray
    continuation: np.ndarray

    @property
    def number(self) -> int:
        """What decides the randomness: the same for continuations of one context, so that their
        difference has less noise than each."""
        decides = self.context if len(self.context) else self.continuation
        return crc32(decides.astype("<i4").tobytes())


def encode_pair(run: Run, context: str, continuation: str) -> Pair:
    """The pair as tokens; UserError for text outside of the run's alphabet, and where nothing goes on.

    A token that stands over the seam, such as a space with the word after it, is of the continuation.
    Where the run is of documents, the token that begins one stands before the context. Where it is of
    pairs, these are one: two texts apart, and the tokens that end the row.
    """
    data = run.experiment.data
    if data.rows == "pair":
        given = np.concatenate([begin_of(data), encode(data.tokenizer, context)])
        answer = encode(data.tokenizer, continuation)
        _check_continuation(continuation, len(answer))
        ends = max(data.length - len(given) - len(answer), 1) if data.end else 0
        end = [token_number(data.tokenizer, data.end, "data.end")] if data.end else []
        return Pair(given, np.concatenate([answer, np.array(end * ends, np.int32)]))
    whole, before = (
        encode(data.tokenizer, context + continuation),
        encode(data.tokenizer, context),
    )
    shared = min(len(whole), len(before))
    differing = np.flatnonzero(whole[:shared] != before[:shared])
    seam = int(differing[0]) if len(differing) else shared
    _check_continuation(continuation, len(whole) - seam)
    return Pair(np.concatenate([begin_of(data), whole[:seam]]), whole[seam:])


def _check_continuation(text: str, tokens: int) -> None:
    if not tokens:
        raise UserError(
            f"the continuation {text[:40]!r} has no tokens", "give at least one character of it"
        )


def begin_of(data: Text) -> np.ndarray:
    """The tokens (n,) int32 that stand before each text of the run's data, none or one."""
    tokenizer, numbers = data.tokenizer, []
    named = isinstance(tokenizer, SubwordTokenizer) or data.rows == "pair"
    if data.rows != "wrap" and named and data.begin:
        numbers = [token_number(tokenizer, data.begin, "data.begin")]
    return np.array(numbers, np.int32)


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The tokens (n,) int32 of a text; UserError where it is outside of the alphabet."""
    try:
        tokens = np.concatenate([*tokenizer.encode([text], "text"), np.zeros(0, np.int32)])
    except OutsideAlphabet as error:
        raise UserError(error.what, tokenizer.advice()) from None
    return tokens.astype(np.int32)


def fitted(pair: Pair, length: int) -> Pair:
    """The pair with as much of the end of its context as `length` tokens have room for; UserError where
    the continuation alone is longer."""
    room = length - len(pair.continuation)
    if room < 0:
        raise UserError(
            f"a continuation of {len(pair.continuation)} tokens is longer than the run's {length}",
            "shorten it, or raise data.length",
        )
    return pair._replace(context=pair.context[max(len(pair.context) - room, 0) :])


def windows(tokens: np.ndarray, given: np.ndarray, length: int) -> list[Pair]:
    """Pairs of at most `length` tokens whose continuations are the tokens, each once: whole pieces of
    `length`, the first after what is `given`, and at the end a shorter one after all that has room."""
    first = length - len(given)
    pairs = [Pair(given, tokens[:first])]
    for start in range(first, len(tokens), length):
        piece = tokens[start : start + length]
        pairs.append(Pair(tokens[max(start + len(piece) - length, 0) : start], piece))
    return pairs


def check_conditional(experiment: Experiment) -> None:
    """UserError for a process that has no likelihood of a continuation."""
    check_bound(experiment)
    if experiment.process.traits.inserts:
        raise UserError(
            f"{type(experiment.process).__name__} has a bound of whole texts, by ddlm evaluate, but "
            "none of a part given the rest; use a run of a process on texts of a fixed length"
        )
    if experiment.process.traits.second_network == "energy":
        raise UserError(
            f"{type(experiment.process).__name__} has an energy over whole texts, but no "
            "likelihood of a part given the rest; use the run of its base"
        )


def kind_of_pair(experiment: Experiment, pair: Pair) -> str:
    """What the number is: that of the run's bound, but an estimate after a context of clean tokens that
    mean something else to the network than that they are known. A run of pairs has learned it."""
    process, joint = experiment.process, experiment.data.rows != "pair"
    given = joint and len(pair.context) and not isinstance(process, Sequential)
    if given and denoising_process(process).known_tokens == "biased":
        return "estimate"
    return kind_of(experiment)


def sampled(experiment: Experiment, num_times: int) -> Experiment:
    """The experiment whose likelihoods are of so many draws, without labels."""
    evaluation = replace(experiment.evaluation, num_times=num_times, labels=False)
    return replace(experiment, evaluation=evaluation)


def conditional_nats(
    run: Run,
    pairs: Sequence[Pair],
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """(N, K): -log p(continuation | context) in nats of each pair, by each of the K draws that the run's
    evaluation takes; their mean is the bound. Pairs have at most the run's length.

    A pair's number does not depend on the others, nor on how they are batched, beyond rounding.
    progress(pairs done, N) is called after each batch.
    """
    experiment = run.experiment
    check_conditional(experiment)
    draws = times_per_sequence(experiment)
    bound, nats = make_bound(experiment, draws, seed, run.mesh), np.zeros((len(pairs), draws))

    def of_batch(rows, numbers, conditioning):
        return bound(run.params, rows, numbers, None, conditioning).terms

    for numbers, terms in _batched(run, pairs, batch_size, of_batch, progress):
        for term in terms.values():
            nats[numbers] += np.asarray(term, np.float64)[: len(numbers)]
    return nats


def of_draws(nats: np.ndarray, kind: str) -> tuple[list[float], list[float]]:
    """The mean of each row of draws (N, K), and its standard error as if they were independent: 0 where
    they are exact, NaN of one."""
    draws = nats.shape[1]
    if kind == "exact":
        errors = np.zeros(len(nats))
    elif draws < 2:
        errors = np.full(len(nats), np.nan)
    else:
        errors = nats.std(1, ddof=1) / math.sqrt(draws)
    return nats.mean(1).tolist(), errors.tolist()


def are_likeliest(
    run: Run,
    pairs: Sequence[Pair],
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """bool (N,): whether every token of a continuation is the one that a model from left to right finds
    most probable there."""
    experiment, found = run.experiment, np.zeros(len(pairs), bool)

    @use_mesh(run.mesh)
    def differ(params, rows, conditioning):
        process = experiment.bind(params)
        assert isinstance(process, Sequential)  # the caller's
        network = experiment.network(params, **of_network(conditioning))
        return only_counted(process.likeliest(network, rows) != rows, conditioning)

    compiled = jax.jit(differ, out_shardings=replicated(run.mesh))

    def of_batch(rows, numbers, conditioning):
        return compiled(run.params, rows, conditioning)

    for numbers, other in _batched(run, pairs, batch_size, of_batch, progress):
        found[numbers] = ~np.any(np.asarray(other)[: len(numbers)], axis=1)
    return found


def _batched(run: Run, pairs, batch_size, of_batch, progress):
    """(numbers (n,) of pairs, what of_batch gives for them) of each batch, on the run's devices."""
    experiment, shards = run.experiment, batch_shards(run.mesh)
    size = min(batch_size or experiment.evaluation.batch_size, len(pairs))
    texts, length = [np.concatenate(pair) for pair in pairs], experiment.data.length
    # What is drawn of whole rows, such as the times of all blocks, depends on their length.
    shortest = length if experiment.process.traits.whole_rows else SHORTEST
    rows_at_a_time = -(-size // shards) * shards
    batches = padded_batches(texts, length, rows_at_a_time, experiment.model.decodes, shortest)
    done = 0
    for numbers, tokens, segments in batches:
        rows = np.resize(numbers, len(tokens))
        ends = np.array([len(pairs[n].context) for n in rows])
        known = np.arange(tokens.shape[1])[None] < ends[:, None]
        drawn = np.array([pairs[n].number for n in rows], np.uint32)
        # A network may know of no segments where rows have no padding.
        given = {"segments": segments} if experiment.model.decodes else {}
        arrays = (tokens, drawn, given | {"known": known})
        yield numbers, of_batch(*jax.tree.map(lambda a: global_batch(run.mesh, a, axis=0), arrays))
        done += len(numbers)
        if progress:
            progress(done, len(pairs))
