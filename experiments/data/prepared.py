"""The form of a prepared text's files beside its tokens, which a damaged cache may not have."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.arrays import map_array

SPLITS = ("train", "validation", "test")


def checked(described: Any, characters: bool, labelled: bool) -> dict:
    """What corpus.json says, of the right form; ValueError for another. characters, labelled: whether it
    has to tell the symbols and the names of labels."""
    kinds = {"dtype": str, "size": int, "bounds": dict, "sha256": dict, "files": str, "one": bool}
    kinds |= {"symbols": str} if characters else {}
    kinds |= {"label_names": list} if labelled else {}
    if not isinstance(described, dict) or any(
        type(described.get(name)) is not kind for name, kind in kinds.items()
    ):
        raise ValueError("corpus.json is of another form")
    if described["dtype"] not in ("uint8", "uint16", "uint32"):
        raise ValueError(f"tokens of type {described['dtype']}")
    bounds = [described["bounds"].get(name) for name in SPLITS]
    if any(type(b) is not list or [type(end) for end in b] != [int, int] for b in bounds):
        raise ValueError("its splits are no parts of it")
    ends = [0, *chain(*sorted(bounds)), described["size"]]
    if ends != sorted(ends):
        raise ValueError("its splits are no parts of it")
    strings = [*described["sha256"].values(), *(described["label_names"] if labelled else ())]
    counts = described.get("unknown", {})
    named = set(described["sha256"]) == set(described["bounds"]) == set(SPLITS)
    if not named or any(type(string) is not str for string in strings):
        raise ValueError("corpus.json is of another form")
    if type(counts) is not dict or any(type(count) is not int for count in counts.values()):
        raise ValueError("corpus.json is of another form")
    return described


def table(path: Path, rows: int) -> np.ndarray:
    """The whole numbers (rows, N) of a .npy file, memory-mapped."""
    table = map_array(path)
    if table.dtype != np.int64 or table.ndim != 2 or len(table) != rows or not table.size:
        raise ValueError(f"{path.name} is of another form")
    return table
