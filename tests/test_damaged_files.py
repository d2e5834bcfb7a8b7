"""Files and settings that fuzzing found to be read wrongly are rejected in a line, or made anew."""

import json
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.compression.archive import MAGIC, unpack
from experiments.compression.coding import decode as decode_words
from experiments.compression.text import check_rows
from experiments.data import preparing
from experiments.data.builders import builder_class
from experiments.data.statistics import read_table
from experiments.data.subwords import Subwords
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Bytes, Characters
from experiments.evaluation.record_files import read_record
from experiments.overrides import named, override
from experiments.plain_json import dumped, parse
from experiments.sampling.samples_file import read_samples
from experiments.serialization import decode, encode
from experiments.studies.fuzzing import record_readers, run_readers, settings_readers
from experiments.training.metrics import Metrics, read_metric
from experiments.training.workdir import check_workdir
from samplers.sampler import Sampler

DEEP = b"[" * 100_000
PLAIN = settings_readers.experiments()[0]


@pytest.mark.parametrize(
    "content, said",
    [
        (DEEP, "nested deeper"),
        (b"[" * 70 + b"]" * 70, "nested deeper"),
        (b"1" * 400, "64 bits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[1,]", "line 1"),
    ],
)
def test_json_that_would_fail_later_is_rejected(content, said):
    with pytest.raises(ValueError, match=said):
        parse(content)


@pytest.mark.parametrize(
    "text, fault",
    [
        ("NaN", "it is NaN"),
        ("-1e999", "it is -Infinity"),
        ('{"a": [0, {"b": NaN}]}', "a.1.b is NaN"),
    ],
)
def test_json_of_finite_numbers_has_no_others(text, fault):
    parse(text)
    with pytest.raises(ValueError, match=f"^{fault}, no finite number$"):
        parse(text, finite=True)


def test_json_of_ours_has_null_for_what_is_not_finite():
    made = dumped({"a": (1.5, np.inf, {"b": float("nan")}), "c": -np.inf, "d": "NaN", "e": True})
    assert parse(made, finite=True) == {
        "a": [1.5, None, {"b": None}],
        "c": None,
        "d": "NaN",
        "e": True,
    }


def test_json_takes_whole_pairs_and_nesting_as_of_configs():
    assert parse(json.dumps({"a": "𝔸", "b": [[[-1.5e3, 2**63 - 1]]]})) == {
        "a": "𝔸",
        "b": [[[-1500.0, 2**63 - 1]]],
    }


def stored(path, value):
    """The stored config with the value at the dotted path."""
    plain = json.loads(json.dumps(encode(PLAIN)))
    *path, last = path.split(".")
    inner = plain
    for name in path:
        inner = inner[name]
    inner[last] = value
    return plain


@pytest.mark.parametrize(
    "content",
    [
        b"0",
        b"null",
        b"[]",
        DEEP,
        b"\xff",
        b'{"_type": "os.system"}',
        b'{"_type": "a\\nb"}',
        b'{"_type": 1}',
    ],
)
def test_config_json_that_is_no_config_is_rejected(content, tmp_path, rejected):
    (tmp_path / "config.json").write_bytes(content)
    rejected(check_workdir, tmp_path, PLAIN)


@pytest.mark.parametrize(
    "path, value",
    [
        ("process", {"_type": "experiments.config.Mesh"}),  # a setting, but of another place
        ("model", {"_type": "diffusion.mdlm.MDLM"}),
        ("data.tokenizer", {"_type": "experiments.config.Train"}),
        (
            "sampler",
            {"_type": "experiments.compression.archive.Header"},
        ),  # a dataclass, but no setting
        ("sampler", {"_type": "experiments.config.runpy.run_path"}),
        ("sampler", {"_type": "os.system", "command": "true"}),
        ("data.tokenizer", {"_type": "builtins.eval"}),
        ("optimizer", None),
        ("optimizer.schedule.peak_lr", 10**400),
        ("data.path", "a\x1b[2J\n" * 3),
        ("process.nothing\n", 1),
    ],
)
def test_stored_setting_that_may_not_stand_there_is_rejected(path, value, rejected):
    data = stored(path, value)
    if path == "data.path":
        data["data"]["labels"] = "period"  # rejected with the path in its message
    rejected(decode, data)


def test_stored_config_imports_no_module_that_has_no_settings(rejected):
    name = "experiments.studies.long_run"
    sys.modules.pop(name, None)
    rejected(decode, stored("sampler", {"_type": f"{name}.Path"}))
    assert name not in sys.modules


@pytest.mark.parametrize(
    "item",
    [
        "train.num_steps=" + "[" * 5000,
        "train.num_steps=" + "-" * 20_000 + "1",
        "train.num_steps={[]: 1}",
        "optimizer.schedule.peak_lr=" + "1" * 400,
        "train.num_steps=a\nb",
        "\n=1",
        "x" * 20_000 + "=1",
    ],
)
def test_override_that_no_setting_takes_is_rejected(item, rejected):
    rejected(override, PLAIN, [item])


