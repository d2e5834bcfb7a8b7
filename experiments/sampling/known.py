"""Known tokens: the text that a user gives of a sample, as tokens at their places."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from experiments.config import Experiment
from experiments.data.text import Text
from experiments.data.tokenizers import OutsideAlphabet, SubwordTokenizer, Tokenizer
from experiments.errors import UserError
from experiments.evaluation.conditional import begin_of
from experiments.sampling.stand_in import banned_tokens, encode_alone, encode_around
from experiments.sampling.stops import end_of
from samplers.insertion import ANY, NOTHING, ONE


def encode_known(
    tokenizer: Tokenizer,
    length: int,
    prompt: str,
    template: str | None,
    blank: str,
    begin: np.ndarray | None = None,
    stretch: str = "",
    grows: bool = False,
) -> np.ndarray:
    """(L,) int32, -1 where the model is to fill in; UserError for what cannot stand in a sample. begin:
    tokens (n,) that stand before the text. grows: of texts that grow by insertion, with the signs of
    `samplers.insertion`: a template is a whole text, and the character `stretch` any number of tokens.
    """
    if prompt and template is not None:
        raise UserError(
            "--prompt and --template cannot be combined; put the prompt into the template"
        )
    if len(blank) != 1:
        raise UserError(f"--blank {blank!r} must be one character")
    if stretch and template is None:
        raise UserError(f"--stretch {stretch!r} is for blanks of a template; give --template")
    if stretch and (len(stretch) != 1 or stretch == blank):
        raise UserError(
            f"--stretch {stretch!r} must be one character, other than --blank {blank!r}"
        )
    if stretch and template and stretch not in template:
        raise UserError(
            f"--stretch {stretch!r} does not stand in the template; put it where any number of tokens "
            "may be missing, or leave it out"
        )
    whole = grows and template is not None
    signs = ({stretch: ANY} if stretch else {}) | {blank: ONE if whole else ANY}
    known = np.full(length, NOTHING if whole else ANY, np.int32)
    name, text = ("--prompt", prompt) if template is None else ("--template", template)
    parts, blanks = _parts(text, signs) if template is not None else ([text], [])
    at = 0 if begin is None else len(begin)
    known[:at] = [] if begin is None else begin
    try:
        encoded = _encode_around(tokenizer, parts, name)
    except UserError as error:
        if not whole or stretch:
            raise
        sign = "for one that stands for any number of tokens name it with --stretch"
        raise UserError(error.what, f"{error.advice}; {sign}", error.about) from None
    for tokens, gap in zip(encoded, [*blanks, []], strict=True):
        piece = np.concatenate([tokens, np.array(gap, np.int32)])
        if at + len(piece) > length:
            what = f"is longer than the model's {length} tokens"
            raise UserError(what, "shorten it, or raise --length", name)
        known[at : at + len(piece)] = piece
        at += len(piece)
    return known


def written(data: Text, x0: ArrayLike, known: np.ndarray, stop: Sequence[int]) -> np.ndarray:
    """The tokens (n,) of a sample (L,) that are its text, without the stop token that ends it and what
    stands after it, and the -1 after a text of any length; of a run of pairs, without the token before
    the prompt."""
    x0 = np.asarray(x0)
    text = x0[_begin(data) : end_of(x0, known, stop)]
    return text[text >= 0]


def answered(data: Text, x0: ArrayLike, known: np.ndarray, stop: Sequence[int]) -> np.ndarray:
    """The tokens (n,) of `written` after the known start, of a run of pairs the answer."""
    start = int(np.argmin(np.append(known, -1) >= 0))
    return written(data, x0, known, stop)[start - _begin(data) :]


def _begin(data: Text) -> int:
    """How many tokens stand before the text of a sample."""
    return len(begin_of(data)) if data.rows == "pair" else 0


def _parts(text: str, signs: dict[str, int]) -> tuple[list[str], list[list[int]]]:
    """The parts of a text, and what the characters that stand for blanks between them mean; the first
    and the last part may be empty."""
    first, *rest = re.split(f"([{re.escape(''.join(signs))}]+)", text)
    return [first, *rest[1::2]], [[signs[sign] for sign in run] for run in rest[::2]]


def _encode_around(tokenizer: Tokenizer, parts: list[str], option: str) -> list[np.ndarray]:
    if isinstance(tokenizer, SubwordTokenizer):
        return encode_around(tokenizer, parts, option)
    return [encode(tokenizer, part, option) for part in parts]


def encode(tokenizer: Tokenizer, text: str, option: str) -> np.ndarray:
    """The tokens (n,) int32 of text given on the command line, which stand amid others."""
    if isinstance(tokenizer, SubwordTokenizer):
        return encode_alone(tokenizer, text, option)
    try:
        return np.concatenate([*tokenizer.encode([text], option), np.zeros(0, np.int32)])
    except OutsideAlphabet as error:
        raise UserError(error.what, tokenizer.advice()) from None


def banned(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The numbers of the tokens that --ban TEXT names, rising."""
    if isinstance(tokenizer, SubwordTokenizer):
        return banned_tokens(tokenizer, text, "--ban")
    return tuple(sorted({int(token) for token in encode(tokenizer, text, "--ban")}))


def check_known(experiment: Experiment, known: np.ndarray) -> None:
    """UserError for a token given after a blank, to a sampler that goes from left to right by blocks:
    it would write the blank without regard to it."""
    size = experiment.process.traits.attention_block
    if size is None or (known >= 0).all():
        return
    block, first = np.arange(len(known)) // size, int(np.argmax(known < 0))
    late = np.flatnonzero((known >= 0) & (block > first // size))
    if len(late):
        raise UserError(
            f"{type(experiment.process).__name__} writes from left to right, {size} tokens at a "
            f"time, so the blank at {first} cannot depend on the text at {late[0]}; give only a "
            "prompt, or use another process, such as MDLM"
        )
