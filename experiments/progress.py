"""How far a long piece of work is, and how long it still takes."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from experiments.streams import log as to_standard_output
from experiments.streams import on_terminal

_OFTEN = 5  # seconds between lines


class Progress:
    """progress(done, total) after each part of the work logs a line every few seconds, and after such
    lines one at the end. In a `with` statement what would be logged to a terminal is a bar there, which
    goes at the end; with a log of None there is nothing else.

    What is left is by the pace since the end of the first part, which compiled what the others run: its
    own time says nothing of theirs.
    """

    def __init__(self, log: Callable[[str], None] | None, what: str = "sequences"):
        self._log, self._what, self._bar = log, what, None
        self._first, self._last, self._logged = None, time.perf_counter(), False

    def __enter__(self) -> Self:
        if self._log in (None, to_standard_output) and on_terminal():
            self._bar = _bar(self._what)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Nothing; says so where it is time to, of so many parts that are done."""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        elif self._log:
            self._tell(self._log, done, total)

    def say(self, line: str) -> None:
        """Nothing; the line is printed as it is, above the bar: rich would break it between words."""
        if self._bar:
            self._bar.console.print(
                line, soft_wrap=True, markup=False, highlight=False, emoji=False
            )
        else:
            print(line, flush=True)

    def _tell(self, log: Callable[[str], None], done: int, total: int) -> None:
        now = time.perf_counter()
        self._first = self._first or (done, now)
        if now - self._last < _OFTEN and not (self._logged and done == total):
            return
        self._last, self._logged = now, True
        start, since = self._first
        left = ""
        if start < done < total:
            left = f", {duration((now - since) / (done - start) * (total - done))} left"
        log(f"{done:,} of {total:,} {self._what}{left}")


class Pace:
    """How long pieces of work of known costs take, from those that are done."""

    def __init__(self):
        self._cost = self._seconds = 0.0

    @contextmanager
    def measuring(self, cost: float) -> Iterator[None]:
        """A context in which a piece of that cost is done; of cost 0 it says nothing of the pace."""
        start = time.perf_counter()
        yield
        if cost:
            self._cost, self._seconds = (
                self._cost + cost,
                self._seconds + time.perf_counter() - start,
            )

    def left(self, costs: Iterable[float]) -> str:
        """What to say of pieces of these costs that are left; empty where no pace is known."""
        if not self._cost:
            return ""
        return f", about {duration(sum(costs) * self._seconds / self._cost)} left"


def _bar(what: str):
    """A bar of rich that runs, with one task whose total is not known yet."""
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class Time(progress.ProgressColumn):
        def render(self, task):
            left = "" if task.time_remaining is None else f", {duration(task.time_remaining)} left"
            return Text(f"{duration(task.elapsed or 0)}{left}")

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Time(),
        console=Console(file=sys.stdout),
        refresh_per_second=4,
        transient=True,
        redirect_stderr=sys.stderr.isatty(),  # a file gets what is written to it
    )
    bar.add_task(what, total=None)
    bar.start()
    return bar


def duration(seconds: float) -> str:
    """A time such as 2h05m or 12m05s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
