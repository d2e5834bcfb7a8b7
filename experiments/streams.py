"""Standard output and standard error, which may be full, closed, or lack our letters."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO, cast

NAME, _CLOSED = "standard output", "it is closed"


class StandardOutput:
    """A text stream whose errors say that it is standard output; else the stream that is given.

    lost: whether `log` could not write to it, and has complained.
    """

    def __init__(self, stream: TextIO | None):
        self._stream, self.lost = stream, False

    def write(self, text: str) -> int:
        """The number of characters written."""
        return self._call("write", text)

    def flush(self) -> None:
        """Nothing; what was written is passed on."""
        self._call("flush")

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def _call(self, method: str, *arguments):
        if getattr(self._stream, "closed", self._stream is None):
            raise OSError(errno.EBADF, _CLOSED, NAME)
        try:
            return getattr(self._stream, method)(*arguments)
        except OSError as error:
            message = _CLOSED if error.errno == errno.EBADF else error.strerror
            raise OSError(error.errno, message, NAME) from error


@contextmanager
def standard_output(elsewhere: bool) -> Iterator[StandardOutput]:
    """Inside, sys.stdout is a `StandardOutput`, to which characters that its encoding lacks are written
    as \\u escapes; all is flushed at the end. elsewhere: what is printed goes to standard error."""
    stream = sys.stderr if elsewhere else sys.stdout
    with suppress(AttributeError, ValueError, OSError):  # none, another kind, closed, full
        cast(Any, stream).reconfigure(errors="backslashreplace")
    output = StandardOutput(stream)
    with redirect_stdout(output):
        try:
            yield output
        except SystemExit:  # of --help
            sys.stdout.flush()
            raise
        if not output.lost:
            sys.stdout.flush()


def log(line: str) -> None:
    """Nothing; the line is printed. Where that fails the work goes on, since what it makes is in files:
    the first time, standard error says so."""
    try:
        print(line, flush=True)
    except OSError as error:
        if not getattr(sys.stdout, "lost", False):
            complain(f"{NAME} cannot be written ({error.strerror or error}); the command continues")
        cast(Any, sys.stdout).lost = True


def on_terminal() -> bool:
    """Whether standard output is a terminal on which more than lines can be drawn."""
    with suppress(ValueError, AttributeError, OSError):  # closed, none
        return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return False


def complain(line: str) -> None:
    """Nothing; the line is on standard error, if that can be written."""
    with suppress(OSError, ValueError, AttributeError):  # full, closed, none
        print(line, file=sys.stderr, flush=True)


def open_missing() -> None:
    """Nothing; none of the first three files of the process is closed, so that no file that it opens
    takes their place. What is written to a standard output that was closed fails as before."""
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)  # the lowest number that is free: this one
            os.set_inheritable(opened, True)


def flush() -> None:
    """Nothing; what was printed is written, or dropped where it cannot be: the interpreter flushes once
    more at its end, and complains."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
