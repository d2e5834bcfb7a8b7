"""A run as a model of lm-evaluation-harness: what it answers to each kind of request.

Nothing of the harness is imported here (`experiments.lm_eval` does): a request is any object whose
`args` are those of the harness.

    loglikelihood           log p(continuation | context), exact or a bound by so many draws, and whether
                            the model, decoded greedily, writes the continuation
    loglikelihood_rolling   log p(text), in windows of the run's length
    generate_until          what the run's sampler writes after a context
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np

from diffusion.process import Sequential
from experiments.errors import UserError
from experiments.evaluation.conditional import (
    Pair,
    are_likeliest,
    begin_of,
    check_conditional,
    conditional_nats,
    encode,
    encode_pair,
    fitted,
    kind_of_pair,
    of_draws,
    sampled,
    windows,
)
from experiments.evaluation.estimators import estimator_of, times_per_sequence
from experiments.evaluation.record import precision
from experiments.progress import Progress
from experiments.published.source import read_source
from experiments.run import Run, load_run
from experiments.sampling.continuations import continuations
from experiments.sampling.samples import with_setting
from experiments.serialization import encode as as_plain
from experiments.streams import log

_OF_TOKENS = ("temperature", "top_k", "top_p", "min_p")
_GENERATION = ("until", "max_gen_toks", "do_sample", *_OF_TOKENS)
_DEFAULT_ROOM = 256  # tokens, the harness's own, where a task says nothing


class Request(Protocol):
    """What the harness asks; args: as its models document them."""

    args: tuple


class RunModel:
    """The run in `workdir` as a model.

    step: of the checkpoint, None for the newest. samples: draws of each likelihood that is not exact.
    seed: of all draws. greedy: whether it is found out if greedy decoding writes a continuation, which
    takes a sample each, except of models from left to right; without, the answer is no. out: a file
    that gets a line for each likelihood, with its standard error; "" is none. config: the file that
    defines classes of your own. batch_size: rows at a time, or "auto", which is the run's
    evaluation.batch_size. max_batch_size, device: the harness gives them, for PyTorch; not used.
    settings: those of the run to be changed, as of --set, such as {"sampler.steps": 16}.
    """

    def __init__(
        self,
        workdir: str,
        step: int | None = None,
        samples: int = 128,
        seed: int = 0,
        greedy: bool = True,
        out: str = "",
        config: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **settings: Any,
    ):
        self.samples = _whole("samples", samples, 1)
        self.seed, self.greedy, self.out = _whole("seed", seed, 0), greedy, out
        auto = batch_size is None or str(batch_size).startswith("auto")
        self.batch_size = None if auto else _whole("batch_size", batch_size, 1)
        changes = [f"{name}={value}" for name, value in settings.items()]
        run = load_run(str(workdir), step, changes, config)
        self.run = replace(run, experiment=sampled(run.experiment, self.samples))
        self.workdir = str(workdir)
        self._errors, self._kinds, self._samplers = [], Counter(), []
        if self.out:
            Path(self.out).write_text("")

    def loglikelihood(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """(log p(continuation | context) in nats, whether greedy decoding writes it) of each request,
        (context, continuation)."""
        check_conditional(self.run.experiment)
        length = self.run.experiment.data.length
        pairs = [fitted(encode_pair(self.run, *r.args), length) for r in requests]
        values, errors = self._likelihoods(pairs, [[n] for n in range(len(pairs))])
        greedy = self._are_greedy(pairs)
        self._note([r.args for r in requests], pairs, values, errors, greedy)
        return list(zip(values, greedy, strict=True))

    def loglikelihood_rolling(self, requests: Sequence[Request]) -> list[float]:
        """log p(text) in nats of each request, (text,), the sum over windows of the run's length."""
        check_conditional(self.run.experiment)
        data, pairs, of_text = self.run.experiment.data, [], []
        for request in requests:
            tokens = encode(data.tokenizer, request.args[0])
            parts = windows(tokens, begin_of(data), data.length)
            of_text.append(list(range(len(pairs), len(pairs) + len(parts))))
            pairs += parts
        values, errors = self._likelihoods(pairs, of_text)
        wholes = [
            Pair(begin_of(data), np.concatenate([pairs[n].continuation for n in of]))
            for of in of_text
        ]
        self._note([r.args for r in requests], wholes, values, errors)
        return values

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """What the run's sampler writes after each context, up to the first of the `until` strings or
        max_gen_toks tokens; a request is (context, options), which may have do_sample (without it the
        temperature is 0), temperature, top_k, top_p and min_p besides."""
        asked = [_options(request.args[1]) for request in requests]
        texts, seen, groups = [""] * len(requests), Counter(), {}
        for n, (_, _, settings) in enumerate(asked):
            groups.setdefault(settings, []).append(n)
        for settings, members in groups.items():
            run = self._with(settings)
            data, contexts, counts, numbers = run.experiment.data, [], [], []
            for n in members:
                count = _room(asked[n][1], data.length)
                tokens = _context(run, requests[n].args[0], data.length - count)
                content = tokens.astype("<i4").tobytes()
                numbers.append(crc32(content, seen[content]))  # a repeated request is drawn anew
                seen[content] += 1
                contexts.append(tokens)
                counts.append(count)
            with Progress(log, "texts") as progress:
                drawn = continuations(
                    run, contexts, counts, numbers, self.seed, self.batch_size, progress
                )
            for n, context, tokens in zip(members, contexts, drawn, strict=True):
                texts[n] = _cut(_decoded(data.tokenizer, context, tokens), asked[n][0])
        return texts

    def get_model_info(self) -> dict:
        """What the harness writes into the "config" of its results: the run, the whole estimator and
        the samplers that were used."""
        experiment, errors = self.run.experiment, np.array(self._errors)
        finite = errors[np.isfinite(errors)]
        return {
            "ddlm": {
                "version": version("ddlm"),
                "workdir": self.workdir,
                "checkpoint_step": self.run.step,
                "checkpoint_fingerprint": self.run.fingerprint,
                "imported": _imported(Path(self.workdir)),
                "process": as_plain(experiment.process),
                "length": experiment.data.length,
                "precision": precision(experiment),
                "seed": self.seed,
                "likelihood": {
                    "requests": dict(self._kinds),
                    "estimator": estimator_of(experiment) if self._kinds else None,
                    "samples": times_per_sequence(experiment) if self._kinds else None,
                    "settings": as_plain(experiment.evaluation),
                    "standard_error": {
                        "median": float(np.median(finite)) if len(finite) else None,
                        "largest": float(finite.max()) if len(finite) else None,
                    },
                    "context": "clean in every state, cut at its beginning to fit the length",
                    "greedy": self.greedy or isinstance(experiment.process, Sequential),
                },
                "samplers": self._samplers,
            }
        }

    def _likelihoods(self, pairs, of_text) -> tuple[list[float], list[float]]:
        """log p and its standard error of each text, whose pairs have the numbers `of_text`."""
        if not pairs:
            return [0.0] * len(of_text), [0.0] * len(of_text)
        with Progress(log, "likelihoods") as progress:
            nats = conditional_nats(self.run, pairs, self.seed, self.batch_size, progress)
        exact = kind_of_pair(self.run.experiment, pairs[0]) == "exact"
        values, errors = of_draws(nats, "exact" if exact else "bound")
        return [-sum(values[n] for n in of) for of in of_text], [
            math.hypot(*(errors[n] for n in of)) for of in of_text
        ]

    def _are_greedy(self, pairs: list[Pair]) -> list[bool]:
        run = self.run
        if isinstance(run.experiment.process, Sequential):
            return are_likeliest(run, pairs, self.batch_size).tolist()
        if not self.greedy:
            return [False] * len(pairs)
        contexts, counts = [p.context for p in pairs], [len(p.continuation) for p in pairs]
        with Progress(log, "greedy continuations") as progress:
            drawn = continuations(
                self._with((("temperature", 0.0),)), contexts, counts,
                [pair.number for pair in pairs], self.seed, self.batch_size, progress,
            )  # fmt: skip
        return [
            bool((tokens == pair.continuation).all())
            for tokens, pair in zip(drawn, pairs, strict=True)
        ]

    def _with(self, settings: tuple[tuple[str, Any], ...]) -> Run:
        """The run with settings of what its sampler draws tokens from, which is noted."""
        experiment = self.run.experiment
        for name, value in settings:
            experiment = with_setting(experiment, f"logits_processor.{name}", value, name)
        plain = as_plain(experiment.sampler)
        if plain not in self._samplers:
            self._samplers.append(plain)
        return replace(self.run, experiment=experiment)

    def _note(self, asked, pairs, values, errors, greedy=None) -> None:
        kinds = [kind_of_pair(self.run.experiment, pair) for pair in pairs]
        self._kinds.update(kinds)
        self._errors += errors
        if not self.out:
            return
        with open(self.out, "a", encoding="utf-8") as file:
            for n, pair in enumerate(pairs):
                line = {
                    "arguments": list(asked[n]),
                    "nats": values[n],
                    "standard_error": errors[n] if math.isfinite(errors[n]) else None,
                    "kind": kinds[n],
                    "samples": times_per_sequence(self.run.experiment),
                    "tokens": len(pair.continuation),
                    "context_tokens": len(pair.context),
                }
                line |= {} if greedy is None else {"is_greedy": greedy[n]}
                file.write(json.dumps(line) + "\n")


