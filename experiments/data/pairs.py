"""Pairs of prompt and answer: JSON lines {"prompt": ..., "answer": ...}, and rows of them.

A row is the prompt, the answer and, where `data.end` names a token, that token up to the length of the
row, as in LLaDA (arXiv 2502.09992): a model learns where an answer ends. Without it the rest is padding,
which no position sees, and the length of the answer is given.

Prompt and answer become tokens apart, so that a prompt has the same ones in training and in sampling: a
space or line feed between them belongs to one of the two. In the prepared text each is a document, in
turn.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.documents import Documents
from experiments.data.rows import Conditioning, Rows
from experiments.data.tokenizers import Tokenizer
from experiments.errors import UserError, shortened
from experiments.plain_json import parse

_PROMPT = '{"prompt": "..."}'
_FORM = '{"prompt": "...", "answer": "..."}'


def read_pairs(lines: Iterable[str], where: str) -> Iterator[str]:
    """Prompt and answer of each line that is not blank, in turn; UserError for what is no pair."""
    for place, pair in _objects(lines, where, _FORM):
        prompt, answer = pair.get("prompt"), pair.get("answer")
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise UserError(f"{place}: is not {_FORM}; both must be texts")
        if not answer:
            raise UserError(f"{place}: the answer is empty; leave the pair out")
        yield prompt
        yield answer


def read_prompts(path: str, option: str) -> tuple[str, ...]:
    """The prompts of a file of JSON lines, in order; UserError, which names the option, where it has
    none."""
    try:
        lines = Path(path).expanduser().read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        advice = f"give a file with a line {_PROMPT} for each"
        raise UserError(f"cannot be read ({reason})", advice, f"{option} {path}") from error
    prompts = [(place, of.get("prompt")) for place, of in _objects(lines, path, _PROMPT)]
    wrong = next((place for place, prompt in prompts if not isinstance(prompt, str)), None)
    if wrong or not prompts:
        what = f"{wrong}: is not {_PROMPT}" if wrong else "holds no prompts"
        raise UserError(what, f"give a line {_PROMPT} for each", f"{option} {path}")
    return tuple(str(prompt) for _, prompt in prompts)


def _objects(lines: Iterable[str], where: str, form: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, the object) of each line that is not blank; {} for another value."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        try:
            value = parse(line)
        except ValueError as error:
            what = f"{place}: is not JSON ({shortened(str(error))})"
            raise UserError(what, f"give a line {form} for each") from error
        yield place, value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Around:
    """The tokens (n,) before a prompt, and after an answer; none or one."""

    begin: np.ndarray
    end: np.ndarray

    def document(
        self, number: int, tokens: np.ndarray, tokenizer: Tokenizer, where: str
    ) -> np.ndarray:
        """The tokens of document `number`, a prompt or an answer, with those; UserError for an answer
        that does not tell its end."""
        if number % 2 == 0:
            return np.concatenate([self.begin, tokens])
        if np.isin(self.end, tokens).any() or not len(tokens):
            text = tokenizer.decode(tokens[:40])
            what = "holds data.end" if len(tokens) else "has no tokens"
            raise UserError(
                f"{where}: the answer {text!r} of pair {number // 2 + 1} {what}",
                "choose a data.end that is in no answer" if len(tokens) else "leave the pair out",
            )
        return np.concatenate([tokens, self.end])


@dataclass(frozen=True)
class PairRows(Rows):
    """Rows of a prompt, from starts[r], and its answer, from answers[r] to stops[r]; end: the token that
    fills a row up, None for padding."""

    answers: np.ndarray
    end: int | None

    @property
    def counted_from(self):
        return self.answers

    def chosen(self, numbers):
        return replace(super().chosen(numbers), answers=self.answers[numbers])

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, Conditioning]:
        """As `Rows.batch`, the prompts known, bool (n, length)."""
        tokens, segments = self.read(numbers)
        places = np.arange(self.length)
        known = places < (self.answers - self.starts)[numbers][:, None]
        if self.end is None:
            return tokens, {"segments": segments, "known": known}
        return np.where(segments > 0, tokens, np.int32(self.end)), {"known": known}


def make_pair_rows(
    tokens: np.ndarray, documents: Documents, length: int, end: int | None, where: str
) -> PairRows:
    """A row of each pair of documents; UserError where one is longer than a row."""
    starts, answers, stops = (documents.starts[n::2] for n in (0, 1, 2))
    starts = starts[: len(answers)]
    sizes = stops - starts
    if long := int((sizes > length).sum()):
        raise UserError(
            f"{where}: {long:,} of {len(sizes):,} pairs are longer than data.length = {length} tokens, "
            f"the longest {sizes.max():,}",
            "raise data.length, or shorten them",
        )
    return PairRows(tokens, length, starts, stops, starts, answers, end)
