"""Cases for what reads published tensors: safetensors with their index, and files of torch."""

import json
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from experiments.studies.fuzzing.engine import Reader
from experiments.studies.fuzzing.mutations import (
    ODD,
    changed,
    damaged,
    damaged_folder,
    json_text,
    place,
)
from experiments.studies.fuzzing.torch_programs import (
    ORDERED,
    Program,
    archive,
    called,
    packed,
    program,
    tensor,
)
from experiments.tensor_files import read_tensors, write_safetensors

_TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4).astype(ml_dtypes.bfloat16),
    "c": np.array([True, False]),
    "d": np.array(7),
}
_STORAGES = {str(i): array.tobytes() for i, array in enumerate(_TENSORS.values())}
_CONTENT = {
    "state_dict": {
        "a": tensor("0", 6, (2, 3), (3, 1)),
        "b": tensor("1", 4, (4,), (1,), kind="BFloat16Storage"),
        "c": tensor("2", 2, (2,), (1,), kind="BoolStorage"),
        "d": tensor("3", 1, (), (), kind="LongStorage"),
    },
    "ema": {"decay": 1, "shadow_params": [tensor("0", 6, (2, 3), (3, 1))]},
    "hyper_parameters": called(b"cos\nsystem\n", "true"),
}
# What a program may be made of, hostile or by mistake; those of one byte take what is on the stack.
_PIECES = (
    *(bytes([code]) for code in b"(.}])NtuseaRbQ0\x81\x85\x86\x87\x88\x89"),
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cno.such.module\nname\n", b"c\n\n", ORDERED,
    b"q\0", b"h\0", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"\x8a\xff" + b"\x7f" * 255,
    b"X\xff\xff\xff\x7f", b"\x95" + b"\xff" * 8, b"\x96" + b"\xff" * 8, b"I1\n", b"\x82\x01", b"]" * 900,
    b"\x85" * 900, b"(" * 900,
    packed("a"), packed("state_dict"), packed(-1), packed(2**70), packed({}), packed((1, 2)),
    *_CONTENT["state_dict"].values(), _CONTENT["hyper_parameters"],
)  # fmt: skip
_NUMBERS = st.sampled_from(
    (-(2**70), -1, 0, 1, 2, 3, 6, 7, 2**31, 2**62, 2**64, 2**70, True, None, "1")
)


def _write_folder(folder: Path) -> None:
    """Two shards and their index."""
    folder.mkdir(parents=True)
    names = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}
    for shard in set(names.values()):
        write_safetensors(
            folder / shard, {n: _TENSORS[n] for n in names if names[n] == shard}, {"format": "pt"}
        )
    index = {"metadata": {"total_size": 34}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _read_all(path: Path) -> None:
    """Nothing; what is read is what was promised, and the same when it is read again."""
    read = read_tensors(path)
    for stored in (*read.tensors.values(), *(read.average or ())):
        assert stored.read().tobytes() == stored.read().tobytes()


def _safetensors(folder: Path) -> st.SearchStrategy[bytes]:
    whole = (folder / "one.safetensors").read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:length])

    def with_header(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + whole[length:]

    return st.one_of(damaged(whole), json_text(header).map(with_header))


def _programs() -> st.SearchStrategy[bytes]:
    """Files whose members are whole, with a pickle that is not what torch writes."""
    strange = st.builds(
        lambda shape, strides, offset, numel: {"a": tensor("0", numel, shape, strides, offset)},
        *[st.lists(_NUMBERS, max_size=3).map(tuple)] * 2, _NUMBERS, st.sampled_from((6, 6, 6, 5, 2**62))
    )  # fmt: skip
    made = st.lists(st.sampled_from(_PIECES), max_size=40).map(b"".join)
    around = st.one_of(made.map(Program), _nested()).map(
        lambda p: _CONTENT | {"hyper_parameters": p}
    )
    odd = changed({"state_dict": {"a": 1}, "ema": {"shadow_params": [1]}, "model": {}})
    plain = odd.filter(_packs).map(program)
    values = st.one_of(strange, around).map(program)
    pickles = st.one_of(values, plain, made.map(lambda p: p + b"."), damaged(program(_CONTENT)))
    return pickles.map(lambda pickle: archive(pickle, _STORAGES))


def _nested() -> st.SearchStrategy:
    """What a pickle may hold beside the tensors: data, and calls and objects that must stay undone."""
    names = (
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
        b"cno.such\nname\n",
        b"ctyping\nAny\n",
        ORDERED,
    )
    leaves = st.sampled_from(
        (None, True, 2**70, "true", *_CONTENT["state_dict"].values(), *map(Program, names))
    )

    def around(inner):
        call = st.builds(
            lambda name, given: called(name, *given), st.sampled_from(names), st.lists(inner)
        )
        built = st.builds(lambda call, state: Program(call + packed(state) + b"b"), call, inner)
        return st.one_of(st.lists(inner), st.dictionaries(st.text("ab"), inner), call, built)

    return st.recursive(leaves, around, max_leaves=12)


def _packs(value) -> bool:
    try:
        return bool(packed(value))
    except (TypeError, ValueError, RecursionError):
        return False


def _names() -> st.SearchStrategy[bytes]:
    odd = st.sampled_from([name for name in ODD if isinstance(name, str)])
    name = st.one_of(odd, odd.map("m/data/{}".format), st.just("m/data/0"))
    members = st.dictionaries(name.filter(lambda n: n.isascii()), st.binary(max_size=9), max_size=3)
    return members.map(partial(archive, program(_CONTENT), _STORAGES))


def _read_torch(content: bytes, folder: Path) -> None:
    """A file of torch has check sums: what can be read at all is what was written."""
    (folder / "a.pt").write_bytes(content)
    read = read_tensors(folder / "a.pt")
    for name, stored in read.tensors.items():
        array = stored.read()
        assert array.dtype == _TENSORS[name].dtype and array.tobytes() == _TENSORS[name].tobytes()


def readers(folder: Path) -> list[Reader]:
    """The readers of this file, each with its cases; folder: where they may write."""
    source = folder / "shards"
    _write_folder(source)

    def read_file(content, folder):
        (folder / "a").write_bytes(content)
        _read_all(folder / "a")

    def read_folder(case, folder):
        place(source, folder, case)
        _read_all(folder)

    whole = archive(program(_CONTENT), _STORAGES)
    return [
        Reader("safetensors", 300, _safetensors(source), read_file),
        Reader("safetensors, in shards", 200, damaged_folder(source), read_folder),
        Reader("torch files, damaged", 200, st.one_of(damaged(whole), _names()), _read_torch),
        Reader("torch files, made by hand", 300, _programs(), read_file),
    ]
