"""What is printed and drawn of a ladder: its runs, the fit, a prediction and what came of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.comparison.methods import Result
from experiments.comparison.record_table import markdown
from experiments.data.corpus import Corpus
from experiments.evaluation.record_files import number_text
from experiments.figure import draw_lines
from experiments.ladders.fit import Fit, Undetermined, fit
from experiments.ladders.ladder import Rung

EQUAL = (
    "Runs of a budget take equal FLOPs: those of all matrix products of training, forward and backward. "
    "Parameters are without tables that are looked up."
)
REPEATED = (
    "Where epochs exceed 1 the text is seen again, and L(N, D), which takes every token to be new, does "
    "not hold for it."
)
FEW = 300  # steps
PLANNED = ("size", "FLOPs", "parameters", "tokens", "epochs", "steps")


@dataclass(frozen=True)
class Point:
    """A run with its result: value in `unit`, infinite where it diverged, and its standard error over
    the text, None where it is unknown."""

    rung: Rung
    value: float
    error: float | None
    unit: str


def points(rungs: Sequence[Rung], results: Sequence[Result]) -> list[Point]:
    """The runs in the order of the rungs with their results."""
    by_name = {result.name: result.records[0] for result in results}
    found = []
    for rung in rungs:
        record = by_name[rung.method.name]
        found.append(
            Point(rung, record["value"], record["standard_error"], record["unit"])
            if record
            else Point(rung, math.inf, None, "")
        )
    return found


def fitted(measured: Sequence[Point]) -> Fit | Undetermined:
    """The fit to the runs that did not diverge, or why there is none."""
    used = [p for p in measured if math.isfinite(p.value)]
    rungs = [p.rung for p in used]
    try:
        return fit(
            [r.parameters for r in rungs], [r.tokens for r in rungs], [p.value for p in used]
        )
    except Undetermined as error:
        return error


def table(measured: Sequence[Point], found: Fit | Undetermined, corpus: Corpus) -> str:
    """The runs as a Markdown table, the fit below it; no final newline."""
    unit = next((p.unit for p in measured if p.unit), "bits per character")
    rows = [[*PLANNED, unit, "standard error", *(["fit"] if isinstance(found, Fit) else [])]]
    for p in measured:
        r, diverged = p.rung, math.isinf(p.value)
        row = _planned(r, corpus)
        row += ["diverged", "-"] if diverged else [f"{p.value:.4f}", number_text(p.error, ".4f")]
        row += [f"{found.loss(r.parameters, r.tokens):.4f}"] if isinstance(found, Fit) else []
        rows.append(row)
    notes = _notes([p.rung for p in measured], corpus)
    return "\n\n".join([markdown(rows, ("size",)), *notes, _fit(found, measured)])


def plan_table(rungs: Sequence[Rung], corpus: Corpus) -> str:
    """The runs before they are trained as a Markdown table; no final newline."""
    rows = [[*PLANNED], *(_planned(rung, corpus) for rung in rungs)]
    return "\n\n".join([markdown(rows, ("size",)), *_notes(rungs, corpus)])


def _planned(rung: Rung, corpus: Corpus) -> list[str]:
    sizes = [rung.size, f"{rung.flops:.3g}", f"{rung.parameters:,}", f"{rung.tokens:,}"]
    return [*sizes, f"{rung.tokens / _training_tokens(corpus):.2g}", f"{rung.steps:,}"]


def _training_tokens(corpus: Corpus) -> int:
    start, end = corpus.bounds["train"]
    return end - start


def _notes(rungs: Sequence[Rung], corpus: Corpus) -> list[str]:
    repeated = any(rung.tokens > _training_tokens(corpus) for rung in rungs)
    short = [
        f"{rung.size} with {rung.budget:g} ({rung.steps})" for rung in rungs if rung.steps < FEW
    ]
    few = f"Fewer than {FEW} steps say little of a size: {', '.join(short)}. Raise the budget."
    return [EQUAL, *([REPEATED] if repeated else []), *([few] if short else [])]


def _fit(found: Fit | Undetermined, measured: Sequence[Point]) -> str:
    if isinstance(found, Undetermined):
        return f"No fit of L(N, D) = E + A / N^a + B / D^b: {found}."
    e, a_factor, a, b_factor, b = found.constants
    used = sum(math.isfinite(p.value) for p in measured)
    intervals = [
        f"{what} {value:.3g} ({low:.3g} to {high:.3g})"
        for what, (value, low, high) in (
            ("E", found.interval("E")),
            ("a", found.interval("a")),
            ("b", found.interval("b")),
        )
    ]
    best, low, high = found.interval("best")
    return (
        f"Fit of {used} runs: L(N, D) = {e:.4g} + {a_factor:.4g} / N^{a:.3g} + {b_factor:.4g} / "
        f"D^{b:.3g} of N parameters and D tokens; runs lie about it by {100 * found.noise:.2g} %. With "
        f"95 % intervals: {', '.join(intervals)}. The best N at C FLOPs grows as C^{best:.2f} "
        f"({low:.2f} to {high:.2f}). Intervals are of the noise of runs on this text, of one recipe and "
        "one seed, and take the form of L to be true."
    )


def prediction(found: Fit, rung: Rung, unit: str) -> str:
    """What a run is predicted to give, in one line."""
    value, low, high = found.predict(rung.parameters, rung.tokens)
    return (
        f"Next, {rung.size} with {rung.flops:.3g} FLOPs, {rung.parameters:,} parameters and "
        f"{rung.tokens:,} tokens: predicted {value:.4f} {unit}, 95 % from {low:.4f} to {high:.4f}."
    )


def checked(found: Fit, point: Point) -> str:
    """What it gave, beside the prediction."""
    if math.isinf(point.value):
        return "Measured: it diverged."
    value, low, high = found.predict(point.rung.parameters, point.rung.tokens)
    where = "inside" if low <= point.value <= high else "outside"
    return (
        f"Measured {point.value:.4f} +- {number_text(point.error, '.4f')}, predicted {value:.4f}: "
        f"{point.value - value:+.4f}, {where} the interval."
    )


def draw(
    measured: Sequence[Point],
    found: Fit | Undetermined,
    check: Point | None,
    title: str,
    suffix: str,
) -> bytes:
    """The image, in the format of `suffix` (".png"): the value over parameters, a line a budget."""
    series: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    unit = next((p.unit for p in measured if p.unit), "")
    for budget in dict.fromkeys(p.rung.budget for p in measured):
        of_budget = [p for p in measured if p.rung.budget == budget and math.isfinite(p.value)]
        of_budget.sort(key=lambda p: p.rung.parameters)
        sizes = [p.rung.parameters for p in of_budget]
        series[f"{budget:g} FLOPs"] = sizes, [p.value for p in of_budget]
        if isinstance(found, Fit) and of_budget:
            series[f"{budget:g} FLOPs, fit"] = _curve(found, of_budget)
    if check is not None and isinstance(found, Fit):
        r = check.rung
        series[f"{r.size}, predicted"] = [r.parameters], [found.loss(r.parameters, r.tokens)]
        if math.isfinite(check.value):
            series[f"{r.size}, measured"] = [r.parameters], [check.value]
    return draw_lines(series, suffix, log_x=True, xlabel="parameters", ylabel=unit, title=title)


def _curve(found: Fit, of_budget: Sequence[Point]) -> tuple[Sequence[float], Sequence[float]]:
    """The fit along a budget, between its smallest and largest size; tokens as a power of the size."""
    sizes = np.array([p.rung.parameters for p in of_budget], float)
    tokens = np.array([p.rung.tokens for p in of_budget], float)
    between = np.geomspace(sizes[0], sizes[-1], 9)
    at = np.exp(np.interp(np.log(between), np.log(sizes), np.log(tokens)))
    return between.tolist(), [found.loss(n, d) for n, d in zip(between, at, strict=True)]
