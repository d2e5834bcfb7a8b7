"""Files that are either complete or absent, and arrays that are what their header says."""

import os
from contextlib import suppress
from pathlib import Path
from tokenize import TokenError

import numpy as np

from experiments.errors import UserError


def map_array(path: str | Path) -> np.ndarray:
    """The array in a .npy file, memory-mapped, so that a header that promises too much takes no memory;
    OSError or ValueError where there is none, or one of Python's objects."""
    try:
        with np.errstate(over="ignore"):
            return np.load(path, "r", allow_pickle=False)
    except (
        EOFError,
        TypeError,
        AttributeError,
        OverflowError,
        TokenError,
    ) as error:  # of its header
        raise ValueError(f"it is no .npy file ({type(error).__name__})") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Nothing; `path` holds `content`, or what it held before. UserError where it cannot be written."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb" if isinstance(content, bytes) else "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # on a read-only file system too
            temporary.unlink()
        raise UserError(f"{path}: could not be written ({error.strerror or error})") from error