def _imported(workdir: Path) -> dict | None:
    """What a run that was imported says of its files; None of others."""
    source = read_source(workdir)
    if source is None:
        return None
    return {"family": source.family, "files": source.files, "revision": source.revision}


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = least - 1
    if not least <= number < 2**31:
        raise UserError(f"{name} = {value} must be a whole number from {least} to 2147483647")
    return number


def _options(given: dict[str, Any]) -> tuple[tuple[str, ...], int | None, tuple]:
    """(until, max_gen_toks, settings of the distribution of a token) of a request."""
    if unknown := sorted(set(given) - set(_GENERATION)):
        raise UserError(
            f"generation option {', '.join(unknown)} is not one of {', '.join(_GENERATION)}; pass "
            "other sampler settings as arguments of the model, such as sampler.steps=16"
        )
    until = given.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    settings = {name: given[name] for name in _OF_TOKENS if given.get(name) is not None}
    if not given.get("do_sample", False):
        settings["temperature"] = 0.0
    return stops, given.get("max_gen_toks"), tuple(sorted(settings.items()))


def _room(asked: Any, length: int) -> int:
    """How many tokens are drawn, of sequences of `length`."""
    if asked is None:
        return min(_DEFAULT_ROOM, length // 2)
    count = _whole("max_gen_toks", asked, 1)
    if count >= length:
        raise UserError(
            f"max_gen_toks = {count} leaves no room for a context in the run's {length} tokens; lower "
            "it, or raise data.length"
        )
    return count


def _context(run: Run, text: str, room: int) -> np.ndarray:
    """The last `room` tokens of the context."""
    data = run.experiment.data
    tokens = np.concatenate([begin_of(data), encode(data.tokenizer, text)])
    return tokens[max(len(tokens) - room, 0) :]


def _decoded(tokenizer, context: np.ndarray, tokens: np.ndarray) -> str:
    """What the tokens add to the text of their context."""
    before, whole = tokenizer.decode(context), tokenizer.decode(np.concatenate([context, tokens]))
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(tokens)


def _cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stops."""
    places = [place for place in (text.find(stop) for stop in stops if stop) if place >= 0]
    return text[: min(places)] if places else text
