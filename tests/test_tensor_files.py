"""Published tensors are read exactly, or rejected in one line: safetensors, folders, every fixture."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

import experiments.tensor_files
from experiments.errors import UserError
from experiments.tensor_files import StoredTensor, read_tensors, write_safetensors

CHECKPOINTS = Path(os.environ.get("DDLM_CHECKPOINTS", GOLDEN / "checkpoints"))
CASES = sorted(path.parent for path in CHECKPOINTS.glob("*/about.json"))
REJECTED = {  # what the message says beside the file
    "bad_truncated": "the file has",
    "bad_overlapping_offsets": "claim the same bytes",
    "bad_header_length": "fewer than its header",
    "bad_torch_out_of_bounds": "blocks.0.attn_out.weight",
    "format_legacy_torch": "legacy format of torch",
}
DTYPES = (
    "float64", "float32", "float16", ml_dtypes.bfloat16, "int64", "int32", "int16", "int8", "uint64",
    "uint32", "uint16", "uint8", "bool",
)  # fmt: skip


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin, end, dtype="F32", shape=None):
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def weights(folder):
    return [
        p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt", ".ckpt", ".pth")
    ]


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_a_fixture_is_read_or_rejected_as_it_says(folder, tmp_path, monkeypatch, rejected):
    about = json.loads((folder / "about.json").read_text())
    monkeypatch.chdir(tmp_path)
    if folder.name in REJECTED:
        assert about["expect"] == "refuse"
        message = rejected(read_tensors, folder)
        assert REJECTED[folder.name] in message and str(weights(folder)[0]) in message
        return
    read = read_tensors(folder)
    assert read.tensors and {*read.paths} >= {*weights(folder)}
    for stored in (*read.tensors.values(), *(read.average or ())):
        array = stored.read()
        assert array.shape == stored.shape and array.dtype == stored.dtype
        assert np.isfinite(np.asarray(array, np.float64)).all()
    write_safetensors("again.safetensors", read.tensors)
    again = read_tensors("again.safetensors").tensors
    assert list(again) == list(read.tensors)
    assert all(same(again[name].read(), read.tensors[name].read()) for name in again)
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]


def test_the_fixtures_have_the_tensors_that_the_published_code_has():
    sizes = json.loads((CHECKPOINTS / "format_lightning_ckpt" / "about.json").read_text())["sizes"]
    read = read_tensors(CHECKPOINTS / "format_lightning_ckpt")
    table = read.tensors["backbone.vocab_embed.embedding"]
    assert table.shape == read.average[0].shape == (sizes["V"], sizes["hidden"])
    assert not same(table.read(), read.average[0].read())
    trained = [t for name, t in read.tensors.items() if not name.endswith("inv_freq")]
    assert len(trained) == len(read.average)
    assert read_tensors(CHECKPOINTS / "mdlm").average is None
    half = read_tensors(CHECKPOINTS / "format_bf16").tensors
    assert {t.dtype for t in half.values()} == {np.dtype(ml_dtypes.bfloat16)}
    plaid = read_tensors(CHECKPOINTS / "plaid")
    assert {name.split(".")[0] for name in plaid.tensors} == {path.stem for path in plaid.paths}
    assert "noise_schedule.W1" in plaid.tensors


def test_the_package_needs_numpy_alone_and_unpickles_nothing():
    folder = Path(experiments.tensor_files.__file__).parent
    modules = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module)
    ours = {m for m in modules if m.startswith("experiments")}
    assert {m for m in ours if "tensor_files" not in m} == {
        "experiments.errors",
        "experiments.files",
    }
    others = {m.split(".")[0] for m in modules - ours}
    assert (
        others - set(sys.stdlib_module_names) == {"numpy", "ml_dtypes"} and "pickle" not in others
    )
    program = "import sys, experiments.tensor_files; assert not {'jax', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=GOLDEN.parent.parent)


arrays = st.builds(
    lambda dtype, shape, seed: (
        np.random.default_rng(seed).integers(0, 2, shape).astype(bool)
        if dtype == "bool"
        else np.random.default_rng(seed).bytes(
            np.prod(shape, dtype=int) * np.dtype(dtype).itemsize
        ),
        np.dtype(dtype),
        tuple(shape),
    ),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 99),
).map(lambda made: np.frombuffer(made[0], made[1]).reshape(made[2]))
names = st.text(max_size=5).filter(lambda name: name != "__metadata__")


@settings(max_examples=60, deadline=None, database=None)
@given(st.dictionaries(names, arrays), st.dictionaries(st.text(max_size=3), st.text(max_size=3)))
def test_what_is_written_is_read_bit_for_bit(tmp_path_factory, tensors, metadata):
    path = tmp_path_factory.mktemp("round") / "model.safetensors"
    write_safetensors(path, tensors, metadata)
    read = read_tensors(path).tensors
    assert list(read) == list(tensors)
    assert all(same(read[name].read(), tensors[name]) for name in tensors)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0 and header.pop("__metadata__", {}) == metadata
    assert not any(header[n]["data_offsets"][0] % tensors[n].itemsize for n in tensors)  # aligned


def test_a_file_that_is_written_is_whole_or_as_it_was_and_made_one_tensor_at_a_time(
    tmp_path, rejected
):
    path, alive = tmp_path / "a.safetensors", []

    def make(number):
        alive.append(number)
        return np.full((2, 3), number, np.float32).T

    stored = {str(i): StoredTensor((3, 2), np.dtype("f4"), lambda i=i: make(i)) for i in range(3)}
    write_safetensors(path, stored)
    assert alive == [0, 1, 2] and read_tensors(path).tensors["2"].read().tolist() == [[2, 2]] * 3
    before = path.read_bytes()
    stored["1"] = StoredTensor((3, 2), np.dtype("f4"), lambda: np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="was promised"):
        write_safetensors(path, stored)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
    assert "c: " in rejected(write_safetensors, path, {"c": np.zeros(2, complex)})
    assert "__metadata__" in rejected(write_safetensors, path, {"__metadata__": np.zeros(2)})


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "is empty"),
        (b"\0" * 20, "unknown format"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"\x80\x02}q\0.", "a pickle without the archive"),
        (safetensors({}, length=99), "fewer than its header of 99"),
        (safetensors({}, bytes(4)), "4 bytes at its end belong to no tensor"),
        (safetensors({"a": entry(4, 8)}, bytes(8)), "4 bytes between the header and a"),
        (safetensors({"a": entry(0, 8), "b": entry(4, 8)}, bytes(8)), "a and b claim the same bytes"),
        (safetensors({"a": entry(0, 12)}, bytes(8)), "a: it ends at byte 12 of the data"),
        (safetensors({"a": entry(0, 8, shape=[3])}, bytes(8)), "takes 12 bytes, its data_offsets 8"),
        (safetensors({"a": entry(8, 0)}, bytes(8)), "a: its data_offsets 8, 0"),
        (safetensors({"a": entry(-4, 4)}, bytes(8)), "a: its data_offsets -4, 4"),
        (safetensors({"a": entry(0, 8, shape=[-2])}, bytes(8)), "a: its shape"),
        (safetensors({"a": entry(0, 8, shape=[True, 2])}, bytes(8)), "a: its shape"),
        (safetensors({"a": entry(0, 8, shape=[2.0])}, bytes(8)), "a: its shape"),
        (safetensors({"a": entry(0, 0, shape=[0, 10**30])}), "a: its shape"),
        (safetensors({"a": entry(0, 0, shape=[0] * 70)}), "a: it has 70 axes"),
        (safetensors({"a": entry(0, 8, "F8_E4M3")}, bytes(8)), "a: its dtype F8_E4M3 is unsupported"),
        (safetensors({"a": entry(0, 8, ["F32"])}, bytes(8)), "a: its dtype that is no text"),
        (safetensors({"a": {"dtype": "F32"}}), "a: its entry"),
        (safetensors({"__metadata__": {"a": 1}}), "__metadata__"),
        (safetensors(b'{"a":{},"a":1}'), "a stands twice"),
        (safetensors(b'{"a":' * 5000), "nested too deeply"),
        (safetensors(b'{"a":NaN}'), "NaN is no JSON"),
        (safetensors(b"{\xff}"), "not valid JSON"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_rejected_in_words(content, says, tmp_path, rejected):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    message = rejected(read_tensors, path)
    assert says in message and str(path) in message


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path, rejected):
    path = tmp_path / "a.safetensors"
    path.write_bytes((200_000_000).to_bytes(8, "little") + b"{")
    os.truncate(path, 300_000_000)
    assert "200,000,000" in rejected(read_tensors, path)


def test_a_truth_value_that_is_neither_is_rejected(tmp_path, rejected):
    path = tmp_path / "a"
    path.write_bytes(safetensors({"a": entry(0, 2, "BOOL", [2])}, b"\1\2"))
    assert "neither 0 nor 1" in rejected(read_tensors(path).tensors["a"].read)


def test_a_large_tensor_is_mapped_and_one_that_is_not_aligned_is_copied(tmp_path):
    path, size = tmp_path / "large", 1 << 36
    text = json.dumps(
        {"a": entry(0, size), "b": entry(size, size + 3, "U8", [3]), "c": entry(size + 3, size + 7)}
    )
    text += " " * (-len(text) % 8)
    path.write_bytes(safetensors(text.encode()))
    os.truncate(path, 8 + len(text) + size + 7)  # a hole, which takes no space
    read = read_tensors(path).tensors
    assert read["a"].read()[-5:].tolist() == [0] * 5 and not read["a"].read().flags.writeable
    assert read["c"].read().tolist() == [0]
    assert read["c"].read().flags.aligned


def test_a_file_that_shrinks_after_it_was_opened_says_so(tmp_path, rejected):
    write_safetensors(tmp_path / "a", {"a": np.zeros(5000)})
    read = read_tensors(tmp_path / "a").tensors
    os.truncate(tmp_path / "a", 1000)
    assert "cannot be read any more" in rejected(read["a"].read)


@pytest.fixture
def shards(tmp_path):
    """A folder of two shards and what its index says."""
    write_safetensors(tmp_path / "1.safetensors", {"a": np.zeros(2), "b": np.ones(3)})
    write_safetensors(tmp_path / "2.safetensors", {"c": np.arange(4)})
    return tmp_path, {"a": "1.safetensors", "c": "2.safetensors", "b": "1.safetensors"}


def write_index(folder, names):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def test_shards_are_read_in_the_order_of_their_index(shards):
    folder, names = shards
    write_index(folder, names)
    read = read_tensors(folder)
    assert list(read.tensors) == ["a", "c", "b"] and read.tensors["c"].read().tolist() == [
        0,
        1,
        2,
        3,
    ]
    assert [p.name for p in read.paths] == [
        "model.safetensors.index.json",
        "1.safetensors",
        "2.safetensors",
    ]
    assert list(read_tensors(read.paths[0]).tensors) == ["a", "c", "b"]


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda names: names | {"d": "1.safetensors"}, "lacks d"),
        (lambda names: names | {"b": "2.safetensors"}, "holds b"),
        (lambda names: {k: names[k] for k in "ac"}, "holds b"),
        (lambda names: names | {"d": "3.safetensors"}, "3.safetensors: there is no such file"),
        (lambda names: names | {"a": "../1.safetensors"}, "weight_map of a"),
        (lambda names: names | {"a": "/1.safetensors"}, "weight_map of a"),
        (lambda names: names | {"a": "1.bin"}, "weight_map of a"),
        (lambda names: names | {"a": 1}, "weight_map of a"),
        (lambda names: [], "no weight_map"),
    ],
)
def test_an_index_that_says_what_is_not_so_is_rejected(change, says, shards, rejected):
    folder, names = shards
    write_index(folder, change(names))
    assert says in rejected(read_tensors, folder)


def test_a_folder_holds_one_checkpoint(tmp_path, rejected):
    assert "holds no checkpoint" in rejected(read_tensors, tmp_path)
    write_safetensors(tmp_path / "odd_name.safetensors", {"a": np.zeros(2)})
    (tmp_path / "config.json").write_text("{}")
    assert list(read_tensors(tmp_path).tensors) == ["a"]
    (tmp_path / "last.ckpt").write_bytes(b"")  # the same in an older form, as in many a folder
    assert list(read_tensors(tmp_path).tensors) == ["a"]
    write_safetensors(tmp_path / "other.safetensors", {"a": np.zeros(2)})
    assert "odd_name.safetensors, other.safetensors" in rejected(read_tensors, tmp_path)
    for name in ("odd_name.safetensors", "other.safetensors"):
        (tmp_path / name).unlink()
    (tmp_path / "first.ckpt").write_bytes(b"")
    assert "first.ckpt, last.ckpt" in rejected(read_tensors, tmp_path)
    assert "no such file" in rejected(read_tensors, tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in rejected(read_tensors, tmp_path / "pipe")


def test_the_content_decides_and_links_are_followed(tmp_path):
    write_safetensors(tmp_path / "blob", {"a": np.zeros(2)})
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "pytorch_model.bin").symlink_to(tmp_path / "blob")
    assert list(read_tensors(tmp_path / "snapshot").tensors) == ["a"]
    with pytest.raises(UserError, match="is empty"):
        (tmp_path / "blob").write_bytes(b"")
        read_tensors(tmp_path / "snapshot")


def test_parts_of_plaid_name_what_is_missing(tmp_path, rejected):
    for part in (GOLDEN / "checkpoints/plaid").glob("*.pt"):
        if part.name != "gamma_bounds.pt":
            shutil.copy(part, tmp_path)
    assert "gamma_bounds.pt is missing" in rejected(read_tensors, tmp_path)
