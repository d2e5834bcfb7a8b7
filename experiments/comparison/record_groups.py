"""What makes the numbers of evaluation records comparable, and their order where they are.

A protocol is all that a number depends on beside the model: what is measured, over which tokens, cut and
conditioned how. Two numbers are ranked only if every field of their protocols is equal; what one record
says and another does not is a difference, since nobody knows.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.comparison.seeds import OverSeeds, config_and_seed, over_seeds
from experiments.data.tokenizers import COUNTED
from experiments.evaluation.record_files import NoRecord, read_record

# What holds of records from before these fields, of which there was one kind.
OLD_CONTEXT = {"protocol": "wrap", "length_given": False, "added_tokens": [], "counted": COUNTED}
# But for text read by documents that was normalised.
_NORMALIZED = hashlib.sha256(b'{"normalize": true}').hexdigest()
_BEFORE = "characters and words of the text before normalising"
# What records must have in common beside their protocols to differ in the seed of training alone.
_EVALUATED = ("checkpoint_step", "ema", "kind", "estimator", "num_times", "seed", "sequences")


@dataclass(frozen=True)
class Entry:
    """A record under the name it has in a table; others: those of runs that differ from it in their
    training seed alone."""

    name: str
    record: dict
    others: tuple[dict, ...] = ()

    @property
    def records(self) -> tuple[dict, ...]:
        """All of them, that of the lowest seed first."""
        return (self.record, *self.others)

    def measured(self) -> dict[str, OverSeeds]:
        """Mean, spread and error over the seeds by unit, the unit of `value` first."""
        every = [quantities(record) for record in self.records]
        return {
            unit: over_seeds([values[unit] for values in every])
            for unit in every[0]
            if all(unit in values for values in every)
        }


@dataclass(frozen=True)
class Group:
    """Entries of one protocol, the lowest value first; places: (best, worst) of each, from 1."""

    protocol: dict[str, Any]
    entries: list[Entry]
    places: list[tuple[int, int]]


def full_context(record: dict) -> dict:
    """The context of a record, with what holds of records from before a field."""
    context = OLD_CONTEXT | record["context"]
    by_documents = context["protocol"] in ("sentence", "pack") or context.get("documents") == "line"
    if by_documents and record["tokenizer_sha256"] == _NORMALIZED:
        context["counted"] = record["context"].get("counted", _BEFORE)
    return context


def read_entries(paths: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """The records in the files under short names, each record once and those of runs that differ in
    their seed alone together, and a line for each file that adds none: it holds no record, or one that
    contradicts itself, or one that another file holds too. UserError where no record is left, or a file
    cannot be read."""
    entries, left_out, mistakes, places = [], [], [], []
    for name, path in zip(name_records(paths), paths, strict=True):
        try:
            record = read_record(Path(path))
        except NoRecord as error:
            mistakes.append(error)
            left_out.append(f"not comparable: {error}")
            continue
        same = [entry.name for entry in entries if entry.record == record]
        if same:
            left_out.append(f"the same record as {same[0]}: {path}")
        else:
            entries.append(Entry(name, record))
            places.append(Path(path))
    if not entries:
        raise mistakes[0]
    return _joined(entries, places), left_out


def _joined(entries: Sequence[Entry], paths: Sequence[Path]) -> list[Entry]:
    """The entries, those of runs that differ in their seed alone made one; paths: of their records. Of
    two runs of the same seed the second stays by itself: it is no other draw."""
    of_config: dict[Any, dict[int, Entry]] = {}
    for number, (entry, path) in enumerate(zip(entries, paths, strict=True)):
        config, seed = config_and_seed(path) or (number, 0)
        how = [entry.record[name] for name in _EVALUATED]
        key = json.dumps([config, protocol(entry.record), how])
        seeds = of_config.setdefault(key, {})
        if seed in seeds:
            seeds = of_config.setdefault(number, {})
        seeds[seed] = entry
    joined = []
    for seeds in of_config.values():
        first, *others = [seeds[seed] for seed in sorted(seeds)]
        joined.append(Entry(first.name, first.record, tuple(e.record for e in others)))
    return joined


def protocol(record: dict) -> dict[str, Any]:
    """The fields on which numbers must agree to be comparable; values as a record holds them."""
    context = full_context(record)
    return {
        "unit": record["unit"],
        "tokenizer": record["tokenizer"],
        "tokenizer_sha256": record["tokenizer_sha256"],
        "split_sha256": record["split_sha256"],
        "labels": record.get("labels", "none"),
        **{f"context.{name}": context[name] for name in sorted(context)},
    }


def quantities(record: dict) -> dict[str, tuple[float, float]]:
    """(value, standard error) by unit, the unit of `value` first; the error NaN where it is unknown."""
    values = {record["unit"]: (record["value"], record["standard_error"])}
    for unit in ("perplexity per token", "perplexity per word"):
        field = unit.replace(" ", "_")
        if record.get(field) is not None:  # as it is where no float holds it
            values[unit] = record[field], record.get(f"{field}_standard_error")
    return {
        unit: (value, math.nan if error is None else error)
        for unit, (value, error) in values.items()
    }


def places(values: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """The (best, worst) place, from 1, that each of (value, standard error) may have; lower is better.

    Two are in order where they differ by two joint standard errors at least; an unknown error (NaN)
    orders nothing. The errors are joined as of independent texts, which is cautious for the same text.
    """

    def before(a, b):
        return b[0] - a[0] >= 2 * math.hypot(a[1], b[1]) and b[0] > a[0]

    n = len(values)
    return [
        (1 + sum(before(b, a) for b in values), n - sum(before(a, b) for b in values))
        for a in values
    ]


def group(entries: Sequence[Entry]) -> list[Group]:
    """The entries by protocol, the protocol of the first entry first."""
    by_key: dict[str, list[Entry]] = {}
    for entry in entries:
        by_key.setdefault(json.dumps(protocol(entry.record)), []).append(entry)
    groups = []
    for members in by_key.values():
        measured = [next(iter(entry.measured().values())) for entry in members]
        order = sorted(range(len(members)), key=lambda i: measured[i].mean)
        values = [(measured[i].mean, measured[i].error) for i in order]
        ordered = [members[i] for i in order]
        groups.append(Group(protocol(ordered[0].record), ordered, places(values)))
    return groups


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """The fields in which the groups' protocols are not all equal, with the value of each group; None
    where a record does not say."""
    names = dict.fromkeys(name for g in groups for name in g.protocol)
    columns = {name: [g.protocol.get(name) for g in groups] for name in names}
    return {name: values for name, values in columns.items() if any(v != values[0] for v in values)}


def name_records(paths: Sequence[str]) -> list[str]:
    """A short name for each path: the run directory of a record in its records/, else the file's stem;
    the whole path where two would be one."""
    short = []
    for path in map(Path, paths):
        run = path.parent.parent if path.parent.name == "records" else None
        short.append(run.name if run and run.name else path.stem)
    return [s if short.count(s) == 1 else str(p) for s, p in zip(short, paths, strict=True)]
