"""Several methods on the same budget: each trained, then evaluated over a whole split, in one table.

What is finished lies in the run directories, so a comparison that was interrupted continues when it is
run again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

from experiments.comparison.plan import Method, Plan
from experiments.comparison.record_groups import full_context, places
from experiments.comparison.record_table import TIES, markdown, place
from experiments.comparison.seeds import SEEDS, OverSeeds, over_seeds
from experiments.data.tokenizers import COUNTED
from experiments.errors import Diverged
from experiments.evaluation.bound import evaluate_run
from experiments.evaluation.record_files import (
    number_text,
    record_path,
    stored_record,
    write_record,
)
from experiments.evaluation.units import CHARACTERS, bits_per_character
from experiments.labels import gives_labels
from experiments.progress import Pace
from experiments.run import restore_run
from experiments.training.checkpoints import Checkpoints
from experiments.training.metrics import read_metric
from experiments.training.trainer import train

Log = Callable[[str], None]
SEED = 0  # of times and noise in the evaluation, the default of `experiments.evaluate`
TERMS = ("prior", "reconstruction")


@dataclass(frozen=True)
class Result:
    """What the runs of a method gave, one of each seed. records: None for a run that diverged; curves:
    (step, validation bound)."""

    name: str
    process: str
    records: tuple[dict | None, ...]
    curves: tuple[list[tuple[int, float]], ...]
    tokens_per_s: float | None

    @property
    def done(self) -> list[dict]:
        """The records of the runs that did not diverge."""
        return [record for record in self.records if record]

    def measured(self) -> OverSeeds:
        """Mean, spread and error; the mean is infinite where a run diverged, so that it sorts last."""
        if len(self.done) < len(self.records):
            return OverSeeds(len(self.records), math.inf, math.nan, math.nan)
        errors = [record["standard_error"] for record in self.done]
        errors = [math.nan if error is None else error for error in errors]
        return over_seeds([(r["value"], e) for r, e in zip(self.done, errors, strict=True)])

    @property
    def value(self) -> float:
        """Bits per character, the mean over seeds."""
        return self.measured().mean


def run_all(plan: Plan, log: Log = print) -> list[Result]:
    """The results, the lowest value first; a run that diverged does not end the comparison."""
    records: dict[str, list[dict | None]] = {}
    pace = Pace()
    for number, method in enumerate(plan.methods, 1):
        left = pace.left(m.cost for m in plan.methods[number - 1 :] if not _is_trained(m))
        log(f"\n{number}/{len(plan.methods)}  {method.directory.name}{left}\n")
        with pace.measuring(0 if _is_trained(method) else method.cost):
            records.setdefault(method.name, []).append(_run(plan, method, log))
    results = []
    for name, found in records.items():
        methods = [method for method in plan.methods if method.name == name]
        directories = [method.directory for method in methods]
        speeds = [s for d in directories for _, s in read_metric(d, "perf/tokens_per_s")]
        results.append(
            Result(
                name,
                type(methods[0].experiment.process).__name__,
                tuple(found),
                tuple(map(_curve, directories)),
                median(speeds) if speeds else None,
            )
        )
    return sorted(results, key=lambda result: result.value)


def _is_trained(method: Method) -> bool:
    latest = Checkpoints(method.directory / "checkpoints").latest()
    return latest == method.experiment.train.num_steps


def _run(plan: Plan, method: Method, log: Log) -> dict | None:
    """The record of a run, trained and evaluated as far as it is not; None where it diverged."""
    try:
        train(method.experiment, method.directory, log, reading=None)
        return _evaluate(plan, method, log)
    except Diverged as error:
        log(f"{method.directory.name} diverged: {error}")
        return None


def _curve(directory: Path) -> list[tuple[int, float]]:
    return read_metric(directory, "eval/bound_bits_per_char") or read_metric(
        directory, "eval/bound_bits_per_byte"
    )


def _evaluate(plan: Plan, method: Method, log: Log) -> dict:
    """The record of the last checkpoint, from the run directory or made now."""
    directory, step = method.directory, method.experiment.train.num_steps
    path = record_path(directory, plan.split, step)
    experiment = replace(method.resolved, evaluation=plan.evaluation)
    record = {"labels": "none"} | stored_record(path)  # which old records do not say
    identity = {
        "checkpoint_fingerprint": Checkpoints(directory / "checkpoints").fingerprint(step),
        "checkpoint_step": step,
        "ema": True,
        "labels": "given" if gives_labels(experiment) else "none",
        "num_times": plan.evaluation.num_times,
        "seed": SEED,
        "split": plan.split,
        "split_sha256": plan.corpus.sha256[plan.split],
    }
    same = all(record.get(name) == value for name, value in identity.items())
    if same and full_context(record)["counted"] == COUNTED:
        log(f"already evaluated: {path}")
        return record
    run = restore_run(directory, step, experiment)
    record = evaluate_run(run, plan.split, SEED, ema=True, log=log)
    log(write_record(path, record))
    return record


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table with aligned columns, in their order; no final newline. Of several
    seeds with places, and what is to be known of them below."""
    recorded = set().union(*(r["terms_nats_per_token"] for result in results for r in result.done))
    terms = [name for name in TERMS if name in recorded]
    units = [record.get("unit") for result in results for record in result.done]
    several = any(len(result.records) > 1 for result in results)
    columns = ["spread", "standard error"] if several else ["standard error"]
    header = ["method", "kind", next(filter(None, units), CHARACTERS), *columns]
    header += [f"of which {name}" for name in terms] + ["training tokens/s"]
    rows = [header, *(_row(result, terms, several) for result in results)]
    if not several:
        return markdown(rows, ("method", "kind"))
    measured = [
        r.measured() for r in results if len(r.done) == len(r.records)
    ]  # the others are last
    ranked = [place(*p) for p in places([(m.mean, m.error) for m in measured])]
    ranked += ["-"] * (len(results) - len(ranked))
    seeds = [str(len(result.records)) for result in results]
    first = [["place", "seeds"], *map(list, zip(ranked, seeds, strict=True))]
    rows = [[*own, *row] for own, row in zip(first, rows, strict=True)]
    return f"{markdown(rows, ('place', 'method', 'kind'))}\n\n{TIES}\n\n{SEEDS}"


def _row(result: Result, terms: Sequence[str], several: bool) -> list[str]:
    speed = "-" if result.tokens_per_s is None else f"{result.tokens_per_s:,.0f}"
    name, lost = f"{result.name} ({result.process})", len(result.records) - len(result.done)
    if lost:
        of_how_many = f" ({lost} of {len(result.records)})" if several else ""
        empty = ["-"] * (len(terms) + several)
        return [name, "-", f"diverged{of_how_many}", "-", *empty, speed]
    measured = result.measured()
    numbers = [measured.spread] * several + [measured.error]
    errors = [number_text(None if math.isnan(x) else x, ".4f") for x in numbers]
    parts = [mean(_of_term(record, term) for record in result.done) for term in terms]
    cells = ["-" if math.isnan(bits) else f"{bits:.4f}" for bits in parts]
    return [name, result.done[0]["kind"], f"{measured.mean:.4f}", *errors, *cells, speed]


def _of_term(record: dict, term: str) -> float:
    """The part of the bound in the unit of the record; NaN where it has no such part."""
    nats = record["terms_nats_per_token"].get(term, math.nan)
    otherwise = record.get("unit", CHARACTERS) != CHARACTERS  # per byte or token
    count = record["tokens" if otherwise else "characters"]
    return bits_per_character(nats, record["tokens"], count)
