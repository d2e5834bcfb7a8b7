"""Arrays in files that are what their header says."""

from pathlib import Path
from tokenize import TokenError

import numpy as np


def map_array(path: str | Path) -> np.ndarray:
    """The array in a .npy file, memory-mapped, so that a header that promises too much takes no memory;
    OSError or ValueError where there is none, or one of Python's objects."""
    with open(path, "rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError("it is not a .npy file")
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
        raise ValueError(f"it is not a .npy file ({type(error).__name__})") from error
