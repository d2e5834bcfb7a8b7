"""The figure of a comparison of records: a panel for each protocol, with its published values below."""

import itertools
import math
import textwrap
from collections.abc import Sequence

from experiments.comparison.published import Match
from experiments.comparison.record_groups import Group, quantities
from experiments.comparison.record_table import title
from experiments.comparison.seeds import OverSeeds
from experiments.figure import COLOURS, image, short_names


def draw_records(groups: Sequence[Group], matches: Sequence[Match], suffix: str) -> bytes:
    """The image, in the format of `suffix` (".png"). Panels share no axis: they do not compare."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [_names(g, m) for g, m in zip(groups, matches, strict=True)]
    lines = [sum(1 + name.count("\n") for name in panel) for panel in names]
    figure = Figure(figsize=(9, sum(1.2 + 0.24 * n for n in lines)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), squeeze=False, height_ratios=[n + 3 for n in lines])[:, 0]
    panels = zip(panels, groups, matches, names, strict=True)
    for number, (axes, group, match, rows) in enumerate(panels, 1):
        _panel(axes, group, match, rows)
        heading = textwrap.fill(f"{number}. {title(group)}", 60)  # labels may leave half the width
        axes.set_title(heading, fontsize=9, loc="left", parse_math=False)
    return image(figure, suffix)


def _names(group: Group, match: Match) -> list[str]:
    """What stands beside the rows of a panel: the records, then the published values."""
    entries = zip(short_names([e.name for e in group.entries]), group.entries, strict=True)
    published = [f"published: {v['method']} ({v['kind'] or 'kind not said'})" for v in match.values]
    own = [f"{name} ({entry.record['kind']})" for name, entry in entries]
    return own + [textwrap.fill(name, 48) for name in published]


def _panel(axes, group: Group, match: Match, names: Sequence[str]) -> None:
    """Draws the values of a panel, each in the middle of the lines that its name takes."""
    unit = match.unit or group.protocol["unit"]
    ends = list(itertools.accumulate((1 + name.count("\n") for name in names), initial=0))
    middles = [(start + end) / 2 for start, end in itertools.pairwise(ends)]
    for row, entry in zip(middles, group.entries, strict=False):
        whole = entry.measured().get(unit, OverSeeds(0, math.nan, math.nan, math.nan))
        bar = 2 * whole.error if math.isfinite(whole.error) else 0
        style = {"color": COLOURS[0], "linestyle": ""}
        axes.errorbar(whole.mean, row, xerr=bar, capsize=3, marker="o", **style)
        if entry.others:  # a tick for each seed
            seeds = [quantities(record).get(unit, (math.nan,))[0] for record in entry.records]
            axes.plot(seeds, [row] * len(seeds), marker="|", markersize=9, **style)
    for row, value in zip(middles[len(group.entries) :], match.values, strict=True):
        bar = value.get("spread", 0)
        axes.errorbar(
            value["value"], row, xerr=bar, marker="D", mfc="white", color=COLOURS[1], ls=""
        )
    axes.set_yticks(middles, names, fontsize=8, parse_math=False)  # a $ is a $
    axes.set_ylim(ends[-1], 0)
    axes.set_xlabel(f"{unit}, records with 2 standard errors", fontsize=8)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
