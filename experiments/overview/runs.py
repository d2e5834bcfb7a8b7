"""The runs in a folder and how far they are, read from their files alone: neither jax nor a checkpoint
is loaded, and what is damaged is said and left out."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError, shortened
from experiments.locks import LOCK, is_held
from experiments.plain_json import parse
from experiments.published import SOURCE


@dataclass(frozen=True)
class Measured:
    """A bound, exact likelihood or loss: value +- error (None: unknown) of `unit`; where: the step of an
    evaluation during training, or the name of a record."""

    value: float
    error: float | None
    unit: str
    where: str

    def __str__(self) -> str:
        error = "" if self.error is None else f" +- {self.error:.3f}"
        return f"{self.value:.3f}{error} {self.unit} ({self.where})"


@dataclass(frozen=True)
class RunFiles:
    """What the files of a run say.

    state: running, finished, stopped or imported. step: the newest that is logged or saved, of
    `planned`, None where config.json does not tell. loss: the newest of training, in nats per token.
    newest, best: of the evaluations during training. record: the newest of `ddlm evaluate`. moved: when
    anything was written last, in seconds since 1970. faults: what could not be read, one line each.
    """

    workdir: Path
    state: str
    step: int
    planned: int | None
    loss: float | None
    newest: Measured | None
    best: Measured | None
    record: Measured | None
    moved: float
    faults: tuple[str, ...]


def runs(folder: Path) -> list[RunFiles]:
    """The runs in `folder` and below it, that which moved last at the end. UserError where there is no
    such folder."""
    if not folder.is_dir():
        raise UserError(
            f"folder {folder} does not exist; give the folder of your runs, or make one: "
            f"ddlm train --config CONFIG --workdir {folder / 'a'}"
        )
    return sorted(map(read_run, run_folders(folder)), key=lambda run: run.moved)


def run_folders(folder: Path) -> Iterator[Path]:
    """The run directories in `folder` and below it, which may be one itself; hidden folders are left
    out."""
    for name, folders, files in os.walk(folder):
        if "checkpoints" in folders or "metrics.jsonl" in files:
            folders.clear()
            yield Path(name)
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))


def read_run(workdir: Path) -> RunFiles:
    """What the files in a run's directory say; what cannot be read is among its `faults`."""
    faults = []

    def read(path: Path, of: Callable[[bytes], Any], otherwise: Any) -> Any:
        try:
            return of(path.read_bytes())
        except FileNotFoundError:
            return otherwise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            faults.append(f"{path} cannot be read ({_why(error)})")
            return otherwise

    metrics = workdir / "metrics.jsonl"
    logged, loss, evaluations, bad = read(metrics, _read_metrics, (0, None, [], 0))
    if bad:
        faults.append(f"{metrics}: {bad} of its lines cannot be read")
    planned = read(workdir / "config.json", _planned, None)
    if planned is None and not faults:
        faults.append(f"{workdir / 'config.json'} is not there")
    records = sorted(workdir.glob("records/*.json"), key=_time)
    record = next(
        filter(None, (read(p, lambda c, p=p: _record(c, p), None) for p in reversed(records))), None
    )
    saved = _saved(workdir / "checkpoints")
    return RunFiles(
        workdir,
        _state(workdir, saved, planned),
        max(logged, saved),
        planned,
        loss,
        evaluations[-1] if evaluations else None,
        min(evaluations, key=lambda e: e.value, default=None),
        record,
        max(map(_time, [workdir, *workdir.glob("*"), *records])),
        tuple(faults),
    )


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, TypeError | AttributeError):
        return "it is of another form"
    return shortened(getattr(error, "strerror", None) or str(error))


def _state(workdir: Path, saved: int, planned: int | None) -> str:
    if is_held(workdir / LOCK):
        return "running"
    if (workdir / SOURCE).is_file():
        return "imported"
    return "finished" if planned is not None and saved >= planned else "stopped"


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # deleted meanwhile
        return 0.0


def _saved(checkpoints: Path) -> int:
    """The newest step that is saved; 0 without."""
    return max((int(p.name) for p in checkpoints.glob("*/") if p.name.isdecimal()), default=0)


def _planned(content: bytes) -> int:
    return int(parse(content, finite=True)["train"]["num_steps"])


def _record(content: bytes, path: Path) -> Measured:
    record = parse(content, finite=True)
    error = record["standard_error"]
    error = None if error is None else float(error)
    return Measured(float(record["value"]), error, _short(record["unit"]), path.stem)


def _short(unit: str) -> str:
    """bits/char of "bits per character", or of "bits_per_char" in the name of a metric."""
    return unit.replace("_", " ").replace("character", "char").replace(" per ", "/")


def _read_metrics(content: bytes) -> tuple[int, float | None, list[Measured], int]:
    """(newest step, its loss, the evaluations, how many lines cannot be read) of metrics.jsonl. Only the
    lines that are needed are parsed; the others are taken by their ends."""
    whole, _, _ = content.rpartition(b"\n")  # the last line may be on its way
    step, loss, evaluations, bad = 0, None, [], 0
    for line in reversed(whole.split(b"\n")):
        needed = not step or loss is None or b'"eval/' in line
        values = _values(line) if needed else line
        if not values or not line.startswith(b'{"step": ') or not line.endswith(b"}"):
            bad += bool(line)
        elif isinstance(values, dict):
            step = max(step, values["step"])
            loss = _number(values.get("train/loss_nats_per_token")) if loss is None else loss
            evaluations += _evaluation(values)
    return step, loss, evaluations[::-1], bad


def _values(line: bytes) -> dict | None:
    try:
        values = parse(line)  # a bound may be infinite
    except ValueError:
        return None
    return values if isinstance(values, dict) and type(values.get("step")) is int else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, float | int) else None


def _evaluation(values: dict) -> list[Measured]:
    """What a line of metrics says of an evaluation, none or one."""
    names = [name for name in values if name.startswith("eval/") and f"{name}_se" in values]
    found = []
    for name in names:
        what, _, unit = name.removeprefix("eval/").partition("_")
        value, error = _number(values[name]), _number(values[f"{name}_se"])
        if value is not None:
            of = "step" if what == "bound" else f"{what}, step"
            found.append(Measured(value, error, _short(unit), f"{of} {values['step']}"))
    return found
