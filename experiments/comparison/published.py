"""Published values (published.json), and which of them may stand beside a record.

A published value is set beside a record only if the record shows that it was made by the same protocol:
each field that the protocol requires has one of the values listed there. Otherwise none is shown, and
which fields differ is said: a number of another protocol beside one's own is read as a comparison,
however it is marked.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from experiments.comparison.record_groups import Entry, full_context, quantities


@dataclass(frozen=True)
class Match:
    """What is published beside a group. protocol: its name, None where nothing is shown; values: those
    that compare, the lowest first; others: of that protocol by name, but known not to compare; why:
    lines that say what is not shown, and why."""

    protocol: str | None
    says: str
    unit: str
    values: list[dict]
    others: list[dict]
    why: list[str]


@cache
def published() -> dict:
    """papers (arXiv numbers), protocols (says, requires) and values. A value's kind is null where the
    source does not mark it; spread: what stands after +- there; comparable false: of another quantity
    than its protocol's."""
    text = resources.files("experiments.comparison").joinpath("published.json").read_text("utf-8")
    return json.loads(text)


def match(entries: Sequence[Entry]) -> Match:
    """What may stand beside entries that are comparable with each other."""
    first = entries[0].record
    datasets = _datasets(first)
    candidates = dict.fromkeys(
        (v["protocol"], v["dataset"], v["unit"])
        for v in published()["values"]
        if _plain(v["dataset"]) in datasets
    )
    if not candidates:
        text = first.get("dataset", first["source"])
        return Match(None, "", "", [], [], [f"No published values are kept for {text}."])
    faults = {c: [misfits(e.record, c[0], c[2]) for e in entries] for c in candidates}
    name, dataset, unit = closest = min(faults, key=lambda c: min(map(len, faults[c])))
    says, wrong = published()["protocols"][name]["says"], faults[closest]
    if all(wrong):
        least = min(wrong, key=len)
        line = (
            f"Published values of {dataset} are not shown. The closest are of another protocol "
            f"({says}): here {'; '.join(least)}."
        )
        return Match(None, says, "", [], [], [line])
    rows = [v for v in published()["values"] if (v["protocol"], v["dataset"]) == (name, dataset)]
    why = [
        f"{entry.name} is not of the published protocol: {'; '.join(reasons)}."
        for entry, reasons in zip(entries, wrong, strict=True)
        if reasons
    ]
    values = sorted((v for v in rows if v.get("comparable", True)), key=lambda v: v["value"])
    others = [v for v in rows if not v.get("comparable", True)]
    return Match(name, says, unit, values, others, why)


def misfits(record: dict, name: str, unit: str) -> list[str]:
    """What in the record is not as the protocol `name` requires, in words; empty where all is."""
    reasons = []
    for field, allowed in published()["protocols"][name]["requires"].items():
        value, stated = _look_up(record, field)
        if not stated:
            reasons.append(f"{field} is not said (published: {_show(allowed[0])})")
        elif value not in allowed:
            reasons.append(f"{field} is {_show(value)} (published: {_show(allowed[0])})")
    if unit not in quantities(record):
        reasons.append(f"there is no {unit}")
    return reasons


def _look_up(record: dict, field: str) -> tuple[object, bool]:
    """(value, whether the record says it) of a dotted field, or of one that follows from others."""
    if field == "whole split":
        value = record.get("sequences_in_split")
        return record["sequences"] == value, value is not None
    if field == "vocabulary":
        sizes = _sizes(record["process_settings"])
        return (sizes[0], True) if sizes else (None, False)
    if field == "labels":
        return record.get("labels", "none"), True
    values = record | {"context": full_context(record)}
    for part in field.split("."):
        if not isinstance(values, dict) or part not in values:
            return None, False
        values = values[part]
    return values, True


def _sizes(settings) -> list[int]:
    """The sizes of the vocabulary in the settings of a process, or of what it wraps."""
    if not isinstance(settings, dict):
        return []
    own = [settings["vocab_size"]] if isinstance(settings.get("vocab_size"), int) else []
    return own + [size for value in settings.values() for size in _sizes(value)]


def _datasets(record: dict) -> set[str]:
    """The names by which a record's text may be known: its dataset, and the words of that and of its
    source, as in text8_first74M.xz."""
    names = [record["source"], record.get("dataset", "")]
    return {_plain(word) for name in names for word in [name, *re.split("[^A-Za-z0-9]+", name)]}


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _show(value) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)
