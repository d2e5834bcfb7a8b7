"""The figure of a comparison: how the validation bound fell, and where each method ended."""

from __future__ import annotations  # the type of a Result is not imported, and no jax with it

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from experiments.errors import UserError

if TYPE_CHECKING:
    from experiments.comparison.methods import Result

# Okabe and Ito's colours, told apart by colour-blind readers too, without yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))


def check_figure(path: Path) -> None:
    """Nothing; UserError where no figure could be drawn, or not in the format of `path`."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise UserError('the plot needs matplotlib; pip install "ddlm[plot]"') from error
    formats = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise UserError(
            f"--plot {path}: the file must end in one of .{', .'.join(sorted(formats))}"
        )


def draw(results: Sequence[Result], title: str, suffix: str) -> bytes:
    """The image, in the format of `suffix` (".png"), of results that are sorted by value."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4 + 0.22 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, result in enumerate(results):
        line, marker = LINES[number // len(COLOURS) % len(LINES)]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": marker, "markersize": 4}
        left.plot(*_columns(result.curve), linestyle=line, label=result.name, **style)
        _end(right, number, result, style)
    left.set(xlabel="step", ylabel="validation bound (bits per character)")
    left.set_ylim(_limits([_columns(result.curve)[1] for result in results]))
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="bits per character, with 2 standard errors")
    right.set_yticks(range(len(results)), [result.name for result in results])
    right.set_ylim(len(results) - 0.5, -0.5)
    right.tick_params(axis="y", length=0)
    for axes in (left, right):
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, handlelength=4)
    figure.suptitle(title.replace("; ", "\n"), fontsize=9)
    image = io.BytesIO()
    figure.savefig(image, format=suffix[1:].lower(), dpi=150)
    return image.getvalue()


def draw_lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    suffix: str,
    log: bool = False,
    log_x: bool = False,
    **labels: str,
) -> bytes:
    """The image of lines by name, each (x, y); log, log_x: of the axes; labels: xlabel, ylabel, title"""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    many = len(series) > 8  # for a legend inside
    figure = Figure(figsize=(10, 5.5) if many else (7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (name, (x, y)) in enumerate(series.items()):
        line, marker = LINES[number // len(COLOURS) % len(LINES)]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(x, y, color=colour, marker=marker, markersize=4, linestyle=line, label=name)
    axes.set(xscale="log" if log_x else "linear", yscale="log" if log else "linear", **labels)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if many:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    else:
        axes.legend(frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format=suffix[1:].lower(), dpi=150)
    return image.getvalue()


def _columns(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    finite = [(step, value) for step, value in curve if math.isfinite(value)]
    return [step for step, _ in finite], [value for _, value in finite]


def _limits(curves: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """(bottom, top), or None for all that there is.

    The median curve is seen from its start and every curve by half; what is much higher, as the start
    of a loose bound may be, is cut off, since it would press the curves together.
    """
    curves = [curve for curve in curves if curve]
    if not curves:
        return None
    low = min(map(min, curves))
    high = max(median(map(max, curves)), *map(median, curves))
    top = high + 0.15 * (high - low)
    return (low - 0.05 * (top - low), top) if low < top < max(map(max, curves)) else None


def _end(axes, row: int, result: Result, style: dict) -> None:
    """Draws the final value of a method, with its bar, in its row."""
    text = "diverged"
    if result.record:
        text = f"{result.record['value']:.3f} {result.record['kind']}"
        error = 2 * (result.record["standard_error"] or 0)
        axes.errorbar(result.value, row, xerr=error, capsize=3, linestyle="none", **style)
    axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
