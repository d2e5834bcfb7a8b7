"""Patterns that samples match: a regular expression, or a JSON schema, as an automaton over tokens.

outlines-core makes an automaton over bytes of the expression (the syntax of Rust's regex crate, without
looking around and back). Here it becomes one over tokens: a token moves a state as its bytes do. The
text of a token is what it adds to the text before it, so that " of" of a vocabulary of words begins with
its space, except at the start of a text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.process import Composed
from experiments.config import Experiment
from experiments.data.tokenizers import SubwordTokenizer, Tokenizer, token_number
from experiments.errors import UserError, needed
from samplers.automaton import Automaton

_MOST = 1 << 28  # numbers in a table of states and tokens
_END = 256  # what outlines-core takes for the end of a text, beside 256 bytes


@dataclass(frozen=True)
class _OfBytes:
    """moves: (S + 1, 256), the last state being none; accepts: (S + 1,); it begins in state 0."""

    moves: np.ndarray
    accepts: np.ndarray


def make_pattern(
    experiment: Experiment, known: np.ndarray, regex: str | None, schema: str | Mapping | None
) -> Automaton | None:
    """The automaton of what comes after the known start of each sample, None where there is no pattern;
    UserError for one that is no pattern, or that no sample of this length can match."""
    if regex is None and schema is None:
        return None
    option = "--regex" if schema is None else "--json-schema"
    needed("outlines_core", option)
    if known.ndim > 1:
        raise UserError("goes with one prompt for all samples", "give it with --prompt", option)
    _check_sampler(experiment, option)
    of_bytes = _of_bytes(_expression(regex, schema), option)
    blank = known < 0
    first = int(np.argmax(blank)) if blank.any() else len(known)
    tokenizer, end = experiment.data.tokenizer, _end(experiment)
    moves, accepts = _of_tokens(of_bytes, tokenizer, end, first, option)
    moves[:, list(experiment.sampler.layers[-1].logits_processor.banned)] = -1
    allowed = np.ones((len(known), moves.shape[1]), bool)
    allowed[~blank] = False
    allowed[~blank, known[~blank]] = True
    automaton = Automaton.over(moves, accepts, allowed, first)
    if not _reached(moves)[accepts].any():
        raise UserError(
            "the tokens that may be drawn spell no text that matches it",
            "use characters that the vocabulary has",
            option,
        )
    if not automaton.is_possible:
        ends = "" if end is None else f", or {experiment.data.end} before their end"
        raise UserError(
            f"no text of {len(known) - first} tokens matches it with the known and banned tokens",
            f"samples have {len(known)} tokens{ends}: let the pattern end in .*, or change --length",
            option,
        )
    return automaton


def _check_sampler(experiment: Experiment, option: str) -> None:
    sampler, process = experiment.sampler, experiment.process
    if isinstance(process, Composed) and process.traits.attention_block is None:
        raise UserError(
            f"{type(process).__name__} does not draw the tokens of a text by its own distribution",
            "use another process, such as MDLM",
            option,
        )
    if not sampler.draws_jointly:
        raise UserError(
            f"sampler {type(sampler).__name__} does not draw the tokens of a text together",
            "choose --sampler Ancestral",
            option,
        )


def _expression(regex: str | None, schema: str | Mapping | None) -> str:
    if schema is None:
        assert regex is not None  # one of the two is given
        return regex
    if regex is not None:
        raise UserError("cannot be combined", "leave one out", "--regex and --json-schema")
    from outlines_core import json_schema

    text = schema if isinstance(schema, str) else json.dumps(schema)
    try:
        return json_schema.build_regex_from_schema(text) + "[ \n]*"
    except Exception as error:  # of several classes of the library's own
        raise UserError(
            f"is no JSON schema that outlines-core can read ({error})", "", "--json-schema"
        ) from error


def _of_bytes(expression: str, option: str) -> _OfBytes:
    from outlines_core import Index, Vocabulary

    alphabet = Vocabulary(_END, {bytes([b]): [b] for b in range(256)})
    try:
        index = Index(expression, alphabet)
    except ValueError as error:
        raise UserError(f"{expression!r} is no pattern ({error})", "", option) from error
    by_state = index.get_transitions()
    states = {index.get_initial_state(): 0}
    for state in (*by_state, *(s for row in by_state.values() for s in row.values())):
        states.setdefault(state, len(states))
    moves = np.full((len(states) + 1, 256), len(states), np.int32)
    for state, row in by_state.items():
        for byte, following in row.items():
            if byte != _END:
                moves[states[state], byte] = states[following]
    accepts = np.zeros(len(moves), bool)
    accepts[[states[state] for state in index.get_final_states() if state in states]] = True
    return _OfBytes(moves, accepts)


def _end(experiment: Experiment) -> int | None:
    """The token that ends a text, after which it goes on to the end of the sample."""
    data = experiment.data
    return token_number(data.tokenizer, data.end, "data.end") if data.end else None


def _of_tokens(
    of_bytes: _OfBytes, tokenizer: Tokenizer, end: int | None, first: int, option: str
) -> tuple[np.ndarray, np.ndarray]:
    """(moves (S, V), accepts (S,)) by token."""
    size = tokenizer.vocab_size
    assert size is not None  # of a run
    none, accepts = len(of_bytes.moves) - 1, of_bytes.accepts[:-1]
    if none * size > _MOST:
        raise UserError(
            f"has {none:,} states, too many for {size:,} tokens", "use a shorter pattern", option
        )
    moves = _walk(of_bytes, _texts(tokenizer, inside=True))[:-1]
    if first == 0 and isinstance(tokenizer, SubwordTokenizer):
        # Tokens have another text at the start, where a state of its own stands, before the others.
        start = _walk(of_bytes, _texts(tokenizer, inside=False))[:1]
        moves = np.where(moves == none, -1, moves + 1)
        moves = np.concatenate([np.where(start == none, -1, start + 1), moves])
        accepts = np.concatenate([accepts[:1], accepts])
    else:
        moves = np.where(moves == none, -1, moves)
    if end is not None:  # a state more: the text has ended
        moves[:, end] = np.where(accepts, len(moves), -1)
        ended = np.full((1, size), -1, moves.dtype)
        ended[0, end] = len(moves)
        moves, accepts = np.concatenate([moves, ended]), np.append(accepts, True)
    return moves, accepts


def _reached(moves: np.ndarray) -> np.ndarray:
    """(S,): whether any tokens lead from the first state to a state; moves (S, V)."""
    reached = np.zeros(len(moves), bool)
    news = np.array([0])
    while len(news):
        reached[news] = True
        following = np.unique(moves[news])
        news = following[(following >= 0) & ~reached[following]]
    return reached


def _walk(of_bytes: _OfBytes, texts: Sequence[bytes]) -> np.ndarray:
    """(S + 1, V): where each text leads from each state; nowhere for an empty one."""
    none = len(of_bytes.moves) - 1
    at = np.broadcast_to(np.arange(none + 1, dtype=np.int32)[:, None], (none + 1, len(texts)))
    at = np.where([not text for text in texts], none, at)
    lengths = np.array([len(text) for text in texts])
    for place in range(lengths.max(initial=0)):
        longer = np.flatnonzero(lengths > place)
        byte = np.array([texts[int(n)][place] for n in longer])
        at[:, longer] = of_bytes.moves[at[:, longer], byte]
    return at


def _texts(tokenizer: Tokenizer, inside: bool) -> list[bytes]:
    """What each token adds to a text, or to none; b"" where that is no text, or part of a character."""
    numbers = range(tokenizer.vocab_size or 0)
    if tokenizer.binary:
        return [bytes([n]) for n in numbers]
    if not isinstance(tokenizer, SubwordTokenizer):
        return [tokenizer.decode(np.array([n])).encode() for n in numbers]
    before = [_letter(tokenizer)] if inside else []
    start = tokenizer.decode(np.array(before, int))
    texts = []
    for n in numbers:
        text = tokenizer.decode(np.array([*before, n]))
        is_text = text.startswith(start) and "\N{REPLACEMENT CHARACTER}" not in text
        texts.append(text[len(start) :].encode() if is_text else b"")
    return texts


def _letter(tokenizer: SubwordTokenizer) -> int:
    """A token that is a word, which others may follow."""
    for n in range(tokenizer.vocab_size or 0):
        if len(tokenizer.name(n).strip("▁Ġ")) == 1 and tokenizer.decode(np.array([n])).isalpha():
            return n
    raise UserError("the vocabulary has no letter, so its tokens have no text", "", "--regex")
