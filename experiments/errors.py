"""What ends a command early, each with one line that says what, where, and what to do."""

from importlib.util import find_spec

_LONGEST = 4000  # characters of a message; its beginning and the advice at its end are kept
_SHORT = 150


class UserError(Exception):
    """A mistake in a config, an option, a path or a file; the command line exits with code 2.

    what: the mistake. advice: what to do about it. about: the option or setting that it is in. The
    message is one line of what prints: it may quote a file, and a file may hold line breaks, control
    sequences of terminals and megabytes.
    """

    def __init__(self, what: str, advice: str = "", about: str = ""):
        self.what, self.advice, self.about = what, advice, about
        message = f"{about}: " * bool(about) + what + f"; {advice}" * bool(advice)
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST - 1000]} ... {message[-990:]}"
        super().__init__(printable(message))


def needed(package: str, about: str) -> None:
    """Nothing; UserError where `package`, of an extra, is not installed."""
    if find_spec(package) is None:
        raise UserError(f"needs the package {package}", f"pip install {package}", about)


def printable(text: str) -> str:
    """The text with escapes of Python for what does not print, such as line breaks and control sequences
    of terminals."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str) -> str:
    """What a library says, on one line of at most 150 characters; a longer one loses its middle, since
    libraries say the cause last."""
    text = " ".join(text.split())
    return text if len(text) <= _SHORT else f"{text[: _SHORT // 2 - 5]} ... {text[-_SHORT // 2 :]}"


class Failed(Exception):
    """What was computed or checked is not as it should be; exit code 1."""


class Diverged(Failed):
    """A loss or gradient that is not finite, or bad steps that rollbacks did not help."""


class Stopped(Exception):
    """Ended by a signal after saving; exit code 128 + the signal."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal
