"""Metrics of a run: `metrics.jsonl` and TensorBoard events, continued exactly after a resume."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]  # protobuf makes it when imported
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]  # likewise
)
from tensorboardX.summary import scalar

from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.plain_json import dumped, parse
from experiments.training.tracking import Follow

DAMAGED = "metrics.damaged"  # the lines of metrics.jsonl that cannot be read


class Metrics:
    """Appends to the metrics in `workdir`; lines after step `start` are of a lost attempt and go. Lines
    that cannot be read are kept aside, and reported to `log`. follow: is given what is written, after it
    is.

    TensorBoard events are written here and not by the thread of a SummaryWriter, which dies of a full
    disk unseen and lets the next writes wait for ever.
    """

    def __init__(
        self,
        workdir: Path,
        start: int,
        log: Callable[[str], None] = print,
        follow: Follow = lambda step, values: None,
    ):
        self._path, self._log, self._follow = workdir / "metrics.jsonl", log, follow
        with self._failing():
            (workdir / "tensorboard").mkdir(parents=True, exist_ok=True)
            self._events = EventsWriter(str(workdir / "tensorboard" / "events"))
        self._begin(start)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            with self._failing():
                self._file.close()
                self._events.close()
        except UserError:
            if error is None:  # the first error is the one to show
                raise

    def rewind(self, start: int) -> None:
        """Nothing; lines and events after step `start` are gone."""
        self._file.close()
        self._begin(start)

    def _begin(self, start: int) -> None:
        with self._failing():
            if self._path.exists():
                self._keep(start)
            elif start:
                self._log(f"{self._path} is missing; a new one starts after step {start}")
        purge = SessionLog(status=SessionLog.START)
        with self._failing():
            self._file = open(self._path, "a", buffering=1)  # noqa: SIM115, closed in __exit__
            self._event(step=start + 1, session_log=purge)
            self._events.flush()

    def _keep(self, start: int) -> None:
        content = self._path.read_bytes()
        lines = list(_lines(content))
        if lines and lines[-1][2] is None and not content.endswith(b"\n"):
            lines.pop()
            self._log(f"{self._path}: its last line was cut short and is removed")
        damaged = {number: line for number, line, value in lines if value is None}
        if damaged:
            aside = self._path.with_name(DAMAGED)
            with open(aside, "ab") as file:
                file.writelines(line + b"\n" for line in damaged.values())
            named = ", ".join(map(str, list(damaged)[:4])) + (", ..." if len(damaged) > 4 else "")
            self._log(
                f"{self._path}: unreadable lines: {len(damaged)} (number {named}), moved to {aside}"
            )
        kept = [line for _, line, value in lines if value is not None and value["step"] <= start]
        write_atomically(self._path, b"".join(line + b"\n" for line in kept))

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line {"step": ..., name: value}, and a TensorBoard scalar for each name."""
        with self._failing():
            self._file.write(dumped({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._event(step=step, summary=scalar(name, value))
            self._events.flush()
        self._follow(step, values)

    def _event(self, **fields):
        self._events.write_event(Event(wall_time=time.time(), **fields))

    @contextmanager
    def _failing(self):
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._path}: metrics could not be written ({error.strerror or error}); check space "
                "and permissions; checkpoints are intact, and the same command continues from the newest"
            ) from error


class NoMetrics(AbstractContextManager):
    """What takes the place of `Metrics` in all processes but the first."""

    def __exit__(self, kind, error, traceback):
        pass

    def rewind(self, start: int) -> None:
        """Nothing."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""


def read_metrics(workdir: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(steps, values) of every metric of the run in `workdir` by its name, of the lines that have it;
    empty without metrics."""
    path, curves = workdir / "metrics.jsonl", {}
    for *_, line in _lines(path.read_bytes()) if path.exists() else ():
        line = line or {}
        for name, value in line.items():
            if name != "step" and type(value) in (int, float):
                curves.setdefault(name, []).append((line["step"], value))
    columns = {name: np.array(points).T for name, points in curves.items()}
    return {name: (steps, values) for name, (steps, values) in columns.items()}


def read_metric(workdir: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of every line of the metrics in `workdir` that has `name`; empty without metrics."""
    steps, values = read_metrics(workdir).get(name, ((), ()))
    return [(int(step), float(value)) for step, value in zip(steps, values, strict=True)]


def _lines(content: bytes) -> Iterator[tuple[int, bytes, dict | None]]:
    """(its number from 1, as it is, what it holds) of each line; None for one that holds no step."""
    for number, line in enumerate(content.split(b"\n"), 1):
        if line:
            value = None
            with suppress(ValueError):
                value = parse(line)
            good = isinstance(value, dict) and type(value.get("step")) is int
            yield number, line, value if good else None
