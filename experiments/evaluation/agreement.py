"""What the fields of an evaluation record must be to each other.

All its numbers but one follow from the nats of a token, their standard error and the counts:

    value = nats_per_token * tokens / count of the unit / log 2      (a unit is "bits per character")
    nats_per_word = nats_per_token * tokens / words,   perplexity = exp(nats),   nats = sum of the terms
    each term = sum over its times = sum over its positions

where the counts of a token are those of the text, of a mixture the means over its sources by weight.
And the standard error of exp(nats) is exp(nats) times that of the nats. A record in which one of them is
otherwise was edited or damaged, and nobody knows which of its numbers is right.
"""

import math
from collections.abc import Iterator, Sequence

from experiments.evaluation.units import perplexity

# How far numbers may be from each other that were rounded: values to four digits, errors to two.
_VALUE, _ERROR = 1e-3, 0.05


def disagreement(record: dict) -> str:
    """The field of the record, which the schema allows, that contradicts the others, and what it says,
    in one line; empty where there is none."""
    estimator, kind = record["estimator"], record["kind"]
    if estimator.startswith("exact") != (kind == "exact"):
        return f"the field kind is {kind}, but the estimator is {estimator}"
    if kind == "bound" and "quadrature" in estimator:
        return f"the field kind is bound, but {estimator} is an estimate"
    done, total = record["sequences"], record.get("sequences_in_split", math.inf)
    if done > total:
        return f"the field sequences is {done}, but there are {total} in the split"
    if done > 1 and record["nats_per_token_standard_error"] is None:
        return f"the field nats_per_token_standard_error is null, but there are {done} sequences"
    per = record["unit"].removeprefix("bits per ")
    if per == record["unit"] or type(record.get(f"{per}s")) is not int or record[f"{per}s"] < 1:
        return f"the field unit is {record['unit']!r} and must be bits per character"
    if sources := record.get("sources"):
        if any(type(each.get(f"{per}s")) is not int for each in sources):
            return f"the field sources does not count {per}s, of which the unit is"
        if not any(each[f"{per}s"] for each in sources):
            return f"the field sources counts no {per}s, of which the unit is"
    for name, value, expected, tolerance in _related(record, f"{per}s"):
        near = (
            value is not None
            and expected is not None
            and math.isfinite(expected)
            and abs(value - expected) <= tolerance
        )
        if value != expected and not near:
            return f"the field {name} is {_shown(value)}, but others give {_shown(expected)}"
    return ""


def rate_of(sources: Sequence[dict], name: str) -> float:
    """How many of what `name` counts there are a token, the mean over sources by weight."""
    return sum(each["weight"] * each[name] / each["tokens"] for each in sources)


def _related(record: dict, unit: str) -> Iterator[tuple[str, float | None, float | None, float]]:
    """(field, what it holds, what others give for it, how far apart they may be); None: unknown."""
    nats, error = record["nats_per_token"], record["nats_per_token_standard_error"]
    words, sources = record.get("words", 0), record.get("sources") or [{**record, "weight": 1.0}]
    terms, bits = record["terms_nats_per_token"].values(), 1 / rate_of(sources, unit) / math.log(2)
    total = sum(terms)
    mean = sum(each["weight"] * each["nats_per_token"] for each in sources)
    yield "nats_per_token", nats, mean, _VALUE * abs(mean)
    yield "nats_per_token", nats, total, _VALUE * sum(map(abs, terms))
    for name in ("nats_per_token_at_times", "nats_per_token_at_positions"):
        for term, parts in record.get(name, {}).items():
            near = _VALUE * sum(map(abs, parts))
            yield f"{name}.{term}", sum(parts), record["terms_nats_per_token"].get(term), near
    value, spread = nats * bits, _times(error, bits)
    yield "value", record["value"], value, _VALUE * abs(value)
    yield "standard_error", record["standard_error"], spread, _ERROR * (spread or 0)
    for side, end in zip((-1.96, 1.96), record.get("confidence_interval_95", ()), strict=False):
        near = _VALUE * abs(value) + _ERROR * 2 * (spread or 0)
        yield "confidence_interval_95", end, _plus(value, _times(spread, side)), near
    yield from _perplexity(record, "token", nats, error)
    if words and "nats_per_word" in record:
        share = 1 / rate_of(sources, "words")
        mean = nats * share
        yield "nats_per_word", record["nats_per_word"], mean, _VALUE * abs(mean)
        yield from _perplexity(record, "word", mean, _times(error, share))


def _perplexity(record: dict, unit: str, nats: float, error: float | None):
    """As `_related`, of exp(nats) and its error."""
    name, tolerance = f"perplexity_per_{unit}", _VALUE * max(1, abs(nats))
    value, spread = perplexity(nats, error)
    if name in record:
        yield name, record[name], value, tolerance * (value or 0)
    if f"{name}_standard_error" in record:
        near = (_ERROR + tolerance) * (spread or 0)
        yield f"{name}_standard_error", record[f"{name}_standard_error"], spread, near


def _times(a: float | None, b: float) -> float | None:
    return None if a is None else a * b


def _plus(a: float, b: float | None) -> float | None:
    return None if b is None else a + b


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}"
