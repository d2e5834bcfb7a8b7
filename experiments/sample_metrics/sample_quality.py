"""Samples scored by an autoregressive model, with their entropy and their cost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from experiments.config import Experiment
from experiments.data.text import prepare
from experiments.errors import UserError
from experiments.evaluation.bound import spread
from experiments.evaluation.units import Estimate
from experiments.overrides import leaves, named, override
from experiments.run import Run, load_run
from experiments.sample_metrics.scorers import autoregressive_run, run_log_p
from experiments.sample_metrics.text_measures import entropy_bits, inner_words
from experiments.sampling.samples import make_sample, with_steps
from samplers.sampler import Sampler

_TIMED = 2  # rounds, of which the fastest counts
_WORDS_FROM = 20_000_000  # tokens of the training text that tell which words are real


def measure(
    workdirs: Sequence[str],
    scorer_path: str,
    log: Callable[[str], None],
    *,
    samplers: Sequence[str] = (),
    steps: Sequence[int] = (4, 8, 16, 64),
    num: int = 64,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> dict:
    """The record of `experiments.studies.few_steps`: settings, text, a row per program.

    samplers: "NAME setting=value ..." each, by default the runs' own. steps: how many, for each sampler
    that leaves them open. num: samples of each. overrides: as of --set, for runs that have the setting.
    """
    scorer = autoregressive_run(scorer_path)
    runs = {Path(workdir).name: load_run(workdir) for workdir in workdirs}
    for name, run in runs.items():
        if run.experiment.data.tokenizer != scorer.experiment.data.tokenizer:
            raise UserError(f"{name} was trained on another alphabet than the scorer")
        if run.experiment.process.traits.inserts:
            raise UserError(
                f"{name} writes texts of different lengths; draw them with ddlm sample --out and "
                "compare them with ddlm quality"
            )
    data = scorer.experiment.data
    corpus = prepare(data)
    text = spread(corpus.split("validation", data.length), data.length, num)
    words = frozenset(data.tokenizer.decode(corpus.split("train", 1)[:_WORDS_FROM]).split())
    for setting in overrides:
        if not any(setting.partition("=")[0] in leaves(run.experiment) for run in runs.values()):
            override(next(iter(runs.values())).experiment, [setting])  # says what is wrong with it
    rows = []
    for name, run in runs.items():
        chosen = [s for s in overrides if s.partition("=")[0] in leaves(run.experiment)]
        base = override(run.experiment, chosen)
        for spec in samplers or [type(base.sampler).__name__]:
            experiment = _with_sampler(base, spec) if samplers else base
            if experiment is None:
                log(f"{name}: {spec} does not support it")
                continue
            for count in steps if _stepped(experiment, spec) else [None]:
                at = replace(run, experiment=with_steps(experiment, count) if count else experiment)
                row = {"run": name, "process": type(base.process).__name__, "sampler": spec}
                row |= {"steps": count} | _row(at, scorer, words, num, seed)
                rows.append(row)
                log(f"{name}, {spec}: {_cells(row)}")
    return {
        "scorer": scorer_path,
        "scorer_fingerprint": scorer.fingerprint,
        "text": score(scorer, text.reshape(-1, data.length), words),
        "rows": rows,
        "samples": num,
        "seed": seed,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _with_sampler(experiment: Experiment, spec: str) -> Experiment | None:
    """The experiment with the sampler of `spec`, or None where they do not go together."""
    sampler = named(Sampler, experiment.sampler, spec, "--sampler")
    if sampler.compatibility(experiment.process).kind == "unsupported":
        return None
    return replace(experiment, sampler=sampler)


def _stepped(experiment: Experiment, spec: str) -> bool:
    """Whether the sampler has a number of steps that its description leaves open."""
    settings = leaves(experiment.sampler)
    steps = [settings[path] for path in settings if path.split(".")[-1] == "steps"]
    return steps[:1] not in ([], [None]) and "steps=" not in spec


def score(scorer: Run, tokens: np.ndarray, words: frozenset[str]) -> dict[str, float]:
    """What the scorer and counts say of tokens (B, L): bits and entropy of a character, and the share of
    words, those that the ends may have cut left out, which are among `words`."""
    tokenizer = scorer.experiment.data.tokenizer
    nats = -run_log_p(scorer)(tokens).sum(1)
    count = tokenizer.count_characters(tokens.reshape(-1))
    result = Estimate(nats[:, None], np.full(len(tokens), tokens.shape[1]), count)
    of_samples = [word for row in tokens for word in inner_words(tokenizer.decode(row))]
    return {
        "scorer_bits_per_char": result.bits_per_character,
        "standard_error": result.to_bits_per_character(result.standard_error()),
        "real_words": sum(word in words for word in of_samples) / max(len(of_samples), 1),
        "entropy_bits": entropy_bits(np.bincount(tokens.reshape(-1))),
    }


def _row(run: Run, scorer: Run, words: frozenset[str], num: int, seed: int) -> dict:
    experiment = run.experiment
    length = experiment.data.length
    program = make_sample(experiment, run.mesh)
    arguments = (run.params, seed, np.arange(num), np.full(length, -1, np.int32))
    compiled = program.lower(*arguments).compile()
    seconds = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        sampled, _ = jax.tree.map(np.asarray, compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    return score(scorer, sampled.x0, words) | {
        "network_calls": float(sampled.calls.mean()),
        "seconds_per_sample": min(seconds) / num,
    }


def table(record: dict) -> str:
    """The rows in columns, under those of the text."""
    width = max([20, *(len(_name(row)) for row in record["rows"])])
    lines = [
        f"{'':{width}} {'steps':>5} {'calls':>6} {'s/sample':>9} {'scorer':>16} {'entropy':>7} "
        f"{'words':>6}"
    ]
    text = record["text"]
    lines.append(
        f"{'validation text':{width}} {'':5} {'':6} {'':9} {_bits(text):>16} "
        f"{text['entropy_bits']:7.3f} {text['real_words']:6.3f}"
    )
    for row in record["rows"]:
        lines.append(
            f"{_name(row):{width}} {row['steps'] or '':>5} {row['network_calls']:6.1f} "
            f"{row['seconds_per_sample']:9.4f} {_bits(row):>16} {row['entropy_bits']:7.3f} "
            f"{row['real_words']:6.3f}"
        )
    return "\n".join(lines)


def _name(row: dict) -> str:
    return f"{row['run']} {row['sampler']}"


def _bits(row: dict) -> str:
    return f"{row['scorer_bits_per_char']:.3f} +- {row['standard_error']:.3f}"


def _cells(row: dict) -> str:
    steps = f"{row['steps']} steps, " if row["steps"] else ""
    return (
        f"{steps}{row['network_calls']:.4g} calls, {row['seconds_per_sample']:.4f} s a sample, "
        f"{_bits(row)} bits/char under the scorer, entropy {row['entropy_bits']:.3f}, "
        f"{row['real_words']:.3f} real words"
    )
