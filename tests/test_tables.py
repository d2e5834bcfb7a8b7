"""Tables as documents: the rows of Parquet, of what Hugging Face's `datasets` saves, and of what
tensorflow-datasets prepares, in order; and what is rejected."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published import (
    SPLITS,
    lines_of,
    read,
    run,  # noqa: F401
    text_of,
    zipped,
)

from experiments.data.builders import builder_class

DOCUMENTS = [f"Document {n}.\n\nIts second   paragraph — {n}\r\nend\n" for n in range(40)]
ON_A_LINE = [f"Document {n}. Its second   paragraph — {n} end" for n in range(40)]


def save(path, texts, column="text"):
    """A table with the texts as `path` says, another column beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"n": list(range(len(texts))), column: texts})
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=7)
    else:  # the stream that `Dataset.save_to_disk` writes, several batches of it
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)


def saved_to_disk(folder, texts, shards):
    """What `Dataset.save_to_disk` of version 5.2 leaves, and a cache that a later `map` adds."""
    size = len(texts) // shards
    for n in range(shards):
        part = texts[n * size : (n + 1) * size]
        save(folder / f"data-{n:05}-of-{shards:05}.arrow", part)
    save(folder / "cache-1a2b.arrow", ["no"])
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_rows_are_documents_in_order(kind, run, tmp_path):
    source = tmp_path / "source"
    if kind == "arrow":
        saved_to_disk(source, DOCUMENTS, 2)
    else:
        save(source / "a-00000-of-00002.parquet", DOCUMENTS[:30])
        save(source / "a-00001-of-00002.parquet", [None, *DOCUMENTS[30:]][1:])
    run("documents", source)
    found = {s: (tmp_path / "out" / f"{s}.txt").read_text().splitlines() for s in SPLITS}
    assert found["valid"] == ON_A_LINE[9::20] and found["test"] == ON_A_LINE[19::20]
    assert found["train"] == [text for n, text in enumerate(ON_A_LINE) if n % 20 not in (9, 19)]


def test_splits_that_were_saved_are_those_splits_and_rows_without_text_are_none(run, tmp_path):
    source = tmp_path / "source"
    for number, split in enumerate(("train", "validation", "test")):
        saved_to_disk(source / split, DOCUMENTS[number : number + 1], 1)
    save(source / "test" / "z.parquet", [None, "", "last"])
    (source / "dataset_dict.json").write_text("{}")
    run("documents", source)
    found = [(tmp_path / "out" / f"{split}.txt").read_text().splitlines() for split in SPLITS]
    assert found == [[ON_A_LINE[0]], [ON_A_LINE[1]], [ON_A_LINE[2], "last"]]


def test_what_tensorflow_datasets_prepared_is_prepared_from(run, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for split in SPLITS:
        (source / f"{split}.txt").write_text(text_of(lines_of(split)))
    run("lines", source)
    records = tmp_path / "records"
    builder = builder_class("lines")(source=source, data_dir=records, file_format="array_record")
    builder.download_and_prepare()
    run("documents", Path(builder.data_dir), out=tmp_path / "again")
    for split in SPLITS:
        found = (tmp_path / "again" / f"{split}.txt").read_text()
        assert found == text_of(line.strip() for line in lines_of(split))


def test_the_column_is_asked_for_and_written_down(run, tmp_path):
    save(tmp_path / "source" / "a.parquet", DOCUMENTS, "content")
    record = json.dumps({"content": "of a record"})
    (tmp_path / "source" / "b.jsonl").write_text(f"{record}\n" * 20)
    said = run("documents", tmp_path / "source", code=2)
    assert "a.parquet: the column 'text' is not there; set --column to one of: content" in said
    said = run("documents", tmp_path / "source", "--column", "n", code=2)
    assert "the column 'n' is not of text; set --column to one of: content" in said
    run("documents", tmp_path / "source", "--column", "content")
    files = read(tmp_path / "out")
    assert json.loads(files["dataset.json"])["column"] == "content"
    assert files["train.txt"].decode().splitlines()[-1] == "of a record"
    assert "(other column)" in run("documents", tmp_path / "source", code=2)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.array_record-00000-of-00001"])
@pytest.mark.parametrize("change", ["cut", "text", "empty"])
def test_a_damaged_table_is_one_line(name, change, run, tmp_path):
    path = tmp_path / "source" / name
    if "array_record" in name:
        lines = tmp_path / "lines.txt"
        lines.write_text(text_of(DOCUMENTS))
        data = {"data_dir": tmp_path / "records", "file_format": "array_record"}
        builder = builder_class("lines")(source=lines, **data)
        builder.download_and_prepare()
        made = Path(builder.data_dir)
        path = next(made.glob("*train*"))
        for other in [*made.glob("*valid*"), *made.glob("*test*")]:
            other.unlink()
    else:
        save(path, DOCUMENTS)
    whole = path.read_bytes()
    path.write_bytes(
        {"cut": whole[: len(whole) // 2], "text": b"text\n" * 999, "empty": b""}[change]
    )
    said = run("documents", path.parent, code=2)
    assert path.name in said and ("damaged or cut short" in said or "is empty" in said)
    assert not (tmp_path / "out").exists()


def test_offsets_that_lead_out_of_a_table_are_not_followed(run, tmp_path):
    path = tmp_path / "source" / "a.arrow"
    save(path, ["one", "three"])
    whole = path.read_bytes()
    offsets = np.array([0, 3, 8], "<i4").tobytes()
    assert whole.count(offsets) == 1
    path.write_bytes(whole.replace(offsets, np.array([0, 3, 1 << 30], "<i4").tobytes()))
    assert "a.arrow: damaged or cut short" in run("documents", path.parent, code=2)


def test_a_table_in_an_archive_is_one_line(run, tmp_path):
    save(tmp_path / "a.parquet", DOCUMENTS)
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "source.zip").write_bytes(zipped({"a.parquet": content}))
    assert "a table inside an archive" in run("documents", tmp_path / "source.zip", code=2)


def test_no_module_that_a_description_of_records_names_is_imported(run, tmp_path, monkeypatch):
    lines = tmp_path / "lines.txt"
    lines.write_text(text_of(DOCUMENTS))
    data = {"data_dir": tmp_path / "records", "file_format": "array_record"}
    builder = builder_class("lines")(source=lines, **data)
    builder.download_and_prepare()
    description = Path(builder.data_dir) / "features.json"
    known = json.loads(description.read_text())
    (tmp_path / "hostile_features.py").write_text("import pathlib; pathlib.Path('RAN').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    column = {"pythonClassName": "hostile_features.Feature", "text": {}}
    features = known["featuresDict"]["features"]
    for changed, code in (
        ({"featuresDict": {"features": {**features, "more": column}}}, 0),
        ({"featuresDict": {"features": {"text": column}}}, 2),
        ({"featuresDict": 7}, 2),
        ({"pythonClassName": "hostile_features.Feature"}, 0),
        ({"type": "hostile_features.Feature", "content": {}}, 0),
    ):
        description.write_text(json.dumps(known | changed))
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        run("documents", Path(builder.data_dir), out=out, code=code)
        assert not (tmp_path / "RAN").exists()
