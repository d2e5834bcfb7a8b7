"""The likelihood of one text under a run, as the evaluation of a corpus estimates it."""

import math
from dataclasses import dataclass, replace

import numpy as np

from experiments.data.rows import make_rows
from experiments.data.tokenizers import OutsideAlphabet, SubwordTokenizer, count
from experiments.errors import UserError
from experiments.evaluation.bound import estimate
from experiments.evaluation.conditional import (
    conditional_nats,
    encode_pair,
    fitted,
    kind_of_pair,
    of_draws,
    sampled,
)
from experiments.evaluation.estimators import (
    check_bound,
    kind_of,
    make_bound,
    times_per_sequence,
)
from experiments.run import Run


@dataclass(frozen=True)
class LogLikelihood:
    """log p of a text in nats; of kind "bound" it is a lower one, so that p is at least this.

    standard_error, in nats: of the times and the noise that were drawn, 0 where the likelihood is exact,
    NaN of one time. samples: how many of those there were, 1 where it is exact. bits_per_character:
    -log p in bits over the characters, NaN where there are none.
    """

    nats: float
    standard_error: float
    kind: str
    tokens: int
    characters: int
    samples: int

    @property
    def bits_per_character(self) -> float:
        """Bits per character of the text; NaN where it has none."""
        return -self.nats / math.log(2) / self.characters if self.characters else math.nan


def log_likelihood(
    run: Run, text: str, num_times: int = 64, seed: int = 0, context: str = ""
) -> LogLikelihood:
    """log p(text), from so many times; given a context, log p(text | context), of as much of its end as
    the run's length has room for beside the text. UserError for text outside of the run's alphabet, and
    for a process without a likelihood.

    A text longer than the run's sequences is taken in pieces of their length, each seen alone, and where
    the run is of documents it is one, with the tokens that stand around each. Where it is of pairs, the
    text is the answer and the context its prompt.
    """
    if context or run.experiment.data.rows == "pair":
        return _of_continuation(run, text, num_times, seed, context)
    experiment = sampled(run.experiment, num_times)
    check_bound(experiment)
    tokens = tokens_of(run, text)
    if not len(tokens):
        raise UserError("the text is empty", "give at least one token")
    data = experiment.data
    rows = tokens
    if data.rows != "wrap":
        rows = make_rows(tokens, np.array([0, len(tokens)]), data.length, data.rows == "pack")
    draws = times_per_sequence(experiment)
    bound = make_bound(experiment, draws, seed, run.mesh)
    characters = count(text)[0]
    result, _ = estimate(experiment, bound, run.params, rows, run.mesh, characters)
    kind, size = kind_of(experiment), int(result.tokens.sum())
    error = 0.0 if kind == "exact" else result.time_standard_error() * size
    return LogLikelihood(-result.nats_per_token * size, error, kind, size, characters, draws)


def _of_continuation(run, text, num_times, seed, context) -> LogLikelihood:
    run = replace(run, experiment=sampled(run.experiment, num_times))
    pair = encode_pair(run, context, text)
    nats = conditional_nats(run, [fitted(pair, run.experiment.data.length)], seed)
    kind = kind_of_pair(run.experiment, pair)
    value, error = of_draws(nats, kind)
    size = len(pair.continuation)
    return LogLikelihood(-value[0], error[0], kind, size, count(text)[0], nats.shape[1])


def tokens_of(run: Run, text: str) -> np.ndarray:
    """The tokens (n,) of a whole text as the run's data would hold it; UserError where it cannot."""
    data = run.experiment.data
    try:
        tokens = np.concatenate([*data.tokenizer.encode([text], "text"), np.zeros(0, np.int32)])
    except OutsideAlphabet as error:
        raise UserError(error.what, data.tokenizer.advice()) from None
    if data.rows == "wrap" or not isinstance(data.tokenizer, SubwordTokenizer):
        return tokens
    around = [[data.tokenizer.number(name)] if name else [] for name in (data.begin, data.end)]
    return np.concatenate([around[0], tokens, around[1]]).astype(tokens.dtype)
