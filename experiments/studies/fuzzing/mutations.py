"""Strategies of hypothesis that damage what is valid: bytes, and JSON by its structure."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

TEXT = "of the people by the people for the people\n" * 8
# What a careless or hostile writer puts in place of a value.
ODD = (
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e308, 5e-324, 10**18, -(10**18), 2**31, 2**63, 10**400,
    float("nan"), float("inf"), float("-inf"), "", "0", "nan", "\0", "\ud800", "\u202e", "a\nb",
    "\x1b[2J", "$\\frac{$", "../../etc/passwd", "/etc/passwd", "os.system", "subprocess.Popen",
    "builtins.eval", "experiments.quickstart.main", "x" * 5000, [], {}, [[]], [None], [1, "a"],
    {"": 0}, {"_type": "os.system"}, {"_type": "os.system", "command": "true"},
    {"_type": "experiments.config.Mesh"}, {"_type": "experiments.compression.archive.Header"},
    {"__class__": "os.system"}, {"__reduce__": ["os.system", ["true"]]},
)  # fmt: skip
_OPERATIONS = ("put", "put", "put", "drop", "rename", "double", "nest", "swap", "bend")
_DEPTHS = (3, 70, 250)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside."""
    places, waiting = [], [value]
    while waiting:
        at = waiting.pop()
        keys = list(at) if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ()
        for key in keys:
            places.append((at, key))
            waiting.append(at[key])
    return places


@st.composite
def changed(draw, value: Any) -> Any:
    """A copy of plain data with one to three changes somewhere inside, or another value in its place."""
    root = [copy.deepcopy(value)]
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        places = [(root, 0), *_places(root[0])]
        at, key = places[draw(st.integers(0, len(places) - 1))]
        operation = draw(st.sampled_from(_OPERATIONS))
        if operation == "put" or (at is root and operation in ("drop", "rename")):
            at[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif operation == "drop":
            del at[key]
        elif operation == "rename" and isinstance(at, dict):
            at[draw(st.sampled_from((f"{key}_", key.upper(), "", "_type", "\n")))] = at.pop(key)
        elif operation == "double" and isinstance(at, list):
            at.insert(key, copy.deepcopy(at[key]))
        elif operation == "nest":
            for _ in range(draw(st.sampled_from(_DEPTHS))):
                at[key] = [at[key]]
        elif operation == "swap":
            other, name = places[draw(st.integers(0, len(places) - 1))]
            at[key] = copy.deepcopy(other[name])
        else:
            at[key] = _bent(draw, at[key])
    return root[0]


def _bent(draw, value: Any) -> Any:
    """A value near the one there was, of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return draw(st.one_of(st.integers(), st.integers(value - 2, value + 2)))
    if isinstance(value, float):
        return draw(st.floats())
    return draw(st.text(max_size=20)) if isinstance(value, str) else value


@st.composite
def json_text(draw, value: Any) -> bytes:
    """The bytes of a JSON file of `value`, damaged in its structure, its text or its encoding."""
    how = draw(
        st.sampled_from(("inside",) * 8 + ("bytes", "bytes", "twice", "deep", "code", "other"))
    )
    if how == "inside":
        return dumped(draw(changed(value)))
    whole = dumped(value)
    if how == "bytes":
        return draw(damaged(whole))
    if how == "twice":  # the first key again, with another value
        odd = dumped(draw(st.sampled_from(ODD)))
        key = next(iter(value), "a") if isinstance(value, dict) else "a"
        return whole[:-1] + b", " + dumped(key) + b": " + odd + whole[-1:]
    if how == "deep":
        return draw(st.sampled_from((b"[", b'{"a":'))) * draw(st.sampled_from((80, 990, 200_000)))
    if how == "code":
        return whole.decode().encode(draw(st.sampled_from(("utf-16", "utf-32", "utf-8-sig"))))
    return draw(st.binary(max_size=200))


def dumped(value: Any) -> bytes:
    """JSON, with NaN, infinities and halves of surrogate pairs, which json.dumps lets through."""
    return json.dumps(value).encode()


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """The bytes with one to four changes, or others altogether."""
    if draw(st.integers(0, 15)) == 0:
        return draw(st.binary(max_size=300))
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.sampled_from((1, 2, 4, 8, 64, 512)))
        how = draw(st.sampled_from(("flip", "flip", "cut", "drop", "put", "over", "swap", "again")))
        if how == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del data[at:]
        elif how == "drop":
            del data[at : at + size]
        elif how == "put":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif how == "over":
            byte = draw(st.sampled_from((b"\0", b"\xff", b"\x80", b"\xc3")))
            data[at : at + size] = byte * len(data[at : at + size])
        elif how == "swap":
            other = draw(st.integers(0, max(0, len(data) - 1)))
            a, b = data[at : at + size], data[other : other + size]
            if len(a) == len(b):
                data[at : at + size], data[other : other + size] = b, a
        else:
            data[at:at] = data[at : at + size]
    return bytes(data)


def damaged_folder(source: Path, only: str = "*") -> st.SearchStrategy[tuple[str, bytes | None]]:
    """(name of a file below the folder, its new content or None where it is gone)."""
    files = sorted(p for p in source.rglob(only) if p.is_file())
    contents = {str(p.relative_to(source)): p.read_bytes() for p in files}

    def change(name: str):
        content = contents[name]
        options = [damaged(content), st.sampled_from((None, b"", *contents.values()))]
        try:
            options += [json_text(json.loads(content))] * 3
        except ValueError:
            options += [damaged(content)]
        return st.tuples(st.just(name), st.one_of(options))

    return st.sampled_from(list(contents)).flatmap(change)


def place(source: Path, folder: Path, case: tuple[str, bytes | None]) -> None:
    """A copy of the source, with the change of the case, in the folder."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    name, content = case
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
