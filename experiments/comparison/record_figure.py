"""The figure of a comparison of records: a panel for each protocol, with its published values below."""

import io
import math
import textwrap
from collections.abc import Sequence

from experiments.comparison.published import Match
from experiments.comparison.record_groups import Group, quantities
from experiments.comparison.record_table import title
from experiments.figure import COLOURS


def draw_records(groups: Sequence[Group], matches: Sequence[Match], suffix: str) -> bytes:
    """The image, in the format of `suffix` (".png"). Panels share no axis: they do not compare."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [len(g.entries) + len(m.values) for g, m in zip(groups, matches, strict=True)]
    figure = Figure(figsize=(9, sum(1.2 + 0.24 * n for n in rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), squeeze=False, height_ratios=[n + 3 for n in rows])[:, 0]
    for number, (axes, group, match) in enumerate(zip(panels, groups, matches, strict=True), 1):
        _panel(axes, group, match)
        heading = textwrap.fill(f"{number}. {title(group)}", 60)  # labels may leave half the width
        axes.set_title(heading, fontsize=9, loc="left", parse_math=False)
    image = io.BytesIO()
    figure.savefig(image, format=suffix[1:].lower(), dpi=150)
    return image.getvalue()


def _panel(axes, group: Group, match: Match) -> None:
    unit = match.unit or group.protocol["unit"]
    values = sorted(match.values, key=lambda v: v["value"])
    for row, entry in enumerate(group.entries):
        value, error = quantities(entry.record).get(unit, (math.nan, math.nan))
        bar = 2 * error if math.isfinite(error) else 0
        axes.errorbar(value, row, xerr=bar, capsize=3, marker="o", color=COLOURS[0], linestyle="")
    for row, value in enumerate(values, len(group.entries)):
        bar = value.get("spread", 0)
        axes.errorbar(
            value["value"], row, xerr=bar, marker="D", mfc="white", color=COLOURS[1], ls=""
        )
    names = [f"{e.name} ({e.record['kind']})" for e in group.entries]
    names += [f"published: {v['method']} ({v['kind'] or 'kind not said'})" for v in values]
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)  # a $ is a $
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"{unit}, records with 2 standard errors", fontsize=8)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
