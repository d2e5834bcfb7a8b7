"""How long an answer is: as the model decides, or given before it is drawn.

A model of pairs with `data.end` writes the end itself ("end"). Else, or if asked for, the length is
given: as many tokens as the reference has ("reference"), one number for all, or the likeliest after a
prompt of this length ("predicted"). Difformer (arXiv 2212.09412) predicts it by a head on its encoder
and draws candidates of each of the likeliest lengths. Here a table of the training pairs takes its
place: the lengths of answers to prompts of this length, and of the nearest ones until `_LEAST` are
counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from experiments.data.pairs import PairRows
from experiments.data.text import Text
from experiments.data.tokenizers import token_number
from experiments.errors import UserError

_LEAST = 50
OPTION = "--answer-length"
AnswerLength = int | str  # a number of tokens, or one of these
KINDS = ("end", "reference", "predicted")


@dataclass(frozen=True)
class Questions:
    """What samples are asked for. known: tokens (N, L), -1 where the model fills in; of sample n row n
    modulo N. segments: (N, L), 1 where a row has text, or None where rows have no padding. starts: (N,),
    where answers begin."""

    known: np.ndarray
    segments: np.ndarray | None
    starts: np.ndarray

    def answer(self, data: Text, number: int, x0: ArrayLike) -> np.ndarray:
        """The tokens (n,) of the answer in sample `number`, up to the first end or to the padding."""
        row = number % len(self.known)
        tokens = np.asarray(x0)[self.starts[row] :]
        if self.segments is not None:
            return tokens[self.segments[row, self.starts[row] :] > 0]
        ends = np.flatnonzero(tokens == _end(data))
        return tokens[: ends[0]] if len(ends) else tokens


def _end(data: Text) -> int:
    return token_number(data.tokenizer, data.end, "data.end")


def prompt_sizes(rows: PairRows) -> np.ndarray:
    """How many tokens the prompt of each row has, (N,)."""
    return rows.answers - rows.starts


def answer_sizes(rows: PairRows) -> np.ndarray:
    """How many tokens the answer of each row has, (N,), its end left out."""
    return rows.sizes - (rows.end is not None)


def likeliest_lengths(prompts: np.ndarray, answers: np.ndarray, size: int) -> np.ndarray:
    """The lengths of answers after a prompt of `size` tokens, the most frequent first, of equally
    frequent ones the shorter. prompts, answers: (N,), the sizes of training pairs."""
    distance = np.abs(prompts - size)
    reach = np.sort(distance)[min(_LEAST, len(distance)) - 1]
    lengths, counts = np.unique(answers[distance <= reach], return_counts=True)
    return lengths[np.argsort(-counts, kind="stable")]


def check_length(data: Text, length: AnswerLength) -> None:
    """Nothing; UserError for what is no length, or for one that the run's rows do not tell."""
    if length not in KINDS and (isinstance(length, str) or length < 1):
        raise UserError(f"{length}: expected a number or one of {', '.join(KINDS)}", about=OPTION)
    if length == "end" and not data.end:
        raise UserError(
            f"the run has no data.end, so it does not say where an answer ends; give {OPTION} "
            "predicted, reference or a number"
        )
    if isinstance(length, int) and length > data.length:
        raise UserError(
            f"{length} tokens are more than data.length = {data.length}, prompt included",
            "give fewer",
            OPTION,
        )


def make_questions(
    data: Text,
    rows: PairRows,
    training: PairRows | None,
    length: AnswerLength,
    candidates: int,
    beam: int,
) -> Questions:
    """Samples for `candidates` answers to the prompts of the rows: the first to each, in order, then the
    second to each. training: of "predicted", whose candidate k has the likeliest length number k modulo
    `beam`."""
    check_length(data, length)
    tokens, given = rows.batch(np.arange(len(rows)))
    known, starts = np.where(given["known"], tokens, -1), prompt_sizes(rows)
    if length == "end":
        return Questions(known, None, starts)
    sizes = _sizes(rows, training, length, candidates, beam)
    stops = np.minimum(np.tile(starts, len(sizes)) + sizes.reshape(-1), data.length)[:, None]
    rest = np.arange(data.length) >= stops
    known, starts = np.tile(known, (len(sizes), 1)), np.tile(starts, len(sizes))
    if data.end:
        return Questions(np.where(rest, np.int32(_end(data)), known), None, starts)
    return Questions(known, (~rest).astype(np.int32), starts)


def _sizes(rows, training, length: AnswerLength, candidates: int, beam: int) -> np.ndarray:
    """The lengths of answers, (1, N) where all candidates have the same, else (candidates, N)."""
    if length == "reference":
        return answer_sizes(rows)[None]
    if isinstance(length, int):
        return np.full((1, len(rows)), length)
    assert training is not None  # the caller's
    prompts, answers = prompt_sizes(training), answer_sizes(training)
    tables: dict[int, np.ndarray] = {
        int(size): likeliest_lengths(prompts, answers, size) for size in set(prompt_sizes(rows))
    }
    ranked: Sequence[np.ndarray] = [tables[int(size)] for size in prompt_sizes(rows)]
    return np.array([[of[k % beam % len(of)] for of in ranked] for k in range(candidates)])
