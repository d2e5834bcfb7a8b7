"""What ends a command early, each with one line that says what, where, and what to do."""


class UserError(Exception):
    """A mistake in a config, an option, a path or a file; the command line exits with code 2."""


class Diverged(Exception):
    """A loss or gradient that is not finite, or bad steps that rollbacks did not help; exit code 1."""


class Stopped(Exception):
    """Ended by a signal after saving; exit code 128 + the signal."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal
