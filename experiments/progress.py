"""How far a long work is, and how long it still takes."""

import time
from collections.abc import Callable

_EVERY = 5  # seconds between two lines


class Progress:
    """progress(done, total) logs a line every few seconds.

    The time left is that of the parts after the first, which waits for a compilation; until there is a
    second one, no time is said.
    """

    def __init__(self, what: str, log: Callable[[str], None]):
        self._what, self._log = what, log
        self._done, self._start, self._last = 0, None, time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now, left = time.perf_counter(), ""
        if self._start is None:
            self._done, self._start = done, now
        elif done > self._done:
            seconds = (now - self._start) / (done - self._done) * (total - done)
            left = f", {duration(seconds)} left"
        if done < total and now - self._last > _EVERY:
            self._last = now
            self._log(f"{done:,} of {total:,} {self._what}{left}")


def duration(seconds: float) -> str:
    """Like 2h05m, 3m07s or 12s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
