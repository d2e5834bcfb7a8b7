"""Samples judged by an autoregressive scorer, with their entropy and their cost beside it."""

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.autoregressive import Autoregressive
from experiments.data.text import prepare
from experiments.errors import UserError
from experiments.evaluation import spread
from experiments.runs import Run, load_run
from experiments.sampling import make_sample, with_steps
from experiments.settings import leaves, override
from experiments.units import bits_per_character

_TIMED = 2  # rounds, of which the fastest counts


def measure(given: Namespace, log: Callable[[str], None]) -> dict:
    """The record of `experiments.few_steps`: the settings, the scorer's text, and a row per program."""
    scorer = load_run(given.scorer)
    if not isinstance(scorer.experiment.process, Autoregressive):
        found = type(scorer.experiment.process).__name__
        raise UserError(
            f"--scorer {given.scorer} holds process {found}; a scorer is Autoregressive"
        )
    runs = {Path(workdir).name: load_run(workdir) for workdir in given.workdir}
    for name, run in runs.items():
        if run.experiment.data.tokenizer != scorer.experiment.data.tokenizer:
            raise UserError(f"{name} was trained on another alphabet than the scorer")
    data = scorer.experiment.data
    text = spread(prepare(data).split("validation", data.length), data.length, given.num)
    for setting in given.set:
        if not any(setting.partition("=")[0] in leaves(run.experiment) for run in runs.values()):
            override(next(iter(runs.values())).experiment, [setting])  # says what is wrong with it
    rows = []
    for name, run in runs.items():
        chosen = [s for s in given.set if s.partition("=")[0] in leaves(run.experiment)]
        run = replace(run, experiment=override(run.experiment, chosen))
        stepped = "steps" in {path.split(".")[-1] for path in leaves(run.experiment.sampler)}
        for steps in given.steps if stepped else [None]:
            at = replace(run, experiment=with_steps(run.experiment, steps)) if stepped else run
            row = {"run": name, "process": type(run.experiment.process).__name__, "steps": steps}
            row |= _row(at, scorer, given.num, given.seed)
            rows.append(row)
            log(f"{name}: {_cells(row)}")
    return {
        "scorer": given.scorer,
        "scorer_fingerprint": scorer.fingerprint,
        "text": judge(scorer, text.reshape(-1, data.length)),
        "rows": rows,
        "samples": given.num,
        "seed": given.seed,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def judge(scorer: Run, tokens: np.ndarray) -> dict[str, float]:
    """What the scorer and a count of characters say of tokens (B, L)."""
    experiment = scorer.experiment

    @jax.jit
    def log_p(params, tokens):
        return experiment.process.log_p(experiment.network(params), tokens).sum(1)

    nats = -np.asarray(log_p(scorer.params, jnp.asarray(tokens)))
    count = scorer.experiment.data.tokenizer.count_characters(tokens.reshape(-1))
    share = np.bincount(tokens.reshape(-1)) / tokens.size
    share = share[share > 0]
    mean = nats.sum() / tokens.size
    error = nats.std(ddof=1) / np.sqrt(len(nats)) / tokens.shape[1] if len(nats) > 1 else np.nan
    return {
        "scorer_bits_per_char": bits_per_character(mean, tokens.size, count),
        "standard_error": bits_per_character(error, tokens.size, count),
        "entropy_bits": float(-(share * np.log2(share)).sum()),
    }


def _row(run: Run, scorer: Run, num: int, seed: int) -> dict:
    experiment = run.experiment
    length = experiment.data.length
    program = make_sample(experiment, run.mesh)
    arguments = (run.params, seed, np.arange(num), np.full(length, -1, np.int32))
    compiled = program.lower(*arguments).compile()
    seconds = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        sampled = jax.tree.map(np.asarray, compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    return judge(scorer, sampled.x0) | {
        "network_calls": float(sampled.calls.mean()),
        "seconds_per_sample": min(seconds) / num,
    }


def table(record: dict) -> str:
    """The rows in columns, under those of the text."""
    lines = [f"{'':20} {'steps':>5} {'calls':>6} {'s/sample':>9} {'scorer':>16} {'entropy':>7}"]
    text = record["text"]
    lines.append(
        f"{'validation text':20} {'':5} {'':6} {'':9} {_bits(text):>16} {text['entropy_bits']:7.3f}"
    )
    for row in record["rows"]:
        lines.append(
            f"{row['run'][:20]:20} {row['steps'] or '':>5} {row['network_calls']:6.1f} "
            f"{row['seconds_per_sample']:9.4f} {_bits(row):>16} {row['entropy_bits']:7.3f}"
        )
    return "\n".join(lines)


def _bits(row: dict) -> str:
    return f"{row['scorer_bits_per_char']:.3f} +- {row['standard_error']:.3f}"


def _cells(row: dict) -> str:
    steps = f"{row['steps']} steps, " if row["steps"] else ""
    return (
        f"{steps}{row['network_calls']:.4g} calls, {row['seconds_per_sample']:.4f} s a sample, "
        f"{_bits(row)} bits/char under the scorer, entropy {row['entropy_bits']:.3f}"
    )
