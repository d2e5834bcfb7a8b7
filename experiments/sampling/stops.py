"""Tokens that end a sample: which they are, and where its text ends."""

from collections.abc import Sequence

import numpy as np

from experiments.config import Experiment
from experiments.data.text import Text
from experiments.data.tokenizers import token_number
from experiments.errors import UserError
from experiments.overrides import leaves, override


def stop_tokens(data: Text, names: Sequence[str], min_tokens: int = 0) -> tuple[int, ...]:
    """The numbers of the tokens with these names, or of the end of a run of pairs where none is named;
    UserError for what is no token, and where min_tokens asks for one and there is none."""
    if not names and data.rows == "pair" and data.end:
        names = (data.end,)
    if min_tokens and not names:
        raise UserError(
            f"--min-tokens {min_tokens} keeps a text from ending, and nothing ends it",
            "name the token that does with --stop",
        )
    numbers = []
    for name in names:
        try:
            numbers.append(token_number(data.tokenizer, name, "--stop"))
        except UserError as error:
            raise UserError(
                f"is no token of the run's {type(data.tokenizer).__name__}",
                "give one by its name in the vocabulary, or one character of an alphabet",
                f"--stop {name!r}",
            ) from error
    return tuple(dict.fromkeys(numbers))


def stopping(experiment: Experiment, stop: tuple[int, ...]) -> Experiment:
    """The experiment with a sampler that stops there, where it has this setting."""
    if not stop or "stop" not in leaves(experiment.sampler):
        return experiment
    return override(experiment, [f"sampler.stop={stop}"])


def end_of(x0: np.ndarray, known: np.ndarray, stop: Sequence[int]) -> int | None:
    """The position of the stop token that ends a sample x0 (L,), the first after all that is known (L,);
    None where none does."""
    start = int(np.flatnonzero(known >= 0).max(initial=-1)) + 1
    at = np.flatnonzero(np.isin(x0[start:], np.array(stop, int)))
    return start + int(at[0]) if len(at) else None
