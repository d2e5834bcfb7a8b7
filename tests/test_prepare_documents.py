"""Documents as corpora: records and files in all packings, their splits, and what is rejected."""

import gzip
import json
import lzma
import random
import re

import pytest
from published import (
    PACK,
    SPLITS,
    run,  # noqa: F401
    tar,
    zipped,
)

from experiments.data import preparing, streams


def write_documents(source, documents):
    """Twenty documents at a time in files of all kinds, in order."""
    source.mkdir()
    records = [json.dumps({"id": n, "text": text}) for n, text in enumerate(documents)]
    (source / "a.jsonl").write_text("\n\n".join(records[:20]))
    (source / "b.jsonl.xz").write_bytes(lzma.compress("\n".join(records[20:40]).encode()))
    (source / "c.jsonl.gz").write_bytes(gzip.compress("\n".join(records[40:50]).encode()))
    (source / "d.jsonl.zst").write_bytes(PACK[".zst"]("\n".join(records[50:]).encode()))
    for n in range(3):
        (source / f"e{n}.txt").write_text(f"\n file {n}\r\n\n of two lines\n")
    (source / "image.png").write_bytes(b"\xff")


def test_documents_are_a_line_each_and_every_twentieth_is_held_out(run, tmp_path):
    documents = [f"Document {n}.\n\nIts second   paragraph — {n}\r\nend\n" for n in range(57)]
    write_documents(tmp_path / "source", documents)
    run("documents", tmp_path / "source")
    expected = [f"Document {n}. Its second   paragraph — {n} end" for n in range(57)]
    expected += [f"file {n} of two lines" for n in range(3)]
    found = {s: (tmp_path / "out" / f"{s}.txt").read_text().splitlines() for s in SPLITS}
    assert found["valid"] == expected[9::20] and found["test"] == expected[19::20]
    assert found["train"] == [text for n, text in enumerate(expected) if n % 20 not in (9, 19)]


@pytest.mark.parametrize(
    "record, message",
    [
        ('{"text": "cut', "line 2: not a JSON record"),
        ('{"body": "text"}', "line 2: not a JSON record"),
        ('{"text": 3}', "line 2: not a JSON record"),
        ('"text"', "line 2: not a JSON record"),
        ('{"text": "\\ud800"}', "line 2: not a JSON record"),
        ("[" * 100_000, "line 2: not a JSON record"),
    ],
)
def test_a_record_that_is_none_is_one_line(record, message, run, tmp_path):
    (tmp_path / "source.jsonl").write_text('{"text": "fine"}\n' + record)
    assert message in run("documents", tmp_path / "source.jsonl", code=2)
    assert not (tmp_path / "out").exists()


def test_blank_lines_are_no_documents(run, tmp_path):
    (tmp_path / "source.txt").write_text("".join(f"{n}\n\n  \n" for n in range(40)))
    run("lines", tmp_path / "source.txt")
    assert (tmp_path / "out" / "valid.txt").read_text() == "9\n29\n"


def test_records_in_a_file_cut_short_are_one_line(run, tmp_path):
    records = "".join(f'{{"text": "document {n}"}}\n' for n in range(400))
    (tmp_path / "source.jsonl.gz").write_bytes(gzip.compress(records.encode())[:-4])
    assert "damaged or cut short" in run("documents", tmp_path / "source.jsonl.gz", code=2)


def test_too_few_documents_for_three_splits_are_rejected(run, tmp_path):
    (tmp_path / "source.txt").write_text("one\ntwo\n\nthree\n")
    assert "the valid split has no text" in run("lines", tmp_path / "source.txt", code=2)
    assert not (tmp_path / "out").exists()


