"""Safetensors: eight bytes that tell the length of a header, the header in JSON, then the tensors.

The header is {name: {"dtype", "shape", "data_offsets": [begin, end]}}, with "__metadata__" for what the
writer has to say. Offsets count from the end of the header. Every byte behind it belongs to one tensor.
"""

import json
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from experiments.errors import UserError, shortened
from experiments.files import stream_atomically
from experiments.tensor_files.stored import Region, StoredTensor, Unsupported, checked_shape, load

LONGEST_HEADER = 100_000_000  # bytes, as the format has it
_METADATA = "__metadata__"
_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of the file in the order of its header; ValueError says what is wrong with it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if 8 + length > size:
            raise ValueError(f"it has {size:,} bytes, fewer than its header of {length:,}")
        if length > LONGEST_HEADER:
            raise ValueError(
                f"its header would have {length:,} bytes, and the format allows {LONGEST_HEADER:,}"
            )
        header = read_json(file.read(length), "header")
    _check_metadata(header.pop(_METADATA, {}))
    data = Region(path, 8 + length, size - 8 - length)
    tensors, spans = {}, []
    for name, entry in header.items():
        try:
            tensors[name], span = _tensor(entry, data)
        except ValueError as error:
            raise type(error)(f"{name}: {error}") from None
        spans.append((*span, name))
    _check_spans(sorted(spans), data.size)
    return tensors


def read_json(content: bytes, what: str) -> dict[str, Any]:
    """The object of JSON in UTF-8, without a name that stands twice; ValueError tells of `what`."""
    try:
        found = json.loads(
            content.decode(), object_pairs_hook=_without_repeats, parse_constant=_constant
        )
    except RecursionError:
        raise ValueError(f"its {what} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"its {what} is not valid JSON ({shortened(str(error))})") from None
    if not isinstance(found, dict):
        raise ValueError(f"its {what} is no object of JSON")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{name} stands twice")
    return found


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{_METADATA} in its header is not made of text")


def _tensor(entry: Any, data: Region) -> tuple[StoredTensor, tuple[int, int]]:
    """The tensor of an entry of the header, and its first byte and the one behind its last."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("its entry in the header is not {dtype, shape, data_offsets}")
    name = entry["dtype"]
    if not isinstance(name, str) or name not in _DTYPES:
        name = name if isinstance(name, str) else "that is no text"
        raise Unsupported(f"its dtype {name} is unsupported; possible: {', '.join(_DTYPES)}")
    dtype = _DTYPES[name]
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or [type(offset) for offset in offsets] != [int, int]:
        raise ValueError("its data_offsets are not two numbers")
    begin, end = offsets
    if not 0 <= begin <= end:
        raise ValueError(f"its data_offsets {begin}, {end} are no range")
    if end > data.size:
        raise ValueError(f"it ends at byte {end:,} of the data, and the file has {data.size:,}")
    region = Region(data.path, data.start + begin, end - begin)
    shape = checked_shape(entry["shape"])
    tensor = StoredTensor(shape, dtype, partial(load, region, dtype, shape))
    if tensor.nbytes != region.size:
        raise ValueError(
            f"its shape takes {tensor.nbytes:,} bytes, its data_offsets {region.size:,}"
        )
    return tensor, (begin, end)


def _check_spans(spans: list[tuple[int, int, str]], size: int) -> None:
    """Nothing; ValueError unless the spans (begin, end, name), in order, cover the data."""
    for (_, end, name), (begin, _, following) in pairwise([(0, 0, "the header"), *spans]):
        if begin < end:
            raise ValueError(f"{name} and {following} claim the same bytes")
        if begin > end:
            raise ValueError(
                f"{begin - end:,} bytes between {name} and {following} belong to no tensor"
            )
    covered = spans[-1][1] if spans else 0
    if covered < size:
        raise ValueError(f"{size - covered:,} bytes at its end belong to no tensor")


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, np.ndarray | StoredTensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Nothing; the file holds the tensors, or what it held before. UserError where it cannot be written.

    One tensor at a time is in memory: a StoredTensor is read, or made, when its turn comes, and its
    `load` may be called again. The header has the order of `tensors`; the data begins with the dtypes of
    most bytes, so that every tensor is aligned.
    """
    begin = 0
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    spans = {}
    for name in order:
        spans[name] = [begin, begin := begin + tensors[name].nbytes]
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES or name == _METADATA:
            raise UserError(
                f"{path}: {name}: no tensor of {tensor.dtype} can have this name or dtype"
            )
        dtype, shape = _NAMES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": spans[name]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > LONGEST_HEADER:
        raise UserError(
            f"{path}: a header of {len(encoded):,} bytes is more than the format allows"
        )

    def write(file: BinaryIO) -> None:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in order:
            file.write(_bytes_of(tensors[name]))

    stream_atomically(path, write)


def _bytes_of(tensor: np.ndarray | StoredTensor) -> memoryview:
    array = tensor.read() if isinstance(tensor, StoredTensor) else tensor
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
