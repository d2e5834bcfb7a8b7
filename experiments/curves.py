"""The curves of trainings: what `ddlm plot`, `Run.plot` and the end of a training draw."""

from __future__ import annotations  # the type of a Figure is not imported, and matplotlib with it

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.errors import UserError, shortened
from experiments.figure import (
    COLOURS,
    LINES,
    check_figure,
    draw_legend,
    image,
    limits,
    short_names,
)
from experiments.files import write_atomically
from experiments.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Metrics = Mapping[str, tuple[np.ndarray, np.ndarray]]

# Blue is too dark on black, and black is not seen.
_ON_DARK = ("#56B4E9", "#E69F00", "#00C08B", "#CC79A7", "#F0E442", "#FF7F45", "#FFFFFF")
THEMES = {  # paper, ink, lines of the grid, colours of the runs
    "light": ("#ffffff", "#1b1d21", "#dddddd", COLOURS),
    "dark": ("#15171b", "#e8eaee", "#3d434d", _ON_DARK),
}
_AXES = {
    "at_times": ("nats per token at time t", "t, from data (0) to noise (1)"),
    "at_positions": ("nats per token at a position", "share of the sequence before it"),
}


@dataclass(frozen=True)
class Curve:
    """Values over steps, or over what xlabel says; error: two standard errors of each, where known;
    falls: whether what is far above the rest, as a start is, may be cut off."""

    x: np.ndarray
    y: np.ndarray
    error: np.ndarray | None = None
    xlabel: str = "step"
    falls: bool = True


Curves = Mapping[str, Curve]


def read_curves(workdir: Path) -> Curves:
    """The curves of the run in `workdir`, as `main_curves`; UserError where there are none."""
    if not (workdir / "metrics.jsonl").is_file():
        raise UserError(f"{workdir}: it has no metrics.jsonl; give a run directory")
    curves = main_curves(read_metrics(workdir))
    if not curves:
        raise UserError(
            f"{workdir / 'metrics.jsonl'}: it has no measurements yet; train for longer"
        )
    return curves


def main_curves(metrics: Metrics) -> Curves:
    """What most look at, by the titles of their panels: losses, bounds with their errors, gradient norm,
    speed, and of the last evaluation how many nats a token has at each time and position, the mean of
    which is the bound."""
    found = {}
    for name, title in (
        ("train/loss_nats_per_token", "training loss (nats per token)"),
        *((n, _title(n)) for n in metrics if f"{n}_se" in metrics),
        ("train/grad_norm", "gradient norm"),
        ("perf/tokens_per_s", "tokens per second"),
    ):
        if name in metrics:
            steps, values = metrics[name]
            known = dict(zip(*metrics.get(f"{name}_se", ((), ())), strict=True))
            error = np.array([2 * known.get(step, np.nan) for step in steps]) if known else None
            found[title] = Curve(steps, values, error, falls=not name.startswith("perf/"))
    for kind, (title, xlabel) in _AXES.items():
        last = [
            values[-1] for name, (_, values) in metrics.items() if name.startswith(f"eval_{kind}/")
        ]
        if last:
            middles = (np.arange(len(last)) + 0.5) / len(last)
            found[title] = Curve(middles, np.array(last) * len(last), None, xlabel)
    return found


def _title(name: str) -> str:
    """That of the panel of an evaluation, eval/bound_bits_per_char."""
    what, _, unit = name.removeprefix("eval/").partition("_")
    return f"validation {what} ({unit.replace('_', ' ')})"


def draw_curves(runs: Mapping[str, Curves], theme: str = "light") -> Figure:
    """The figure of matplotlib of runs by their names: a panel for each curve, in which all runs are
    that have it; theme: one of THEMES. UserError where there is no curve, or no such theme."""
    check_figure()
    if theme not in THEMES:
        raise UserError(f"unknown theme {theme!r}; choose one of {', '.join(THEMES)}")
    if not any(runs.values()):
        raise UserError(f"{', '.join(runs)}: no measurements yet; train for longer")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paper, ink, grid, colours = THEMES[theme]
    labels = dict(zip(runs, short_names(list(runs)), strict=True))
    fullest = sorted(runs.values(), key=len, reverse=True)
    titles = list(dict.fromkeys(title for curves in fullest for title in curves))
    columns = min(2, len(titles))
    rows = -(-len(titles) // columns)
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    colour = dict.fromkeys(inks, ink) | dict.fromkeys(papers, paper)
    with matplotlib.rc_context({**colour, "grid.color": grid}):
        figure = Figure(figsize=(5 * columns, 2.6 * rows + 0.4), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        handles = {}
        for axes, title in zip(panels, titles, strict=False):
            curves = {n: c[title] for n, c in runs.items() if title in c}
            handles |= _panel(axes, title, curves, list(runs), colours)
        for axes in panels[len(titles) :]:
            axes.remove()
        if len(runs) > 1:
            drawn = [name for name in runs if name in handles]
            draw_legend(figure, [handles[n] for n in drawn], [labels[n] for n in drawn])
        else:
            figure.suptitle(*labels.values(), fontsize=10, parse_math=False)
    return figure


def _panel(axes, title: str, curves: Curves, runs: Sequence[str], colours: Sequence[str]) -> dict:
    """What is drawn, by the runs that have the curve, each in the colour and line of its run."""
    drawn = {}
    for name, curve in curves.items():
        number = runs.index(name)
        line, marker = LINES[number // len(colours) % len(LINES)]
        style = {"color": colours[number % len(colours)], "linestyle": line}
        few = len(curve.x) < 50
        drawn[name] = axes.errorbar(
            curve.x, curve.y, yerr=curve.error, marker=marker if few else "", markersize=3,
            linewidth=1.2, capsize=2 if few else 0, **style,
        )  # fmt: skip
    (xlabel,) = {curve.xlabel for curve in curves.values()}
    axes.set_title(title, loc="left", fontsize=9, parse_math=False)
    axes.set_xlabel(xlabel, fontsize=8)
    axes.tick_params(labelsize=8)
    if xlabel == "step":
        axes.set_ylim(limits([c.y[np.isfinite(c.y)].tolist() for c in curves.values() if c.falls]))
        axes.xaxis.get_major_locator().set_params(integer=True)
    else:
        axes.set_xlim(0, 1)
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def save(figure: Figure, path: Path) -> None:
    """Nothing; the figure is in the image file `path`."""
    write_atomically(path, image(figure, path.suffix))


def write_curves(workdir: Path, log: Callable[[str], None]) -> None:
    """Nothing; curves.svg is in the run directory, where matplotlib is installed. What goes wrong is
    said, and nothing else: the training is done."""
    if find_spec("matplotlib") is None:
        return
    path = workdir / "curves.svg"
    try:
        curves = main_curves(read_metrics(workdir))
        if curves:
            save(draw_curves({workdir.name: curves}), path)
    except Exception as error:  # whatever it is, there is no need of the picture
        log(f"{path}: could not be drawn ({shortened(str(error))}); to try again: ddlm plot")
