"""Files of torch.save: a zip archive with a pickle, `ROOT/data.pkl`, and the raw numbers of the tensors,
`ROOT/data/KEY`, uncompressed, so that they are memory-mapped where they stand.

The pickle is followed and not executed (pickle_program.py). Of what it describes, the tensors of the
model are looked at; what else it holds, such as settings and the state of an optimiser, is left alone.
"""

import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from experiments.errors import UserError
from experiments.tensor_files.pickle_program import LONGEST, Call, Named, Persistent, described
from experiments.tensor_files.stored import (
    DAMAGED,
    Region,
    StoredTensor,
    Unsupported,
    checked_shape,
    load,
)

_DTYPES = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETERS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
_MOST_TIMES = 8  # of the size of a file, in its tensors: some stand under several names
_CHUNK = 1 << 24


@dataclass(frozen=True)
class _Entry(Region):
    """A member of the archive, uncompressed. crc: the check sum of its bytes, compared once."""

    crc: int

    def map(self) -> np.ndarray:
        if not self._intact:
            raise UserError(
                f"{self.path}: is damaged: a check sum is wrong, or it was written without "
                "(torch.serialization.set_crc32_options)",
                DAMAGED,
            )
        return super().map()

    @cached_property
    def _intact(self) -> bool:
        data, crc = super().map(), 0
        for start in range(0, self.size, _CHUNK):
            crc = zlib.crc32(data[start : start + _CHUNK].data, crc)
        return crc == self.crc


def read_torch(path: Path) -> tuple[dict[str, StoredTensor], tuple[StoredTensor, ...] | None]:
    """The state dict of the file, and the average of its parameters (TensorFiles); ValueError says what
    is wrong. A state dict stands alone, as `state_dict` (Lightning) or as `model` beside others."""
    entries = _entries(path)
    root = next(iter(entries), "").partition("/")[0]
    if (
        any(not name.startswith(f"{root}/") for name in entries)
        or f"{root}/data.pkl" not in entries
    ):
        raise ValueError(
            "its archive is not of torch: no data.pkl in the one folder that it should have"
        )
    order = entries.get(f"{root}/byteorder")
    if order and bytes(order.map()[:16]) != b"little":
        raise Unsupported("its numbers are not little-endian")
    program = entries[f"{root}/data.pkl"]
    if program.size > LONGEST:
        raise Unsupported(f"its pickle has {program.size:,} bytes; {LONGEST:,} are supported")
    content = described(bytes(program.map()))
    storages = {name.removeprefix(f"{root}/data/"): entry for name, entry in entries.items()}
    tensors, average = _state_dict(content, storages), _average(content, storages)
    total, size = sum(t.nbytes for t in (*tensors.values(), *(average or ()))), path.stat().st_size
    if total > _MOST_TIMES * size:
        raise ValueError(f"its tensors would have {total:,} bytes, and the file has {size:,}")
    return tensors, average


