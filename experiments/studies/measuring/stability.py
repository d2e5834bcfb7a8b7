"""Trainings at rates that are too high, with settings that are said to bear them."""

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.comparison.methods import Result, run_all
from experiments.comparison.plan import Method, Plan, check_alone, method
from experiments.comparison.record_table import markdown
from experiments.config import Experiment
from experiments.data.text import prepare
from experiments.errors import UserError
from experiments.evaluation.record_files import number_text
from experiments.overrides import OverrideError, load, override
from experiments.training.metrics import read_metric

COUNTED = ("diverged", "rises", "skipped", "rollbacks")
RISE = 1.1  # a logged loss has risen if it is above the lowest before by this factor


@dataclass(frozen=True)
class Cell:
    """The runs, one a seed, of a setting at `rate` times the config's learning rate."""

    setting: str
    rate: float
    methods: tuple[Method, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of a cell. result: the bounds; rises: logged losses more than a tenth above the lowest
    before; skipped: steps; rollbacks; each over all seeds."""

    cell: Cell
    result: Result
    rises: int
    skipped: int
    rollbacks: int


def make_cells(
    workdir: Path,
    config: str,
    overrides: Sequence[str],
    rates: Sequence[float],
    settings: Sequence[str],
    seeds: int,
) -> tuple[list[Cell], Plan]:
    """The cells, of each setting all rates, and the plan that trains them. UserError for all that can be
    known to be wrong before; nothing in `workdir` is written."""
    base = load(config, overrides)
    check_alone("this config", base)
    schedule = vars(base.optimizer.schedule)
    if not schedule.get("peak_lr"):
        raise UserError("this config's optimizer.schedule has no peak_lr; choose a config with one")
    corpus = prepare(base.data)
    for split in ("train", "validation"):
        corpus.check_split(split, base.data.length if base.data.rows == "wrap" else 1)
    cells = []
    for words in dict.fromkeys(settings):
        try:
            changed = override(base, words.split())
        except OverrideError as error:
            raise UserError(error.what, error.advice, f"--setting {error.setting}") from error
        for rate in dict.fromkeys(rates):
            raised = f"optimizer.schedule.peak_lr={rate * schedule['peak_lr']!r}"
            experiment = override(changed, [raised])
            name = f"{re.sub(r'[^A-Za-z0-9.=_-]+', '-', words) or 'base'}-x{rate:g}"
            runs = [method(workdir, name, experiment, corpus, seed) for seed in range(seeds)]
            cells.append(Cell(words, rate, tuple(runs)))
    methods = [run for cell in cells for run in cell.methods]
    return cells, Plan(workdir, methods, corpus, "validation", base.evaluation)


def those_that_change(config: str, overrides: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Those of the settings that the config can be given, and that change it."""
    base: Experiment = load(config, overrides)
    fitting = []
    for words in settings:
        with contextlib.suppress(UserError):
            if override(base, words.split()) != base:
                fitting.append(words)
    return fitting


def measure(cells: Sequence[Cell], plan: Plan, log: Callable[[str], None]) -> list[Outcome]:
    """What came of each cell, in their order, once all are trained and evaluated."""
    by_name = {result.name: result for result in run_all(plan, log)}
    return [_outcome(cell, by_name[cell.methods[0].name]) for cell in cells]


def _outcome(cell: Cell, result: Result) -> Outcome:
    def total(name: str) -> int:
        curves = [read_metric(method.directory, name) for method in cell.methods]
        return int(sum(curve[-1][1] for curve in curves if curve))

    losses = [read_metric(m.directory, "train/loss_nats_per_token") for m in cell.methods]
    rises = sum(_rises([value for _, value in curve]) for curve in losses)
    return Outcome(cell, result, rises, total("train/skipped_steps"), total("train/rollbacks"))


def _rises(losses: Sequence[float]) -> int:
    lowest, count = math.inf, 0
    for loss in losses:
        count += loss > RISE * lowest
        lowest = min(lowest, loss)
    return count


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a Markdown table; no final newline."""
    header = ["setting", "rate", unit(outcomes), "standard error", *COUNTED]
    return markdown([header, *map(_row, outcomes)], ("setting",))


def unit(outcomes: Sequence[Outcome]) -> str:
    """That of the bounds."""
    return next((record["unit"] for o in outcomes for record in o.result.done), "bound")


def _row(o: Outcome) -> list[str]:
    measured, lost = o.result.measured(), len(o.result.records) - len(o.result.done)
    error = None if math.isnan(measured.error) else measured.error
    value = "-" if lost else f"{measured.mean:.4f}"
    numbers = [f"{lost} of {len(o.result.records)}", o.rises, o.skipped, o.rollbacks]
    setting = o.cell.setting or "as the config"
    return [setting, f"x {o.cell.rate:g}", value, number_text(error, ".4f"), *map(str, numbers)]


def lines(outcomes: Sequence[Outcome]) -> dict[str, tuple[list[float], list[float]]]:
    """(rates, values) by setting, of the cells in which no run diverged."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for o in outcomes:
        x, y = series.setdefault(o.cell.setting or "as the config", ([], []))
        if math.isfinite(o.result.value):
            x.append(o.cell.rate)
            y.append(o.result.value)
    return series
