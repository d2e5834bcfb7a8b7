"""Several methods on the same budget: each trained, then evaluated over a whole split, in one table.

What is finished lies in the run directories, so a comparison that was interrupted continues when it is
run again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from experiments.comparison.plan import Method, Plan
from experiments.comparison.record_groups import full_context
from experiments.data.tokenizers import COUNTED
from experiments.errors import Diverged
from experiments.evaluation.bound import evaluate_run
from experiments.evaluation.record_files import (
    number_text,
    record_path,
    stored_record,
    write_record,
)
from experiments.evaluation.units import CHARACTERS, bits_per_character
from experiments.labels import gives_labels
from experiments.run import restore_run
from experiments.training.checkpoints import Checkpoints
from experiments.training.metrics import read_metric
from experiments.training.trainer import train

Log = Callable[[str], None]
SEED = 0  # of times and noise in the evaluation, the default of `experiments.evaluate`
TERMS = ("prior", "reconstruction")


@dataclass(frozen=True)
class Result:
    """What a run gave. record: None where it diverged; curve: (step, validation bound)."""

    name: str
    process: str
    record: dict | None
    curve: list[tuple[int, float]]
    tokens_per_s: float | None

    @property
    def value(self) -> float:
        """Bits per character; infinite where the run diverged, so that it sorts last."""
        return self.record["value"] if self.record else math.inf


def run_all(plan: Plan, log: Log = print) -> list[Result]:
    """The results, the lowest value first; a run that diverged does not end the comparison."""
    results = []
    for number, method in enumerate(plan.methods, 1):
        log(f"\n{number}/{len(plan.methods)}  {method.name}\n")
        directory = plan.workdir / method.name
        try:
            train(method.experiment, directory, log, method.reading)
            record = _evaluate(plan, method, log)
        except Diverged as error:
            log(f"{method.name} diverged: {error}")
            record = None
        speeds = [speed for _, speed in read_metric(directory, "perf/tokens_per_s")]
        results.append(
            Result(
                method.name,
                type(method.experiment.process).__name__,
                record,
                read_metric(directory, "eval/bound_bits_per_char")
                or read_metric(directory, "eval/bound_bits_per_byte"),
                median(speeds) if speeds else None,
            )
        )
    return sorted(results, key=lambda result: result.value)


def _evaluate(plan: Plan, method: Method, log: Log) -> dict:
    """The record of the last checkpoint, from the run directory or made now."""
    directory, step = plan.workdir / method.name, method.experiment.train.num_steps
    path = record_path(directory, plan.split, step)
    experiment = replace(method.resolved, evaluation=plan.evaluation)
    record = {"labels": "none"} | stored_record(path)  # which old records do not say
    identity = {
        "checkpoint_fingerprint": Checkpoints(directory / "checkpoints").fingerprint(step),
        "checkpoint_step": step,
        "ema": True,
        "labels": "given" if gives_labels(experiment) else "none",
        "num_times": plan.evaluation.num_times,
        "seed": SEED,
        "split": plan.split,
        "split_sha256": plan.corpus.sha256[plan.split],
    }
    same = all(record.get(name) == value for name, value in identity.items())
    if same and full_context(record)["counted"] == COUNTED:
        log(f"already evaluated: {path}")
        return record
    run = restore_run(directory, step, experiment)
    record = evaluate_run(run, plan.split, SEED, ema=True, log=log)
    log(write_record(path, record))
    return record


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table with aligned columns, in their order; no final newline."""
    recorded = set().union(*(r.record["terms_nats_per_token"] for r in results if r.record))
    terms = [name for name in TERMS if name in recorded]
    units = [result.record.get("unit") for result in results if result.record]
    header = ["method", "kind", next(filter(None, units), CHARACTERS), "standard error"]
    header += [f"of which {name}" for name in terms] + ["training tokens/s"]
    rows = [header, *(_row(result, terms) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * w if i < 2 else "-" * (w - 1) + ":" for i, w in enumerate(widths)])
    sides = [str.ljust if i < 2 else str.rjust for i in range(len(widths))]
    text = [[pad(c, w) for pad, c, w in zip(sides, row, widths, strict=True)] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in text)


def _row(result: Result, terms: Sequence[str]) -> list[str]:
    speed = "-" if result.tokens_per_s is None else f"{result.tokens_per_s:,.0f}"
    method, record = f"{result.name} ({result.process})", result.record
    if record is None:
        return [method, "-", "diverged", "-", *("-" for _ in terms), speed]
    cells = [
        method,
        record["kind"],
        f"{record['value']:.4f}",
        number_text(record["standard_error"], ".4f"),
    ]
    for name in terms:
        nats = record["terms_nats_per_token"].get(name, math.nan)
        otherwise = record.get("unit", CHARACTERS) != CHARACTERS  # per byte or token
        count = record["tokens" if otherwise else "characters"]
        bits = bits_per_character(nats, record["tokens"], count)
        cells.append("-" if math.isnan(bits) else f"{bits:.4f}")
    return [*cells, speed]