def _entries(path: Path) -> dict[str, _Entry]:
    """The members of the archive by name, none of which overlaps another."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            entries = {_name(member): _entry(path, file, member) for member in members}
            regions = [(m.header_offset, entries[m.orig_filename]) for m in members]
            last = archive.start_dir
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        struct.error,
        OverflowError,
    ) as error:
        raise ValueError(f"its archive is damaged ({error})") from None
    if len(entries) < len(members):
        raise ValueError("two members of its archive have the same name")
    spans = sorted((begin, region.start + region.size) for begin, region in regions)
    if any(end > begin for (_, end), (begin, _) in pairwise([*spans, (last, last)])):
        raise ValueError("members of its archive overlap")
    return entries


def _name(member: zipfile.ZipInfo) -> str:
    name = member.orig_filename
    if "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} in its archive is no plain name")
    return name


def _entry(path: Path, file: BinaryIO, member: zipfile.ZipInfo) -> _Entry:
    """Where the content of a member stands."""
    stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
    if not stored or member.flag_bits & 1:
        raise Unsupported(f"{member.orig_filename} in its archive is compressed or encrypted")
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise ValueError(f"{member.orig_filename} is not where its archive says")
    start = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    return _Entry(path, start, member.file_size, member.CRC)


def _state_dict(content: Any, storages: dict[str, _Entry]) -> dict[str, StoredTensor]:
    if not isinstance(content, dict):
        raise Unsupported(f"it holds {_kind(content)} instead of a state dict")
    inner = [name for name in ("state_dict", "model") if isinstance(content.get(name), dict)]
    if len(inner) > 1:
        raise Unsupported("it holds two state dicts, state_dict and model")
    tensors = {}
    for name, value in (content[inner[0]] if inner else content).items():
        if not isinstance(name, str):
            raise Unsupported("one of the names in its state dict is no text")
        if not name.endswith("_extra_state"):  # by its name no tensor, but settings of a module
            tensors[name] = _tensor(name, value, storages)
    if not tensors:
        raise ValueError("its state dict is empty")
    return tensors


def _average(content: Any, storages: dict[str, _Entry]) -> tuple[StoredTensor, ...] | None:
    average = content.get("ema")
    if average is None or (isinstance(average, Call) and average.name == _TENSOR):
        return None  # the latter is a tensor of that name in a plain state dict
    values = average.get("shadow_params") if isinstance(average, dict) else None
    if not isinstance(values, list):
        raise Unsupported("its average (ema) has no list shadow_params")
    return tuple(_tensor(f"shadow_params {i}", v, storages) for i, v in enumerate(values))


def _tensor(name: str, value: Any, storages: dict[str, _Entry]) -> StoredTensor:
    try:
        return _rebuilt(value, storages)
    except ValueError as error:
        raise type(error)(f"{name}: {error}") from None


def _rebuilt(value: Any, storages: dict[str, _Entry]) -> StoredTensor:
    """The tensor that a pickle describes, where it stays in its storage and no element stands twice."""
    while isinstance(value, Call) and value.name in _PARAMETERS and value.arguments:
        value = value.arguments[0]
    if not isinstance(value, Call) or value.name != _TENSOR or len(value.arguments) < 4:
        raise Unsupported(f"it is {_kind(value)} instead of a tensor")
    storage, offset, shape, strides = value.arguments[:4]
    dtype, entry = _storage(storage, storages)
    shape = checked_shape(shape)
    if not isinstance(strides, tuple) or len(strides) != len(shape) or type(offset) is not int:
        raise ValueError("its offset and strides are not numbers, one stride an axis")
    if offset < 0 or any(type(stride) is not int or stride < 0 for stride in strides):
        raise ValueError("its offset or a stride is negative or no number")
    numel = entry.size // dtype.itemsize
    if 0 in shape:
        return StoredTensor(shape, dtype, partial(load, entry, dtype, shape))
    last = 0
    for stride, size in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride <= last:
            raise Unsupported(f"its elements overlap: shape {shape}, strides {strides}")
        last += (size - 1) * stride
    if offset + last >= numel:
        raise ValueError(
            f"it reaches to element {offset + last:,} of a storage of {numel:,}: shape {shape}, strides "
            f"{strides}, offset {offset}"
        )
    # An axis of one element may have any stride.
    steps = tuple(s * dtype.itemsize if n > 1 else 0 for s, n in zip(strides, shape, strict=True))
    start = offset * dtype.itemsize
    return StoredTensor(shape, dtype, partial(load, entry, dtype, shape, start, steps))


def _storage(value: Any, storages: dict[str, _Entry]) -> tuple[np.dtype, _Entry]:
    """What type the numbers of a storage have, and where they stand."""
    name = value.name if isinstance(value, Persistent) else None
    if not isinstance(name, tuple) or len(name) != 5 or name[0] != "storage":
        raise ValueError("its storage is not described as torch does")
    _, kind, key, _, numel = name
    dtype = _DTYPES.get(kind.name) if isinstance(kind, Named) else None
    if dtype is None:
        raise Unsupported(f"its storage is {_kind(kind)}, which is unsupported")
    entry = storages.get(key) if isinstance(key, str) else None
    if entry is None:
        raise ValueError("its storage is not in the archive")
    if type(numel) is not int or numel * dtype.itemsize != entry.size:
        raise ValueError(f"its storage has {entry.size:,} bytes, not the number that it claims")
    return dtype, entry


def _kind(value: Any) -> str:
    """What a thing of a pickle is, for a message."""
    if isinstance(value, Named | Call) and value.name:
        return value.name.replace(" ", ".")[:200]
    return f"a value of type {type(value).__name__}"
