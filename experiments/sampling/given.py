"""What a user gives of a sample: text, as tokens at their places."""

import numpy as np

from experiments.config import Experiment
from experiments.data.tokenizers import Letters27, Tokenizer
from experiments.errors import UserError


def given_tokens(
    tokenizer: Tokenizer, length: int, prompt: str, template: str | None, blank: str
) -> np.ndarray:
    """(L,) int32, -1 where the model is to fill in; UserError for what cannot stand in a sample."""
    if prompt and template is not None:
        raise UserError(
            "--prompt and --template exclude each other; put the prompt into the template"
        )
    if len(blank) != 1:
        raise UserError(f"--blank {blank!r} must be one character")
    known = np.full(length, -1, np.int32)
    name, text = ("--prompt", prompt) if template is None else ("--template", template)
    parts, at = (text.split(blank) if template is not None else [text]), 0
    for number, part in enumerate(parts):
        at += number > 0
        tokens = encode(tokenizer, part, name)
        if at + len(tokens) > length:
            raise UserError(
                f"{name} is longer than the model's {length} tokens; shorten it, or raise --length"
            )
        known[at : at + len(tokens)] = tokens
        at += len(tokens)
    return known


def encode(tokenizer: Tokenizer, text: str, option: str) -> np.ndarray:
    """The tokens of text given on the command line, (n,) int32."""
    try:
        return np.concatenate([*tokenizer.encode([text], option), np.zeros(0, np.int32)])
    except UserError as error:
        said, advice = str(error).partition(";")[0], "a run keeps the alphabet it was trained with"
        if isinstance(tokenizer, Letters27):
            advice += ", to which --set data.tokenizer.normalize=True maps text"
        raise UserError(f"{said}; {advice}") from None


def check_given(experiment: Experiment, known: np.ndarray) -> None:
    """UserError for a token given after a blank, to a sampler that goes from left to right by blocks:
    it would write the blank without regard to it."""
    size = experiment.process.traits.attention_block
    if size is None or (known >= 0).all():
        return
    block, first = np.arange(len(known)) // size, int(np.argmax(known < 0))
    late = np.flatnonzero((known >= 0) & (block > first // size))
    if len(late):
        raise UserError(
            f"{type(experiment.process).__name__} writes from left to right, {size} tokens at a time, "
            f"and the blank at {first} would not know what is given at {late[0]}; give a prompt "
            "alone, or use a process that is not from left to right, such as MDLM"
        )
