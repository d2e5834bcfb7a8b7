"""How far a long piece of work is, and how long it still takes."""

import time
from collections.abc import Callable

_OFTEN = 5  # seconds between lines


class Progress:
    """progress(done, total) after each part of the work logs a line every few seconds, and after such
    lines one at the end.

    What is left is by the pace since the end of the first part, which compiled what the others run: its
    own time says nothing of theirs.
    """

    def __init__(self, log: Callable[[str], None], what: str = "sequences"):
        self._log, self._what = log, what
        self._first, self._last, self._logged = None, time.perf_counter(), False

    def __call__(self, done: int, total: int) -> None:
        """Nothing; says so where it is time to, of so many parts that are done."""
        now = time.perf_counter()
        self._first = self._first or (done, now)
        if now - self._last < _OFTEN and not (self._logged and done == total):
            return
        self._last, self._logged = now, True
        start, since = self._first
        left = ""
        if start < done < total:
            left = f", {duration((now - since) / (done - start) * (total - done))} left"
        self._log(f"{done:,} of {total:,} {self._what}{left}")


def duration(seconds: float) -> str:
    """A time such as 2h05m or 12m05s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
