"""A reader is given cases, each of which it has to read or reject, and nothing else may happen.

Rejected is UserError of one line. A failure is any other exception, a wait of more than `PATIENCE`
seconds, memory of more than `ROOM` bytes above what the process has, a program or an unpickler started,
a connection, or a file written outside of the case's folder. What is done is seen by an audit hook,
which knows Python and not what libraries do in C.
"""

import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import HypothesisWarning
from hypothesis.strategies import SearchStrategy

from experiments.errors import UserError

PATIENCE = 20
ROOM = 4 << 30
_LONGEST = 5000  # characters of a rejection
_FORBIDDEN = (
    "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class",
    "socket.connect", "urllib.Request", "os.link",
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """cases: what `read` is called with, beside a folder of its own, empty or whatever `start` made of
    it; share: how many of 10,000 cases are its own."""

    name: str
    share: int
    cases: SearchStrategy
    read: Callable[[Any, Path], Any]


@dataclass
class Outcome:
    """failures: how often each happened, and the shortest case of it."""

    cases: int = 0
    accepted: int = 0
    rejected: int = 0
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """In how many cases a reader failed."""
        return sum(count for count, _ in self.failures.values())


class Hung(BaseException):
    """A case took too long."""


class _Watch:
    """What the audit hook, which cannot be taken back, has seen since it was armed."""

    def __init__(self):
        self.armed, self.seen, self.folder = False, [], ""
        sys.addaudithook(self._saw)

    def _saw(self, event: str, arguments: tuple) -> None:
        if not self.armed:
            return
        if event in _FORBIDDEN:
            self.seen.append(f"{event}{str(arguments)[:80]}")
        elif event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if flags is not None else mode
            if writes and isinstance(path, str | bytes) and self._outside(os.fsdecode(path)):
                self.seen.append(f"wrote {os.fsdecode(path)}")
        elif event in ("os.mkdir", "os.rename"):
            path = os.fsdecode(arguments[event == "os.rename"])
            if self._outside(path):
                self.seen.append(f"{event} {path}")
        elif event == "os.symlink":
            target, path = map(os.fsdecode, arguments[:2])
            if self._outside(path) or self._outside(os.path.join(os.path.dirname(path), target)):
                self.seen.append(f"{event} {path} to {target}")

    def _outside(self, path: str) -> bool:
        path = os.path.abspath(path)
        allowed = path.startswith((self.folder, "/dev/", "/proc/"))
        return not allowed and "__pycache__" not in path


_watch: _Watch | None = None


@contextmanager
def _guarded(folder: Path) -> Iterator[list[str]]:
    """What was done that must not be, while time and memory are limited."""
    global _watch
    _watch = _watch or _Watch()
    _watch.folder, _watch.seen = str(folder), []
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    handler = signal.signal(signal.SIGALRM, _hang)
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, before[1]))
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    temporary, tempfile.tempdir = tempfile.tempdir, str(folder)
    _watch.armed = True
    try:
        yield _watch.seen
    finally:
        _watch.armed = False
        tempfile.tempdir = temporary
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _hang(*_):
    raise Hung


def classify(reader: Reader, case: Any, folder: Path) -> tuple[str, str]:
    """("accepted" or "rejected", the rejection), or (how the reader failed on the case, the error)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    message = ""
    try:
        with _guarded(folder) as seen:
            reader.read(case, folder)
        result = "accepted"
    except UserError as error:
        message = str(error)
        result = "rejected" if message.isprintable() else "UserError of several lines"
        if len(message) > _LONGEST:
            result = f"UserError of {len(message)} characters"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of native libraries too, whose panics are no Exception
        message = " ".join(str(error).split())
        frames = traceback.extract_tb(error.__traceback__)
        (*_, last) = [frame for frame in frames if f"{os.sep}experiments{os.sep}" in frame.filename]
        result = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
    return (f"it did {seen[0]}", message) if seen else (result, message)


def run(reader: Reader, cases: int, number: int, folder: Path) -> Outcome:
    """The outcome of so many cases, which follow from the seed `number`."""
    outcome = Outcome()

    @seed(number)
    @settings(
        max_examples=cases,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    @given(reader.cases)
    def one(case):
        if outcome.cases == cases:
            return
        outcome.cases += 1
        result, message = classify(reader, case, folder)
        if result in ("accepted", "rejected"):
            setattr(outcome, result, getattr(outcome, result) + 1)
            return
        count, shortest = outcome.failures.get(result, (0, ""))
        described = f"{message[:200]}: {case!r}"
        outcome.failures[result] = count + 1, min(shortest or described, described, key=len)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # of strategies with long names
        one()
    return outcome
