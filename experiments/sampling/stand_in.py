"""Text with blanks as subword tokens.

A blank is one token that is yet to be drawn, and the text around it goes on: in "the stat_ing of" the
last part begins within a word. Tokens depend on such neighbours, so the text is tokenized as a whole,
with a word in the place of the blanks whose tokens are then taken out. A word can stand in for blanks if
no token of the text reaches into it. But a vocabulary may hold the space before a word as part of it
("▁of"): that becomes a token of its own where there is one, since what is drawn may not begin with it.
"""

import sys
from bisect import bisect
from collections.abc import Iterator, Sequence
from string import ascii_lowercase

import numpy as np

from experiments.data.tokenizers import SubwordTokenizer
from experiments.errors import UserError

_LETTERS = "qzxjkvwy" + ascii_lowercase  # those first that few tokens go on with
_FIRST, _MOST = 10_000, 200  # tokens among which so many words are found, where no letter will do
_LOSES_SPACE = (
    "no token is a space alone, so that what is drawn decides whether one comes before it"
)


def encode_around(
    tokenizer: SubwordTokenizer, parts: Sequence[str], option: str
) -> list[np.ndarray]:
    """The tokens (n,) int32 of each part of a text, blanks standing between them and after the last.
    UserError where no tokens are the text; a note on stderr if a space before a blank is lost."""
    tokens, lost = _encode(tokenizer, parts, option)
    if lost:
        print(f"note: {option}: {_LOSES_SPACE}", file=sys.stderr)
    return tokens


def encode_alone(tokenizer: SubwordTokenizer, text: str, option: str) -> np.ndarray:
    """The tokens (n,) int32 of a text that stands as it is amid others; UserError where none are that
    text."""
    (tokens,), lost = _encode(tokenizer, [text], option)
    if lost:
        raise UserError(
            f"{option} {text!r} ends in a space, and {_LOSES_SPACE}; leave it out there"
        )
    return tokens


def banned_tokens(tokenizer: SubwordTokenizer, text: str, option: str) -> tuple[int, ...]:
    """The numbers of the tokens of a text; of a text without space around it also the one token that it
    is within a word, or after a space, where there is such a token. They are printed to stderr."""
    (tokens,), _ = _encode(tokenizer, [text], option)
    numbers = set(map(int, tokens))
    for form in (text, f" {text}") if text == text.strip() else ():
        cut = _cut(tokenizer, ["", form])
        if cut and len(cut[0][1]) == 1:
            numbers |= set(map(int, cut[0][1]))
    if not numbers:
        raise UserError(f"{option} {text!r}: no token of the vocabulary is this text; leave it out")
    named = ", ".join(repr(tokenizer.name(number)) for number in sorted(numbers))
    print(f"banned tokens: {named}", file=sys.stderr)
    return tuple(sorted(numbers))


def _encode(tokenizer, parts, option) -> tuple[list[np.ndarray], bool]:
    cut = _cut(tokenizer, parts)
    if cut is None:
        for part in parts:
            _check_known(tokenizer, part, option)
        named = " and ".join(repr(part) for part in parts if part.strip())
        raise UserError(
            f"{option}: the vocabulary has no tokens for {named} next to a blank; let blanks stand for "
            "whole words"
        )
    return cut


def _check_known(tokenizer, text, option) -> None:
    for number, start, stop in tokenizer.spans(text):
        if _is_unknown(tokenizer, number, text[start:stop]):
            raise UserError(
                f"{option}: the vocabulary has no token for {text[start:stop].strip()!r}; a run keeps "
                "the vocabulary it was trained with"
            )


def _is_unknown(tokenizer, number, text) -> bool:
    """Whether the token stands for what the vocabulary lacks, and the text does not name that token."""
    return number == tokenizer.unknown and tokenizer.name(number) != text.strip()


def _cut(tokenizer, parts) -> tuple[list[np.ndarray], bool] | None:
    """(the tokens of each part, whether a space is lost before a blank); None where no word can stand in
    for the blanks, or a part has what the vocabulary lacks."""
    words = _words(tokenizer) if len(parts) > 1 else [""]
    return next(filter(None, (_with_word(tokenizer, parts, word) for word in words)), None)


def _words(tokenizer) -> Iterator[str]:
    """What may stand in for a blank: letters, then the shortest words of the vocabulary."""
    yield from dict.fromkeys(_LETTERS)
    texts = {tokenizer.name(n).strip("▁Ġ#") for n in range(min(_FIRST, tokenizer.vocab_size))}
    words = sorted(filter(str.isalpha, texts), key=lambda text: (len(text), text))
    yield from words[:_MOST]


def _with_word(tokenizer, parts, word) -> tuple[list[np.ndarray], bool] | None:
    """As `_cut`, with this word in the place of the blanks."""
    text, bounds = word.join(parts), [0]
    for part in parts:  # where parts, at even places, and words begin
        bounds += [bounds[-1] + len(part), bounds[-1] + len(part) + len(word)]
    bounds[-2:] = [len(text) + 1] * 2
    numbers, covered = [[] for _ in bounds], list(bounds)
    for number, start, stop in tokenizer.spans(text):
        at = bisect(bounds, start) - 1
        if at % 2 == 0 and stop > bounds[at + 1] and text[start : bounds[at + 1]].isspace():
            at += 1  # the space before a word is part of it
        unknown = at % 2 == 0 and _is_unknown(tokenizer, number, text[start:stop])
        if unknown or stop > bounds[at + 1]:
            return None
        numbers[at].append(number)
        covered[at] = max(covered[at], stop)
    tokens, words = numbers[: 2 * len(parts) : 2], numbers[1 : 2 * len(parts) - 1 : 2]
    lost = False
    for part, own, start, stop in zip(parts, tokens, bounds[::2], covered[::2], strict=False):
        spaces = start + len(part) - max(stop, start + len(part.rstrip()))
        own += [tokenizer.space] * spaces if spaces > 0 else []
        lost |= None in own
    if not all(words):
        return None
    return [np.array([t for t in own if t is not None], np.int32) for own in tokens], lost
