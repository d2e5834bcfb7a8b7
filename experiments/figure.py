"""The figure of a comparison: how the validation bound fell, and where each method ended."""

from __future__ import annotations  # the type of a Result is not imported, and no jax with it

import io
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from experiments.comparison.methods import Result

    Numbers = Sequence[float] | np.ndarray

# Okabe and Ito's colours, told apart by colour-blind readers too, without yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_WIDTH = 36  # characters of a line of a name
LINES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))


def check_figure(path: Path | None = None, option: str = "--plot") -> None:
    """Nothing; UserError where no figure could be drawn, or not in the format of `path`, which the
    option names."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise UserError('no matplotlib; in the repository: pip install -e ".[plot]"') from error
    formats = FigureCanvasAgg.get_supported_filetypes()
    if path and path.suffix[1:].lower() not in formats:
        raise UserError(
            f"{option} {path}: the file must end in one of .{', .'.join(sorted(formats))}"
        )


def image(figure: Figure, suffix: str) -> bytes:
    """The figure in the format of `suffix` (".png"), the same at any date."""
    import matplotlib

    content, form = io.BytesIO(), suffix[1:].lower()
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "ddlm"}):
        figure.savefig(content, format=form, dpi=150, metadata=dated.get(form))
    return content.getvalue()


def draw(results: Sequence[Result], title: str, suffix: str) -> bytes:
    """The image, in the format of `suffix` (".png"), of results that are sorted by value."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = short_names([result.name for result in results])
    curves = [[_columns(curve) for curve in result.curves] for result in results]
    evaluated = any(values for of_seeds in curves for _, values in of_seeds)  # while they trained
    height = 3 + 0.4 * len(results) * (1 + max(name.count("\n") for name in names)) ** 0.5
    figure = Figure(figsize=(11 if evaluated else 7, height), layout="constrained")
    FigureCanvasAgg(figure)
    *left, right = figure.subplots(1, 1 + evaluated, squeeze=False)[0]
    handles = []
    for number, (result, of_seeds) in enumerate(zip(results, curves, strict=True)):
        line, marker = LINES[number // len(COLOURS) % len(LINES)]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": marker, "markersize": 4}
        for axes in left:
            first, *_ = [axes.plot(*curve, linestyle=line, **style) for curve in of_seeds]
            handles += first
        _end(right, number, result, style)
    for axes in left:
        axes.set(xlabel="step", ylabel="validation bound (bits per character)")
        axes.set_ylim(limits([values for of_seeds in curves for _, values in of_seeds]))
        axes.xaxis.get_major_locator().set_params(integer=True)
        draw_legend(figure, handles, names)
    right.set(xlabel="bits per character, with 2 standard errors")
    right.set_yticks(range(len(results)), names, fontsize=9, parse_math=False)  # a $ is a $
    right.set_ylim(len(results) - 0.5, -0.5)
    right.tick_params(axis="y", length=0)
    for axes in (*left, right):
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    lines = [textwrap.fill(part, 130 if evaluated else 80) for part in title.split("; ")]
    figure.suptitle("\n".join(lines), fontsize=9, parse_math=False)
    return image(figure, suffix)


def draw_legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Nothing; the legend is below all axes, in as many columns as the figure is wide enough for.
    handles: what is drawn, and has the names, whatever these are."""
    longest = max(len(line) for name in names for line in name.split("\n"))
    columns = max(1, min(4, 120 // (longest + 9)))
    legend = figure.legend(
        handles,
        ["name"] * len(names),  # matplotlib drops what begins with _
        loc="outside lower center",
        ncols=columns,
        fontsize=9,
        handlelength=4,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, parse_math=False)


def short_names(names: Sequence[str]) -> list[str]:
    """The names as they fit beside an axis: without a long beginning that all have, on up to three
    lines; of a longer one the middle is left out."""
    alike = os.path.commonprefix(list(names))  # noqa: RUF071, these are no paths
    common = alike if len(names) > 1 else ""
    start = 1 + max(common.rfind(mark) for mark in "/-_. ")
    start = start if start >= 12 else 0
    short = []
    for name in names:
        name = f"…{name[start:]}" if start else name
        if len(name) > 3 * _WIDTH:
            name = f"{name[: 3 * _WIDTH // 2 - 4]}…{name[4 - 3 * _WIDTH // 2 :]}"
        short.append("\n".join(textwrap.wrap(name, _WIDTH)[:3]) or name)
    return short


def draw_lines(
    series: Mapping[str, tuple[Numbers, Numbers]],
    suffix: str,
    log: bool = False,
    log_x: bool = False,
    **labels: str,
) -> bytes:
    """The image of lines by name, each (x, y); log, log_x: of the axes; labels: xlabel, ylabel, title"""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = short_names(list(series))
    many = len(series) > 8 or any("\n" in name for name in names)  # for a legend inside
    figure = Figure(figsize=(10, 5.5) if many else (7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (name, (x, y)) in enumerate(zip(names, series.values(), strict=True)):
        line, marker = LINES[number // len(COLOURS) % len(LINES)]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(x, y, color=colour, marker=marker, markersize=4, linestyle=line, label=name)
    axes.set(xscale="log" if log_x else "linear", yscale="log" if log else "linear", **labels)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if many:
        legend = figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    else:
        legend = axes.legend(frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return image(figure, suffix)


def _columns(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    finite = [(step, value) for step, value in curve if math.isfinite(value)]
    return [step for step, _ in finite], [value for _, value in finite]


def limits(curves: Sequence[Sequence[float]]) -> tuple[float, float] | None:
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
    if len(result.done) == len(result.records):
        measured = result.measured()
        text = f"{measured.mean:.3f} {result.done[0]['kind']}"
        error = 2 * measured.error if math.isfinite(measured.error) else 0
        axes.errorbar(measured.mean, row, xerr=error, capsize=3, linestyle="none", **style)
        if measured.count > 1:  # a tick for each seed
            seeds = [record["value"] for record in result.done]
            tick = style | {"marker": "|", "markersize": 9}
            axes.plot(seeds, [row] * len(seeds), linestyle="none", **tick)
    axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
