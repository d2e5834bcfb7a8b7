"""The text of a comparison of records: a Markdown table for each protocol, what is published of it, and
in what the protocols differ."""

import math
from collections.abc import Sequence
from typing import Any

from experiments.comparison.published import Match, published
from experiments.comparison.record_groups import Entry, Group, differences
from experiments.comparison.seeds import ONE_SEED, SEEDS, OverSeeds

TIES = (
    "Lower is better. Places like 1-2 are ties: less than two joint standard errors from another. (The "
    "errors are joined as of independent texts, which is cautious for the same text.)"
)
KINDS = (
    "The kinds differ: an exact value is the model's, a bound lies at or above it, an estimate may lie "
    "on either side. The order is of the numbers."
)


def report(groups: Sequence[Group], matches: Sequence[Match], left_out: Sequence[str] = ()) -> str:
    """All groups, each a section, their differences, and lines that say what is left out and why;
    Markdown without a final newline."""
    parts = []
    for number, (members, match) in enumerate(zip(groups, matches, strict=True), 1):
        parts += [f"## {number}. {title(members)}", _records(members, match)]
        if len(members.entries) > 1:
            parts.append(TIES)
        seeds = {len(entry.records) for entry in members.entries}
        if seeds != {1}:
            parts += [SEEDS, ONE_SEED] if 1 in seeds else [SEEDS]
        if len({entry.record["kind"] for entry in members.entries}) > 1:
            parts.append(KINDS)
        parts += [_published(match)] if match.protocol else []
        parts += match.why
    if len(groups) > 1:
        parts += ["## Not ranked against each other", _differences(groups)]
    if left_out:
        parts += ["## Left out", "\n".join(f"- {line}" for line in left_out)]
    return "\n\n".join(parts)


def title(group: Group) -> str:
    """The protocol of a group in one line."""
    record, fields = group.entries[0].record, group.protocol
    words = [
        f"{record['unit']}, {record['split']} split of {record.get('dataset', record['source'])}",
        record["tokenizer"],
        f"length {fields['context.length']}",
        str(fields["context.protocol"]),
    ]
    words += ["given its length"] if fields["context.length_given"] else []
    added = fields["context.added_tokens"]
    words += [f"with {' '.join(map(str, added))}"] if added else []
    words += ["given the labels"] if fields["labels"] == "given" else []
    return " ".join(", ".join(words).split())


def markdown(rows: Sequence[Sequence[str]], left: Sequence[str]) -> str:
    """A Markdown table with aligned columns, the header first; left: the columns not of numbers."""
    rows = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    is_left = [name in left for name in rows[0]]
    line = ["-" * w if l else "-" * (w - 1) + ":" for w, l in zip(widths, is_left, strict=True)]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(w) if l else cell.rjust(w)
            for cell, w, l in zip(row, widths, is_left, strict=True)
        )
        + " |"
        for row in [rows[0], line, *rows[1:]]
    )


def _records(group: Group, match: Match) -> str:
    own = group.protocol["unit"]
    units = [own, match.unit] if match.unit not in ("", own) else [own]
    several = any(entry.others for entry in group.entries)
    head = ["place", "record", "seeds"] if several else ["place", "record"]
    own_columns = ("spread", "standard error") if several else ("standard error",)
    head += [name for unit in units for name in (unit, *own_columns)]
    rows = [[*head, "kind", "estimator", "tokens", "checkpoint"]]
    for entry, (best, worst) in zip(group.entries, group.places, strict=True):
        record, measured = entry.record, entry.measured()
        values = [str(len(entry.records))] if several else []
        for unit in units:
            m = measured.get(unit, OverSeeds(0, math.nan, math.nan, math.nan))
            values += map(_number, (m.mean, m.spread, m.error) if several else (m.mean, m.error))
        which = f"{record['checkpoint_step']:,} {'EMA' if record['ema'] else 'raw'}"
        last = [record["kind"], record["estimator"], _tokens(record)]
        last.append(f"{which}, {' '.join(r['checkpoint_fingerprint'][:8] for r in entry.records)}")
        rows.append([place(best, worst), f"{entry.name} ({record['process']})", *values, *last])
    return markdown(rows, ("place", "record", "kind", "estimator", "checkpoint"))


def place(best: int, worst: int) -> str:
    """The places that one may have, as a table shows them."""
    return str(best) if best == worst else f"{best}-{worst}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _tokens(record: dict) -> str:
    done, total = record["sequences"], record.get("sequences_in_split", record["sequences"])
    share = f" ({done / total:.1%} of the split)" if done < total else ""
    return f"{record['tokens']:,}{share}"


def _published(match: Match) -> str:
    rows = [["published", match.unit, "+-", "kind", "source", "note"]]
    for value in match.values:
        spread = f"{value['spread']:g}" if "spread" in value else "-"
        last = [value["kind"] or "-", value["source"], value.get("note", "-")]
        rows.append([value["method"], f"{value['value']:.2f}", spread, *last])
    lines = [
        f"Published by the same protocol ({match.says}); from other code, so no place is given:"
    ]
    lines.append(markdown(rows, ("published", "kind", "source", "note")))
    if match.others:
        named = [f"{v['method']} {v['value']:.2f} ({v['note']})" for v in match.others]
        lines.append(f"Left out, of another quantity: {'; '.join(named)}.")
    cited = " ".join(value["source"] for value in match.values + match.others)
    papers = [f"{name} {arxiv}" for name, arxiv in published()["papers"].items() if name in cited]
    lines.append(f"T: table. arXiv: {', '.join(papers)}.")
    return "\n\n".join(lines)


def _differences(groups: Sequence[Group]) -> str:
    head = ["differs", *(f"{number}." for number in range(1, len(groups) + 1))]
    rows = [head]
    for name, values in differences(groups).items():
        rows.append(
            [name, *(_cell(name, v, g.entries[0]) for v, g in zip(values, groups, strict=True))]
        )
    return markdown(rows, head)


def _cell(name: str, value: Any, entry: Entry) -> str:
    if name == "split_sha256":
        record = entry.record
        return f"{value[:8]}, {record['split']} of {record.get('dataset', record['source'])}"
    if value is None:
        return "not said"
    return value[:8] if name.endswith("sha256") else str(value)
