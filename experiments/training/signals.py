"""SIGINT and SIGTERM during training: save first, and end at once where there is nothing to save."""

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

from experiments.streams import complain

NOTED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """An evaluation left because a signal came."""


class Signals:
    """Notes the first signal in `received`, so that the loop can save first; a second one acts at once.

    While `idle`, nothing would be lost: SIGINT is the usual KeyboardInterrupt, and SIGTERM ends the
    process with 128 + 15. A thread does that, since Python's own handlers have to wait until a
    compilation is over, which may take longer than the grace before a SIGKILL.

    Several processes stop after the same step: of one that gets a signal, `agree` tells all. Those that
    got none note a SIGTERM.
    """

    def __init__(self):
        self.received, self.idle, self._calls = None, True, 0
        self._passed_on = None

    def __enter__(self):
        self._several = jax.process_count() > 1
        if self._several:  # SIGTERM is noted by jax, for `agree`
            self._before = {signal.SIGINT: signal.signal(signal.SIGINT, self._pass_on)}
            return self
        self._before = {s: signal.signal(s, self._note) for s in NOTED}
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._several:
            return
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    def agree(self) -> None:
        """Nothing; to be called at every step. One of several processes learns here, at the same call as
        all others, that any of them got a signal."""
        self._calls += 1
        if self._several and reached_preemption_sync_point(self._calls):
            self.received = self._passed_on or signal.SIGTERM

    def check(self, *_: Any) -> None:
        """Nothing; Interrupted after a signal."""
        if self.received:
            raise Interrupted

    def _pass_on(self, number, frame):
        self._passed_on = signal.Signals(number)
        os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, number, frame):
        if self.idle and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.received = signal.Signals(number)
        for s in NOTED:
            signal.signal(s, signal.SIG_DFL)

    def _watch(self):
        while numbers := os.read(self._read, 64):
            if self.idle and signal.SIGTERM in numbers:
                with suppress(OSError, ValueError):  # full or closed
                    sys.stdout.flush()
                line = "stopped by SIGTERM before a step was made; there was nothing to save"
                complain(line)
                os._exit(128 + signal.SIGTERM)