def test_sampler_without_a_name_is_rejected(rejected):
    rejected(named, Sampler, PLAIN.sampler, " ", "--sampler")


def test_metrics_pass_over_lines_that_are_none(tmp_path):
    good = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]
    bad = [
        b"null",
        b"[1]",
        b"{}",
        b'{"step": "1", "loss": 1}',
        b"\xff",
        DEEP,
        b'{"step": 1, "loss": "a"}',
    ]
    lines = [json.dumps(good[0]).encode(), *bad, json.dumps(good[1]).encode()]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert read_metric(tmp_path, "loss") == [(1, 2.5), (2, 2.0)]
    with Metrics(tmp_path, 1):
        pass
    assert read_metric(tmp_path, "loss") == [(1, 2.5)]


@pytest.mark.parametrize("value", ['"\\ud800"', "1" * 400])
def test_record_that_no_table_takes_is_rejected(value, tmp_path, rejected):
    record = json.dumps(record_readers.RECORD | {"source": None, "value": 0.5})
    record = record.replace(
        '"source": null', f'"source": {value}' if "u" in value else '"source": "a"'
    )
    (tmp_path / "a.json").write_text(record.replace('"value": 0.5', f'"value": {value}'))
    rejected(read_record, tmp_path / "a.json")


@pytest.mark.parametrize("value", ["NaN", "1e999", "1" * 400, "[" * 70 + "]" * 70, '"\\udc00"'])
def test_sample_that_no_record_takes_is_rejected(value, tmp_path, rejected):
    (tmp_path / "s.jsonl").write_text('{"text": "a", "seed": ' + value + "}\n")
    assert "s.jsonl:1" in rejected(read_samples, tmp_path / "s.jsonl")


def test_tables_are_no_larger_than_their_files(tmp_path, rejected):
    path = tmp_path / "a.npy"
    np.save(path, np.eye(2))
    good = path.read_bytes()
    assert read_table(str(path), "matrix") == ((1.0, 0.0), (0.0, 1.0))
    contents = [b"", good[:40], good.replace(b"'descr':", b"'descr' ")]
    shapes = (b"(10**18, 1)", b"(10000000000, 0)", b"(1000000000000000000, 4)", b"(3000000000, 1)")
    for shape in shapes:
        text = b"{'descr': '<f8', 'fortran_order': False, 'shape': " + shape + b", }"
        contents.append(good[:10] + text.ljust(117) + b"\n" + bytes(64))
    for content in contents:
        path.write_bytes(content)
        rejected(read_table, str(path), "matrix")
    np.save(path, np.ones((2, 2), complex))
    rejected(read_table, str(path), "matrix")


def test_empty_sentencepiece_model_is_rejected(tmp_path, rejected):
    (tmp_path / "a.model").write_bytes(b"")
    assert "it is empty" in rejected(Subwords(str(tmp_path / "a.model")).read)


def test_zip_that_is_damaged_in_its_names_or_locked_is_rejected(tmp_path, rejected):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.txt", "text")
    good = path.read_bytes()
    end = good.index(b"PK\x05\x06")
    at = good.index(b"PK\x01\x02")
    nameless = bytearray(good)
    nameless[at + 28] = 0  # the length of the name
    locked = bytearray(good)
    locked[6], locked[at + 8] = 1, 1  # a password
    latin = bytearray(good.replace(b"train.txt", b"tr\xe9in.txt"))
    latin[7], latin[at + 9] = 8, 8  # names in UTF-8
    strange = bytearray(good)
    strange[8], strange[at + 10] = 77, 77  # the kind of compression
    assert end > at
    for content in (nameless, locked, latin, strange):
        path.write_bytes(content)
        rejected(prepare, Text(str(path), Bytes(), cache_dir=str(tmp_path / "cache")))
        kind, out = builder_class("documents"), tmp_path / "out"
        rejected(preparing.prepare, kind, str(path), out, True, lambda line: None)


def test_no_name_leads_out_of_an_archive(tmp_path, rejected):
    for number, name in enumerate(
        ("../a.txt", "/a.txt", "//a.txt", "b/../../a.txt", "C:\\a.txt", "..\\a.txt")
    ):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "text")
        kind, out = builder_class("documents"), tmp_path / "out"
        told = rejected(preparing.prepare, kind, str(path), out, True, lambda line: None)
        assert "would leave the archive" in told
    assert not out.exists() and not list(tmp_path.rglob("a.txt"))


