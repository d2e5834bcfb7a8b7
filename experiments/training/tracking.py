"""Metrics on their way to a tracker, in a thread of their own: a server that is slow or gone holds no
training up once it is begun, and ends none."""

import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.errors import Stopped, shortened
from experiments.files import write_atomically
from experiments.plain_json import parse
from experiments.trackers.tracker import TrackedRun, Tracker

RUN = "tracker.json"  # in a run directory: which run of which tracker it is
_PATIENCE = 60  # seconds, at the end, for what is still on its way
Follow = Callable[[int, dict[str, float]], None]


@contextmanager
def tracking(
    tracker: Tracker, workdir: Path, settings: dict[str, Any], log: Callable[[str], None]
) -> Iterator[Follow]:
    """Inside, (step, values) given to the function go to the tracker's run of `workdir`, a new one or
    that of before. What fails is one line of the log, and nothing is tracked from there on."""
    run = None
    try:
        run = _begun(tracker, workdir, settings)
    except Exception as error:  # of a library, a server, a network, or a tracker of the user's own
        _say(log, tracker, error)
    sender = _Sender(run, lambda error: _say(log, tracker, error)) if run else None
    failed = True
    try:
        yield sender.put if sender else lambda step, values: None
        failed = False
    except Stopped:
        failed = False
        raise
    finally:
        if sender and not sender.close(failed):
            log(f"train.tracker {type(tracker).__name__}: some metrics were not sent in time")


def _begun(tracker: Tracker, workdir: Path, settings: dict[str, Any]) -> TrackedRun | None:
    plain = {
        name: value if isinstance(value, int | float | str | None) else str(value)
        for name, value in settings.items()
    }
    name, path = type(tracker).__name__, workdir / RUN
    run = tracker.begin(workdir, plain, _known(path, name))
    if run is not None:
        write_atomically(path, json.dumps({"tracker": name, "run": run.id}) + "\n")
    return run


def _known(path: Path, name: str) -> str | None:
    """The id that the file has of a run of the tracker of this name."""
    try:
        stored = parse(path.read_bytes())
    except (OSError, ValueError):
        return None
    known = (
        stored.get("run") if isinstance(stored, dict) and stored.get("tracker") == name else None
    )
    return known if isinstance(known, str) else None


def _say(log: Callable[[str], None], tracker: Tracker, error: Exception) -> None:
    what = shortened(str(error)) or type(error).__name__
    log(
        f"train.tracker {type(tracker).__name__}: {what}; training continues without it, and "
        "metrics.jsonl has everything"
    )


class _Sender:
    """Sends what it is given to a run, in order, until something fails."""

    def __init__(self, run: TrackedRun, say: Callable[[Exception], None]):
        self._run, self._say = run, say
        self._waiting: queue.SimpleQueue = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def put(self, step: int, values: dict[str, float]) -> None:
        """Nothing; the values will be sent, unless something has failed."""
        if self._thread.is_alive():
            self._waiting.put((step, values))

    def close(self, failed: bool) -> bool:
        """Whether all that can be sent was."""
        self._failed = failed
        self._waiting.put(None)
        self._thread.join(_PATIENCE)
        return not self._thread.is_alive()

    def _send(self):
        try:
            while (of_step := self._waiting.get()) is not None:
                self._run.log(*of_step)
            self._run.close(self._failed)
        except Exception as error:  # as at the beginning
            self._say(error)
