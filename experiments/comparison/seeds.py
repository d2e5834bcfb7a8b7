"""Runs of one config that differ in their training seed alone: their mean, and how sure it is.

For n runs with values v_i on the same text, of standard errors s_i,

    mean m = sum v_i / n,   spread d = sqrt(sum (v_i - m)^2 / (n - 1)),   text error s = sum s_i / n,
    error = sqrt(s^2 + (c_n d / sqrt(n))^2),   c_n = t_{n-1}(Phi(2)) / 2.

More seeds make the second term smaller, never the first: the text is the same for all. c_n makes up for
a spread that is known from few runs, so that two errors cover what two errors of a normal distribution
would: 7.0 of two runs, 2.3 of three, 1.4 of five, 1 of many; t is Student's quantile. One run has no
spread, and its error is that of the text: it speaks of this run, not of the method.
"""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.serialization import RESUMABLE, read_stored

SEEDS = (
    "Values of several seeds are means. The spread is the standard deviation between trainings; the "
    "standard error joins that of the text and that of the mean over seeds (as of Student's "
    "distribution, since seeds are few)."
)
ONE_SEED = "Of a single seed the error is that of the text alone, and says nothing of other seeds."
_TEXT = {"data.path", "data.sources", "data.splits"}  # which is part of it
_LEFT_OUT = {*RESUMABLE, "train.seed"} - _TEXT
_PHI_2 = 0.9772498680518208


@dataclass(frozen=True)
class OverSeeds:
    """count: how many runs; mean; spread: between them, NaN of one; error: of the mean, as of the text
    and of the seeds together, NaN where that of the text is unknown."""

    count: int
    mean: float
    spread: float
    error: float


def over_seeds(values: Sequence[tuple[float, float]]) -> OverSeeds:
    """Mean, spread and error of (value, standard error over the text, NaN: unknown) of runs that differ
    in their seed, by the formula above."""
    from scipy.special import stdtrit

    n = len(values)
    mean, text = (sum(column) / n for column in zip(*values, strict=True))
    if n == 1:
        return OverSeeds(1, mean, math.nan, text)
    spread = math.sqrt(sum((v - mean) ** 2 for v, _ in values) / (n - 1))
    factor = float(stdtrit(n - 1, _PHI_2)) / 2
    return OverSeeds(n, mean, spread, math.hypot(text, factor * spread / math.sqrt(n)))


def config_and_seed(record: Path) -> tuple[str, int] | None:
    """(the config without its seed and what a continuation may change, its seed) of the run whose
    records/ the file lies in; None where there is no such run, or none that can be read."""
    if record.parent.name != "records":
        return None
    with suppress(UserError, OSError, KeyError, TypeError, ValueError):
        config = read_stored(record.parent.parent / "config.json")
        return json.dumps(_compared(config, ""), sort_keys=True), int(config["train"]["seed"])
    return None


def _compared(value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: f"{path}.{name}".lstrip(".") for name in value}
    return {
        name: _compared(value[name], where)
        for name, where in inner.items()
        if where not in _LEFT_OUT
    }
