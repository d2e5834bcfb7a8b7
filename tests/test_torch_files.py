"""Files of torch are read without torch and without doing what their pickles say."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest

from experiments.studies.fuzzing import engine
from experiments.studies.fuzzing.torch_programs import (
    ORDERED,
    Program,
    archive,
    called,
    packed,
    program,
    tensor,
)
from experiments.tensor_files import pickle_program, read_tensors
from experiments.tensor_files.pickle_program import Call, described

NUMBERS = np.arange(24, dtype=np.float32)
GOOD = tensor("0", 24, (4, 6), (6, 1))
SYSTEM = b"cos\nsystem\n"


@pytest.fixture
def written(tmp_path):
    """written(content, ...) is a file of torch with this content beside the numbers."""

    def write(content, storages=None, more=None):
        pickle = content if type(content) is bytes else program(content)
        storages = storages or {"0": NUMBERS.tobytes()}
        (tmp_path / "a.pt").write_bytes(archive(pickle, storages, more))
        return tmp_path / "a.pt"

    return write


@pytest.fixture
def rejects(written, rejected):
    """rejects(content, ...) is what the reader says of such a file."""
    return lambda *given: rejected(read_tensors, written(*given)).partition("a.pt: ")[2]


@pytest.mark.parametrize(
    "shape, strides, offset, expected",
    [
        ((4, 6), (6, 1), 0, NUMBERS.reshape(4, 6)),
        ((6, 4), (1, 6), 0, NUMBERS.reshape(4, 6).T),
        ((2, 2), (12, 3), 7, NUMBERS.reshape(4, 6)[1::2, 1::3][:2]),
        ((1, 5), (99, 1), 19, NUMBERS[None, 19:]),
        ((), (), 23, NUMBERS[23]),
        ((0, 3), (3, 1), 24, np.zeros((0, 3))),
    ],
)
def test_views_are_what_torch_makes_of_them(shape, strides, offset, expected, written):
    content = {"a": tensor("0", 24, shape, strides, offset), "b": GOOD}
    read = read_tensors(written(content)).tensors
    array = read["a"].read()
    assert array.shape == read["a"].shape == shape and array.dtype == np.float32
    assert np.array_equal(array, expected) and np.array_equal(
        read["b"].read(), NUMBERS.reshape(4, 6)
    )


@pytest.mark.parametrize(
    "kind, dtype",
    [
        ("Double", "f8"), ("Float", "f4"), ("Half", "f2"), ("BFloat16", ml_dtypes.bfloat16),
        ("Long", "i8"), ("Int", "i4"), ("Short", "i2"), ("Char", "i1"), ("Byte", "u1"), ("Bool", "?"),
    ],
)  # fmt: skip
def test_every_dtype_is_exact(kind, dtype, written):
    numbers = np.array([1, 0, 1]).astype(dtype)
    if kind == "BFloat16":
        numbers = np.array([0x3F81, 0x0001, 0x7FC1], np.uint16).view(dtype)
    content = {"a": tensor("k", 3, (3,), (1,), kind=f"{kind}Storage")}
    array = read_tensors(written(content, {"k": numbers.tobytes()})).tensors["a"].read()
    assert array.dtype == numbers.dtype and array.tobytes() == numbers.tobytes()


def test_a_parameter_is_its_tensor_and_a_state_dict_an_ordered_dictionary(written):
    parameter = called(b"ctorch._utils\n_rebuild_parameter\n", GOOD, True, called(ORDERED))
    ordered = packed(called(ORDERED)) + b"(" + packed("w") + packed(parameter) + b"u"
    with_version = Program(ordered + packed({"_metadata": {}}) + b"b")
    assert list(read_tensors(written(with_version)).tensors) == ["w"]
    read = read_tensors(written({"w": parameter, "x._extra_state": None, "ema": GOOD}))
    assert list(read.tensors) == ["w", "ema"] and read.average is None


@pytest.mark.parametrize("name", ["state_dict", "model"])
def test_a_state_dict_stands_beside_its_average(name, written):
    average = {"decay": 1, "shadow_params": [tensor("0", 24, (24,), (1,)), GOOD]}
    read = read_tensors(
        written({"step": 3, name: {"w": GOOD}, "ema": average, "optimizer": {1: [GOOD]}})
    )
    assert list(read.tensors) == ["w"] and [t.shape for t in read.average] == [(24,), (4, 6)]
    assert np.array_equal(read.average[0].read(), NUMBERS)
    assert read_tensors(written({name: {"w": GOOD}, "ema": None})).average is None


def view(**changes):
    given = {"key": "0", "numel": 24, "shape": (4, 6), "strides": (6, 1)} | changes
    return {"w": tensor(**given)}


@pytest.mark.parametrize(
    "content, says",
    [
        (view(offset=1), "w: it reaches to element 24 of a storage of 24"),
        (view(shape=(5, 6)), "w: it reaches to element 29"),
        (view(shape=(2,), strides=(2**62,)), "w: it reaches to element"),
        (view(shape=(2,), strides=(2**90,)), "w: it reaches to element"),
        (view(shape=(2,), strides=(1 << 20000,)), "w: "),
        (view(offset=-1), "w: its offset or a stride is negative"),
        (view(strides=(6, -1)), "w: its offset or a stride is negative"),
        (view(shape=(-4, -6)), "w: its shape"),
        (view(shape=(2**40, 2**40), strides=(0, 0)), "w: its shape is larger than any array"),
        (view(shape=(0, 2**70)), "w: its shape is larger than any array"),
        (view(shape=(9, 2), strides=(1, 1)), "w: its elements overlap"),
        (view(shape=(1000000, 24), strides=(0, 1)), "w: its elements overlap"),
        (view(shape=(4, 6), strides=(1,)), "w: its offset and strides"),
        (view(shape="46"), "w: its shape is no sequence"),
        (view(shape=(True, 6)), "w: its shape"),
        (view(numel=25), "w: its storage has 96 bytes"),
        (view(numel=2**62), "w: its storage has 96 bytes"),
        (view(key="1"), "w: its storage is not in the archive"),
        (view(key="../data.pkl"), "w: its storage is not in the archive"),
        (view(key=["0"]), "w: its storage is not in the archive"),
        (view(kind="ComplexFloatStorage"), "w: its storage is torch.ComplexFloatStorage"),
        ({"w": called(b"ctorch._utils\n_rebuild_sparse_tensor\n", 1)}, "w: it is torch._utils"),
        ({"w": GOOD, "n": 3}, "n: it is a value of type int"),
        ({"w": GOOD, 3: GOOD}, "is no text"),
        ({}, "its state dict is empty"),
        (GOOD, "it holds torch._utils._rebuild_tensor_v2 instead"),
        ([GOOD], "it holds a value of type list"),
        ({"state_dict": {"w": GOOD}, "model": {"w": GOOD}}, "two state dicts"),
        ({"state_dict": {"w": GOOD}, "ema": {"w": GOOD}}, "no list shadow_params"),
        ({"state_dict": {"w": GOOD}, "ema": {"shadow_params": [1]}}, "shadow_params 0: it is a value"),
    ],
)  # fmt: skip
def test_what_is_no_tensor_in_its_storage_is_rejected(content, says, rejects):
    assert rejects(content).startswith(says) or says in rejects(content).partition(";")[0]


def test_one_storage_under_many_names_is_limited_by_the_size_of_the_file(rejects, written):
    storages, tied = {"k": bytes(40_000)}, tensor("k", 10_000, (100, 100), (100, 1))
    assert len(read_tensors(written({"a": tied, "b": tied}, storages)).tensors) == 2
    says = rejects({f"w{i}": tied for i in range(60)}, storages)
    assert says.startswith("its tensors would have 2,400,000 bytes")


HARM = (
    called(SYSTEM, "touch executed"),
    called(b"cbuiltins\neval\n", "open('executed', 'w')"),
    called(b"cposix\nsystem\n", "touch executed"),
    called(b"cno.such.module\nname\n"),
    called(called(b"cfunctools\npartial\n", Program(SYSTEM), "touch executed")),
    Program(packed(called(b"cnumpy\nndarray\n", (1,))) + packed({"__class__": 1}) + b"b"),
    Program(packed(Program(ORDERED)) + packed((None, {"__init__": Program(SYSTEM)})) + b"b"),
    Program(SYSTEM + b")\x81"),
    called(b"cio\nopen\n", "executed", "w"),
)


@pytest.mark.parametrize("harm", HARM)
def test_what_a_pickle_calls_is_not_called(harm, written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.eval", lambda *given: pytest.fail("called"))
    for content in ({"state_dict": {"w": GOOD}, "x": harm}, {"x_extra_state": harm, "w": GOOD}):
        read = read_tensors(written(content))
        assert np.array_equal(read.tensors["w"].read(), NUMBERS.reshape(4, 6))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_harm_in_place_of_a_tensor_is_named(rejects, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rejects({"w": HARM[0]}).startswith("w: it is os.system instead of a tensor")
    assert rejects({"state_dict": called(SYSTEM, "true")}).startswith("state_dict: it is os.system")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "pickle, says",
    [
        (b"", "pickle exhausted"),
        (b".", "it takes what is not there"),
        (b"\x80\x02" + packed("a") * 3 + b"R.", "a call without a tuple"),
        (b"\x80\x02K\1K\1K\1s.", "entries for what is no dictionary"),
        (b"\x80\x02K\1K\1a.", "items for what is no list"),
        (b"\x80\x02}(K\1u.", "a key without a value"),
        (b"\x80\x02h\7.", "it takes what is not there"),
        (b"\x80\x02u.", "it takes what is not there"),
        (b"\x80\x02X\xff\xff\xff\x7f", "expected 2147483647 bytes"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f", "not enough data"),
        (b"\x80\x02\x8b\xff\xff\xff\xff", "byte count < 0"),
        (b"\x80\x05\x96" + b"\xff" * 8, "byte count > "),
        (b"\x80\x04\x94.", "instruction MEMOIZE"),
        (b"\x80\x02I1\n.", "instruction INT"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02" + packed({"a": 1}) + b"(" + packed("a") + b"K\1u.", "a stands twice"),
        (b"\xfe", "opcode"),
    ],
)  # fmt: skip
def test_a_damaged_program_is_rejected(pickle, says, rejects):
    assert says in rejects(pickle)


BOMBS = {
    "tuples": b")" + b"\x85" * 200_000,
    "lists": b"]" * 200_000 + b"a" * 199_999,
    "marks": b"(" * 200_000 + b"t" * 200_000,
    "calls": SYSTEM + b")R" + b")R" * 100_000,
    "key": b"})" + b"\x85" * 200_000 + b"Ns",
    "objects": SYSTEM + b")\x81" * 100_000,
    "laughs": b"]q\0" + b"(" + b"h\0" * 20 + b"e" + b"(h\0h\0tq\0" * 50_000,
    "itself": b"]q\0h\0ah\0a",
    "memo": b"K\1" + b"r\xff\xff\xff\xff" * 1000,
    "collisions": b"}(" + b"".join(b"\x8a\x20" + (i * (2**61 - 1)).to_bytes(32, "little") + b"N"
                                   for i in range(30_000)) + b"u",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_nesting_recursion_and_collisions_cost_what_their_instructions_do(
    name, written, tmp_path, monkeypatch
):
    pickle = b"\x80\x02" + packed({"state_dict": {"w": GOOD}})
    pickle += b"(" + packed("x") + BOMBS[name] + b"u."
    monkeypatch.setattr(engine, "ROOM", 1 << 29)
    path = written(pickle)
    reader = engine.Reader(name, 1, None, lambda case, folder: read_tensors(case))
    assert engine.classify(reader, path, tmp_path / "case") == ("accepted", "")


def test_a_program_is_limited_in_bytes_and_instructions(monkeypatch, rejects):
    monkeypatch.setattr(pickle_program, "MOST_INSTRUCTIONS", 100)
    assert "more than 100 instructions" in rejects(b"\x80\x02" + b"N" * 101 + b".")
    monkeypatch.setattr("experiments.tensor_files.torch_files.LONGEST", 100)
    assert "its pickle has 203 bytes" in rejects(b"\x80\x02" + b"N" * 200 + b".")


def test_a_global_is_a_name():
    call = described(b"\x80\x02" + called(SYSTEM, "true") + b".")
    assert isinstance(call, Call) and call.name == "os system" and call.arguments == ("true",)


def rezipped(compression, rename=lambda name: name):
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive(program({"w": GOOD}), {"0": NUMBERS.tobytes()}))) as old,
        zipfile.ZipFile(made, "w", compression) as new,
    ):
        for member in old.infolist():
            new.writestr(rename(member.filename), old.read(member))
    return made.getvalue()


@pytest.mark.parametrize(
    "content, says",
    [
        (rezipped(zipfile.ZIP_DEFLATED), "compressed or encrypted"),
        (rezipped(zipfile.ZIP_STORED, lambda name: name.replace("data.pkl", "a.pkl")), "no data.pkl"),
        (rezipped(zipfile.ZIP_STORED, lambda name: name.removeprefix("m/")), "no data.pkl"),
        (rezipped(zipfile.ZIP_STORED)[:-30], "archive is damaged"),
        (rezipped(zipfile.ZIP_STORED).replace(b"\0\0\0A", b"\0\0\1A"), "a check sum is wrong"),
        (rezipped(zipfile.ZIP_STORED).replace(b"little", b"bigger"), "a check sum is wrong"),
    ],
)  # fmt: skip
def test_an_archive_that_torch_does_not_write_is_rejected(content, says, tmp_path, rejected):
    (tmp_path / "a.pt").write_bytes(content)
    assert says in rejected(lambda: read_tensors(tmp_path / "a.pt").tensors["w"].read())


@pytest.mark.parametrize(
    "name, says",
    [
        ("../m/x", "no plain name"), ("/m/x", "no plain name"), ("m/./x", "no plain name"),
        ("m\\x", "no plain name"), ("m/a/", "no plain name"), ("n/x", "not of torch"),
        ("m/data/0", "the same name"), ("m/data.pkl", "the same name"),
    ],
)  # fmt: skip
def test_odd_names_in_an_archive_are_rejected(name, says, rejects):
    assert says in rejects({"w": GOOD}, None, {name: b"x"})


def test_members_that_overlap_or_leave_the_file_are_rejected(tmp_path, rejected):
    whole = archive(program({"w": GOOD}), {"0": NUMBERS.tobytes(), "1": NUMBERS.tobytes()})
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        first, second = file.getinfo("m/data/0"), file.getinfo("m/data/1")
    at = whole.rindex(b"m/data/1") - 4  # the offset of the second in the directory
    path = tmp_path / "a.pt"
    for offset, says in (
        (first.header_offset, "overlap"),
        (second.header_offset + 1, "is not where"),
    ):
        path.write_bytes(whole[:at] + offset.to_bytes(4, "little") + whole[at + 4 :])
        assert says in rejected(read_tensors, path)
    sizes = whole[at - 22 : at - 14]  # compressed and not
    assert sizes == 2 * (96).to_bytes(4, "little")
    path.write_bytes(whole[: at - 22] + 2 * (9999).to_bytes(4, "little") + whole[at - 14 :])
    assert "overlap" in rejected(read_tensors, path)


def test_numbers_that_are_not_little_endian_are_unsupported(tmp_path, rejected):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as new:
        new.writestr("m/data.pkl", program({"w": GOOD}))
        new.writestr("m/byteorder", "big")
        new.writestr("m/data/0", NUMBERS.tobytes())
    assert "not little-endian" in rejected(read_tensors, tmp_path / "a.pt")
