"""Metrics of a run: `metrics.jsonl` and TensorBoard events, continued exactly after a resume."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.plain_json import dumped, parse


class Metrics:
    """Appends to the metrics in `workdir`; lines after step `start` are of a lost attempt and go.

    TensorBoard events are written here and not by the thread of a SummaryWriter, which dies of a full
    disk unseen and lets the next writes wait for ever.
    """

    def __init__(self, workdir: Path, start: int):
        self._path, self._file, self._events = workdir / "metrics.jsonl", None, None
        with self._failing():
            (workdir / "tensorboard").mkdir(parents=True, exist_ok=True)
            self._events = EventsWriter(str(workdir / "tensorboard" / "events"))
        self.rewind(start)

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
        if self._file is not None:
            self._file.close()
        if self._path.exists():
            kept = [x for x, line in _lines(self._path) if line["step"] <= start]
            write_atomically(self._path, "".join(line + "\n" for line in kept))
        purge = SessionLog(status=SessionLog.START)
        with self._failing():
            self._file = open(self._path, "a", buffering=1)  # noqa: SIM115, closed in __exit__
            self._event(step=start + 1, session_log=purge)
            self._events.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line {"step": ..., name: value}, and a TensorBoard scalar for each name."""
        with self._failing():
            self._file.write(dumped({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._event(step=step, summary=scalar(name, value))
            self._events.flush()

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
        pass

    def write(self, step: int, values: dict[str, float]) -> None:
        pass


def read_metric(workdir: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of every line of the metrics in `workdir` that has `name`; empty without metrics."""
    path = workdir / "metrics.jsonl"
    lines = [line for _, line in _lines(path)] if path.exists() else []
    return [(line["step"], line[name]) for line in lines if type(line.get(name)) in (int, float)]


def _lines(path: Path) -> Iterator[tuple[str, dict]]:
    """The lines that have a step, as they are and what they hold; another was cut short by a kill."""
    for content in path.read_bytes().split(b"\n"):
        with suppress(ValueError):
            line = parse(content)
            if isinstance(line, dict) and type(line.get("step")) is int:
                yield content.decode(), line
