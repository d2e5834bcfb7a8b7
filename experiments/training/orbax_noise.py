"""What orbax and asyncio say of a failure that is reported in one line of our own."""

import gc
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orbax.checkpoint

from experiments.errors import shortened

_ORBAX = Path(orbax.checkpoint.__file__).parent
# As tensorstore names an array, or a file, in a chain of which the innermost comes last.
_PLACE = re.compile(
    r'"([^"]*?)/(?:zarr\.json|c/[^"]*)" in OCDBT database at local file "[^"]*"|local file "([^"]*)"'
)


@contextmanager
def quiet() -> Iterator[None]:
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


def unread(error: BaseException, folder: Path) -> str:
    """The array or the file of a checkpoint's folder that could not be read, and the first cause.

    Orbax says of whatever happens that a handler does not fit, and tensorstore in which layers it was.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).replace(f"{folder}/", "").split(" [tensorstore_spec")[0]
    places = list(_PLACE.finditer(text))
    if not places:
        return f"orbax cannot read it: {shortened(f'{type(error).__name__}: {text}')}"
    array, file = places[-1].groups()
    why = text[places[-1].end() :].strip(": ") or text.split(":")[0].lower().replace("_", " ")
    return f"cannot read {file or array.replace('.', '/')}: {shortened(why)}"


def _unraisable_later(event):
    """The hook once a load has failed: reads that it left end later, in threads whose loop is gone, or
    are collected later and raise from that."""
    code = getattr(event.object, "cr_code", None)
    left = code is not None and _ORBAX in Path(code.co_filename).parents
    if not left and str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)


def _not_of_orbax(record):
    return _ORBAX not in Path(record.pathname).parents


# Its threads log a failure of theirs when it happens; `wait` reports it.
logging.getLogger("absl").addFilter(_not_of_orbax)


def _is_retrieved(record):
    return "exception was never retrieved" not in record.getMessage()
