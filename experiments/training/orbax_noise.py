"""What orbax and asyncio say of a failure that is reported in one line of our own."""

import gc
import logging
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import orbax.checkpoint

_ORBAX = Path(orbax.checkpoint.__file__).parent


@contextmanager
def quiet():
    """Keeps what orbax and asyncio say of a failure that we report ourselves to silence."""
    loggers = [logging.getLogger(name) for name in ("asyncio", "absl")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of coroutines that nobody awaits now
            try:
                yield
            except BaseException:
                gc.collect()  # abandoned tasks speak when collected: let them do it here
                hook = _unraisable_later
                logging.getLogger("asyncio").addFilter(_is_retrieved)
                raise
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _unraisable_later(event):
    """The hook once a load has failed: reads that it left end later, in threads whose loop is gone, or
    are collected later and raise from that."""
    code = getattr(event.object, "cr_code", None)
    left = code is not None and _ORBAX in Path(code.co_filename).parents
    if not left and str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)


def _is_retrieved(record):
    return "exception was never retrieved" not in record.getMessage()