def test_files_named_after_splits_are_those_splits(run, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("my.train.1.txt", "my.train.2.txt", "my-validation.txt", "my_test.txt.gz"):
        content = f"{name}\n \n".encode()
        (source / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    run("lines", source)
    files = {s: (tmp_path / "out" / f"{s}.txt").read_text() for s in SPLITS}
    assert files["train"] == "my.train.1.txt\nmy.train.2.txt\n"
    assert files["valid"] == "my-validation.txt\n" and files["test"] == "my_test.txt.gz\n"
    (source / "my_test.txt.gz").unlink()
    assert "named after train and valid, and test is missing" in run(
        "lines", source, out=tmp_path / "x", code=2
    )


@pytest.mark.parametrize(
    "name, source, message",
    [
        ("wikitxt2", "x", "did you mean wikitext2?"),
        ("imagenet", "x", "expected one of text8, lm1b"),
        ("wikitext2", "archive.zip", "damaged or cut short"),
        ("ptb", "nowhere", "nowhere does not exist"),
        ("documents", None, "give --source"),
        ("ptb", "ptb.test.txt", "not the file published at https"),
        ("text8", "text8.zip", "not the file published at http"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(name, source, message, run, tmp_path):
    if "." in str(source):
        source = tmp_path / source
        source.write_text("another file of that name")
    assert message in run(name, source, code=2)
    assert not (tmp_path / "out").exists()


def test_a_zstandard_file_of_several_frames_is_read_whole(tmp_path):
    path = tmp_path / "a.zst"
    path.write_bytes(PACK[".zst"](b"one\n") + PACK[".zst"](b"") + PACK[".zst"](b"two\n" * 9**6))
    with streams.opened(path) as stream:
        assert stream.read() == b"one\n" + b"two\n" * 9**6


def test_shards_of_openwebtext_are_read_as_they_are_published(run, tmp_path):
    source = tmp_path / "openwebtext"
    source.mkdir()
    documents = [f"Document {n}\n\nof shard {n // 20}\n" for n in range(40)]
    for shard in range(2):
        texts = {f"{n:07}-ab.txt": documents[n] for n in range(shard * 20, shard * 20 + 20)}
        (source / f"urlsf_subset00-{shard}_data.xz").write_bytes(lzma.compress(tar(texts)))
    (source / "notes.xz").write_bytes(lzma.compress(b"no document"))
    run("documents", source)
    expected = [f"Document {n} of shard {n // 20}" for n in range(40)]
    found = {s: (tmp_path / "out" / f"{s}.txt").read_text().splitlines() for s in SPLITS}
    assert found["valid"] == expected[9::20] and found["test"] == expected[19::20]
    assert found["train"] == [text for n, text in enumerate(expected) if n % 20 not in (9, 19)]


@pytest.mark.parametrize("packing", ["folder", "tar.zst", "zip", "jsonl.xz"])
def test_progress_says_how_much_is_read_and_how_long_the_rest_takes(
    packing, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(preparing, "_OFTEN", -1)
    monkeypatch.setattr(preparing, "_BLOCK", 1)
    monkeypatch.setattr(streams, "CHUNK", 1 << 14)
    seconds = iter(range(10**6))
    monkeypatch.setattr(preparing.time, "monotonic", lambda: next(seconds))
    rng = random.Random(0)
    texts = {f"{n:02}.txt": rng.randbytes(20_000).hex() for n in range(40)}
    source = tmp_path / f"source.{packing}"
    if packing == "folder":
        source.mkdir()
        for name, text in texts.items():
            (source / name).write_text(text)
    elif packing == "jsonl.xz":
        records = "".join(json.dumps({"text": text}) + "\n" for text in texts.values())
        source.write_bytes(lzma.compress(records.encode()))
    else:
        source.write_bytes(zipped(texts) if packing == "zip" else PACK[".zst"](tar(texts)))
    said = re.findall(
        r"(train|test): .* MB, (\d+)% of the source is read, (.*) left", run("documents", source)
    )
    shares = [int(share) for split, share, _ in said if split == "train"]
    assert len(shares) == 36 and shares == sorted(shares) and shares[-1] > 90
    assert shares[17] in range(40, 75)
    assert all(re.fullmatch(r"\d+m\d\ds", left) for _, _, left in said)
    assert said[-1][0] == "test" and said[-1][2] == "0m00s"
