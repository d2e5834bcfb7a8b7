"""Trainings that see a text many times, evaluated on it and on held-out text as they go on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.comparison.plan import Method, Plan, make_plan
from experiments.comparison.record_table import markdown
from experiments.comparison.seeds import OverSeeds, over_seeds
from experiments.data.rows import Rows
from experiments.data.text import prepare
from experiments.errors import Diverged, UserError
from experiments.evaluation.bound import evaluate_run
from experiments.evaluation.estimators import times_per_sequence
from experiments.evaluation.record_files import (
    number_text,
    record_path,
    stored_record,
    write_record,
)
from experiments.overrides import load
from experiments.run import restore_run
from experiments.training.checkpoints import Checkpoints
from experiments.training.trainer import train

Log = Callable[[str], None]
SEED = 0  # of times and noise in the evaluation
TRAIN, HELD_OUT = "train", "validation"


@dataclass(frozen=True)
class Study:
    """The runs, and (epochs, the step after which so many were seen) of each evaluation, rising."""

    plan: Plan
    steps: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Point:
    """A method after so many epochs: its records on the text it was trained on and on held-out text, one
    of each seed."""

    name: str
    epochs: float
    step: int
    train: tuple[dict, ...]
    held_out: tuple[dict, ...]

    def measured(self) -> tuple[OverSeeds, OverSeeds]:
        """The values of both, over seeds."""
        return _over_seeds(self.train), _over_seeds(self.held_out)


def _over_seeds(records: Sequence[dict]) -> OverSeeds:
    errors = [math.nan if r["standard_error"] is None else r["standard_error"] for r in records]
    return over_seeds([(r["value"], e) for r, e in zip(records, errors, strict=True)])


def make_study(
    workdir: Path,
    configs: Sequence[str],
    overrides: Sequence[str],
    tokens: int,
    epochs: Sequence[float],
    seeds: int,
) -> Study:
    """The study on so many tokens of training text; UserError for all that can be known to be wrong
    before training. Nothing in `workdir` is written."""
    settings = [*overrides, f"data.train_tokens={tokens}"]
    base = load(configs[0], settings)
    if base.data.sources:
        raise UserError(
            f"data.sources = {base.data.sources}: each text of a mixture has epochs of its own",
            "give one text with data.path",
        )
    text = prepare(base.data).sequences("train", base.data.length, base.data.rows)
    examples = len(text) if isinstance(text, Rows) else len(text) // base.data.length
    of_step = examples / base.train.batch_size
    steps = {max(1, round(epoch * of_step)): epoch for epoch in sorted(set(epochs), reverse=True)}
    last = max(steps)
    settings += [
        f"train.num_steps={last}",
        f"train.eval_every={last + 1}",
        f"train.checkpoint_every={last + 1}",
    ]
    plan = make_plan(workdir, configs, settings, HELD_OUT, seeds=seeds)
    return Study(plan, tuple((steps[step], step) for step in sorted(steps)))


def measure(study: Study, max_sequences: int, log: Log) -> list[Point]:
    """The points of all methods in their order, once all are trained and evaluated; a run that diverged
    has none from there on."""
    found: dict[tuple[str, int], list[tuple[dict, dict]]] = {}
    for number, method in enumerate(study.plan.methods, 1):
        log(f"\n{number}/{len(study.plan.methods)}  {method.directory.name}\n")
        try:
            for _, step in study.steps:
                pair = _records(method, step, max_sequences, log)
                found.setdefault((method.name, step), []).append(pair)
        except Diverged as error:
            log(f"{method.directory.name} diverged: {error}")
    return [
        Point(name, epochs, step, *zip(*found[name, step], strict=True))
        for name in dict.fromkeys(method.name for method in study.plan.methods)
        for epochs, step in study.steps
        if (name, step) in found
    ]


def _records(method: Method, step: int, max_sequences: int, log: Log) -> tuple[dict, dict]:
    """The records of a run at `step`, on the training text and held out, as far as they are there, else
    made now."""
    experiment, directory = method.experiment, method.directory
    apart = [f"max_sequences={max_sequences}"]
    paths = {name: record_path(directory, name, step, apart) for name in (TRAIN, HELD_OUT)}
    times = times_per_sequence(method.resolved)
    records = {name: stored_record(path) for name, path in paths.items()}
    missing = [name for name, r in records.items() if r.get("num_times") != times]
    if not missing:
        log(f"step {step} is evaluated already")
        return records[TRAIN], records[HELD_OUT]
    kept = Checkpoints(directory / "checkpoints").steps()
    if max(kept, default=0) > step and step not in kept:
        raise UserError(
            f"{directory} is at step {max(kept)} already and has no checkpoint of step {step}",
            "leave that number of epochs out, or choose another --workdir",
        )
    if step not in kept:
        part = replace(experiment, train=replace(experiment.train, num_steps=step))
        train(part, directory, log, reading=None)
    run = restore_run(directory, step, method.resolved)
    for name in missing:
        records[name] = evaluate_run(run, name, SEED, True, log, max_sequences)
        log(write_record(paths[name], records[name]))
    return records[TRAIN], records[HELD_OUT]


def table(points: Sequence[Point]) -> str:
    """The points as a Markdown table; no final newline."""
    header = ["method", "kind", "epochs", "steps", "seeds", "train", "held out", "difference"]
    return markdown([header, *map(_row, points)], ("method", "kind"))


def _row(point: Point) -> list[str]:
    of_train, held_out = point.measured()
    return [
        point.name,
        point.held_out[0]["kind"],
        f"{point.epochs:g}",
        f"{point.step:,}",
        str(held_out.count),
        *(_with_error(value) for value in (of_train, held_out)),
        f"{held_out.mean - of_train.mean:.3f}",
    ]


def _with_error(value: OverSeeds) -> str:
    error = None if math.isnan(value.error) else value.error
    return f"{value.mean:.3f} ± {number_text(error, '.3f')}"


def answers(points: Sequence[Point]) -> str:
    """A line for each method: where its held-out value is lowest, and how it ended."""
    said = []
    for name in dict.fromkeys(point.name for point in points):
        curve = [(p.epochs, p.measured()[1].mean) for p in points if p.name == name]
        (best, low), (last, end) = min(curve, key=lambda at: at[1]), curve[-1]
        then = f"; {end - low:.3f} more after {last:g}" if end > low else ", the last"
        said.append(f"{name}: lowest held out after {best:g} epochs, {low:.3f}{then}")
    return "\n".join(said)


def unit(points: Sequence[Point]) -> str:
    """That of the values."""
    return points[0].held_out[0]["unit"] if points else "bound"


def lines(points: Sequence[Point]) -> dict[str, tuple[list[float], list[float]]]:
    """(epochs, values) by method and text."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for point in points:
        values = zip((", train", ", held out"), point.measured(), strict=True)
        for name, value in values:
            x, y = series.setdefault(point.name + name, ([], []))
            x.append(point.epochs)
            y.append(value.mean)
    return series