@pytest.fixture
def cached(tmp_path):
    """(a Text, the folder that its tokens are in)."""
    (tmp_path / "a.txt").write_text("of the people by the people\n" * 20)
    data = Text(str(tmp_path / "a.txt"), Characters(), cache_dir=str(tmp_path / "cache"))
    prepare(data)
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if not path.is_symlink())
    return data, folder


@pytest.mark.parametrize(
    "changes",
    [
        {"bounds": {"train": [0, 9], "validation": [9, 12], "test": 7}},
        {"bounds": {"train": [0, 9], "validation": [5, 12], "test": [12, 10**9]}},
        {"bounds": []},
        {"sha256": 1},
        {"dtype": "O"},
        {"dtype": 3},
        {"symbols": "abc"},
        {"symbols": None},
        {"unknown": 5},
    ],
)
def test_prepared_tokens_of_another_form_are_prepared_anew(changes, cached):
    data, folder = cached
    good = (folder / "corpus.json").read_text()
    (folder / "corpus.json").write_text(json.dumps(json.loads(good) | changes))
    corpus = prepare(data)
    assert corpus.tokenizer.decode(corpus.tokens) == Path(data.path).read_text()
    assert (folder / "corpus.json").read_text() == good


@pytest.mark.parametrize("content", [b"[]", DEEP, b"\xff", b""])
def test_prepared_tokens_without_their_description_are_prepared_anew(content, cached):
    data, folder = cached
    (folder / "corpus.json").write_bytes(content)
    corpus = prepare(data)
    assert corpus.tokenizer.decode(corpus.tokens) == Path(data.path).read_text()


def test_prepared_tokens_with_a_changed_bit_are_prepared_anew(cached):
    data, folder = cached
    tokens = bytearray((folder / "tokens.bin").read_bytes())
    tokens[7] ^= 1
    (folder / "tokens.bin").write_bytes(tokens)
    corpus = prepare(data)
    assert corpus.tokenizer.decode(corpus.tokens) == Path(data.path).read_text()


@pytest.mark.parametrize("name", ["labels.npy", "documents.npy"])
def test_prepared_tables_with_a_damaged_header_are_prepared_anew(name, tmp_path):
    for folder in ("in/a", "in/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text("of the people\n" * 20)
    data = Text(str(tmp_path / "in"), Bytes(), cache_dir=str(tmp_path / "cache"))
    options = {"labels": "folder"} if name == "labels.npy" else {"rows": "pack", "document": "line"}
    data = replace(data, **options)
    prepare(data)
    (path,) = (tmp_path / "cache").glob(f"*/{name}")
    good = path.read_bytes()
    for bad in (good[:40], good.replace(b"'descr':", b"'descr' "), good.replace(b"<i8", b"<f8")):
        path.write_bytes(bad)
        prepare(data)
        assert path.read_bytes() == good


def test_killed_preparation_whose_notes_do_not_fit_begins_anew(tmp_path):
    (tmp_path / "a.txt").write_text("of the people\nby the people\n" * 20)
    data = Text(str(tmp_path / "a.txt"), Bytes(), rows="pack", document="line")
    whole = prepare(replace(data, cache_dir=str(tmp_path / "good")))
    (done,) = (tmp_path / "good").iterdir()
    notes = (
        {"documents": 2, "sizes": {"all": 5}},
        {"documents": 2, "sizes": {"all": "x"}},
        [],
        DEEP,
    )
    for number, note in enumerate(notes):
        work = tmp_path / f"{number}" / f".preparing-{done.name}"
        work.mkdir(parents=True)
        shutil.copy(done / "tokens.bin", work)
        np.array([[13, 13, 3]] * 3).tofile(work / "documents.bin")
        content = note if isinstance(note, bytes) else json.dumps(note).encode()
        (work / "progress.json").write_bytes(content)
        found = prepare(replace(data, cache_dir=str(tmp_path / f"{number}")))
        assert found.bounds == whole.bounds and found.sha256 == whole.sha256


def test_dataset_json_that_is_none_is_rejected(tmp_path, rejected):
    (tmp_path / "train.txt").write_text("of the people " * 20)
    for content in (DEEP, b"[]", b"\xff"):
        (tmp_path / "dataset.json").write_bytes(content)
        assert "dataset.json is damaged" in rejected(prepare, Text(str(tmp_path)))


def test_compressed_text_asks_for_no_more_than_there_is(rejected):
    assert "damaged" in rejected(unpack, MAGIC + DEEP[:60_000], Path("a.ddlm"))
    check_rows(32, PLAIN, Path("a.ddlm"))
    assert "sequences at a time" in rejected(check_rows, 10**12, PLAIN, Path("a.ddlm"))


def test_words_that_no_coder_writes_are_rejected(rejected):
    words = np.full(5, 0xFFFFFFFF, np.uint32)
    distributions = run_readers.ThreeLetters()
    assert "damaged" in rejected(decode_words, distributions, words, 40, lambda done, total: None)
