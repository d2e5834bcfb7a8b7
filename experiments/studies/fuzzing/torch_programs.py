"""Zip files of torch made by hand: pickle programs of any kind, and archives that hold them."""

import io
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

ORDERED = b"ccollections\nOrderedDict\n"
_REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


class Program(bytes):
    """Instructions of a pickle, which `packed` takes as they are."""


def packed(value: Any) -> bytes:
    """Instructions that put plain data on the stack."""
    if isinstance(value, Program):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        number = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8b" + len(number).to_bytes(4, "little") + number
    if isinstance(value, str):
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()
    if isinstance(value, dict):
        return b"}(" + b"".join(packed(k) + packed(v) for k, v in value.items()) + b"u"
    items = b"".join(map(packed, value))
    return b"(" + items + b"t" if isinstance(value, tuple) else b"](" + items + b"e"


def called(function: bytes, *arguments: Any) -> Program:
    """A call, as REDUCE makes it."""
    return Program(function + packed(arguments) + b"R")


def tensor(
    key: Any, numel: int, shape: Any, strides: Any, offset: Any = 0, kind: str = "FloatStorage"
) -> Program:
    """A tensor in the storage `key`."""
    made_of = Program(f"ctorch\n{kind}\n".encode())
    storage = Program(packed(("storage", made_of, key, "cpu", numel)) + b"Q")
    return called(_REBUILD, storage, offset, shape, strides, False, called(ORDERED))


def program(value: Any) -> bytes:
    """A whole pickle that leaves the value."""
    return b"\x80\x02" + packed(value) + b"."


def archive(
    pickle: bytes,
    storages: Mapping[str, bytes],
    more: Mapping[str, bytes] | None = None,
) -> bytes:
    """The bytes of a file of torch with this pickle and these storages, and with other members."""
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as file:
        warnings.simplefilter("ignore", UserWarning)  # of names that stand twice
        file.writestr(zipfile.ZipInfo("m/data.pkl"), pickle)
        file.writestr(zipfile.ZipInfo("m/byteorder"), b"little")
        for key, content in storages.items():
            file.writestr(zipfile.ZipInfo(f"m/data/{key}"), content)
        for name, content in (more or {}).items():
            file.writestr(zipfile.ZipInfo(name), content)
    return made.getvalue()
