"""Preparing corpora: the text is that of the source, counted and checked, whatever it is packed in, and
a folder holds complete files or none."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard
from conftest import SMALL
from tensorflow_datasets.core.download.checksums import UrlInfo

from experiments import cli
from experiments.data import preparing, streams
from experiments.data.builders import DATASETS, builder_class
from experiments.data.text import prepare as tokens_of
from experiments.overrides import load

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "valid", "test")
PACK = {
    "": bytes, ".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}  # fmt: skip
TEXT8 = ("the state of the union is what the people make of it " * 4)[:100]
NOVEL = {"train-novels/Fantasy/b.txt": " a novel . \n its end \n", "train-novels/readme": "no"}


def lines_of(split, count=5):
    return [f" the {split} sentence \u00a0 number {n} — naïve \u2028 <unk> " for n in range(count)]


def text_of(lines):
    return "".join(f"{line}\n" for line in lines)


def tar(contents):
    """The bytes of a .tar of {name: text or bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in contents.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(contents):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def as_published(name):
    """{name in the archive or folder: content} of a small corpus, and the text of its splits."""
    texts = {split: text_of(lines_of(split)) for split in SPLITS}
    kind = builder_class(name)
    if name == "text8":
        return {"text8": TEXT8}, dict(
            zip(SPLITS, (TEXT8[:90], TEXT8[90:95], TEXT8[95:]), strict=True)
        )
    if name == "lambada":
        contents = {kind.NAMES[split][0]: texts[split] for split in ("valid", "test")}
        return contents | {"train-novels.tar": tar(NOVEL)}, texts | {
            "train": " a novel . \n its end \n"
        }
    if name == "lm1b":
        of = {s: {n: f"{s} {n} .\n" for n in names} for s, names in kind.NAMES.items()}
        folder = {"train": "training", "valid": "training", "test": "heldout"}
        contents = {
            f"{folder[s]}/{n}": text for s, all_of in of.items() for n, text in all_of.items()
        }
        return contents | {"training/.svn": "no"}, {s: "".join(of[s].values()) for s in SPLITS}
    contents = {f"{name}/{kind.NAMES[split][0]}": texts[split] for split in SPLITS}
    others = (".copy/{}", "__MACOSX/._{}", "{}.old")  # a folder and archives have more in them
    return contents | {o.format(kind.NAMES["train"][0]): "no" for o in others}, texts


@pytest.fixture
def corpus(monkeypatch, tmp_path):
    """make(name, packing) -> (source, {split: text}); its texts are the published ones from then on."""

    def make(name, packing="folder"):
        kind, (contents, texts) = builder_class(name), as_published(name)
        monkeypatch.setattr(kind, "url_infos", {})
        if kind.DIGESTS:
            digests = {s: f"sha1:{hashlib.sha1(t.encode()).hexdigest()}" for s, t in texts.items()}
            monkeypatch.setattr(kind, "DIGESTS", digests)
        counts = {names: sum(texts[s].count("\n") for s in names) for names in kind.LINES}
        monkeypatch.setattr(kind, "LINES", counts)
        if name == "text8":
            monkeypatch.setattr(kind, "ENDS", (90, 95, 100))
            monkeypatch.setattr(kind, "SHA256", hashlib.sha256(TEXT8.encode()).hexdigest())
        source = tmp_path / "source"
        if packing in ("zip", "tar.gz", "tgz", "tar.xz", "tar"):
            pack = zipped if packing == "zip" else tar
            source = source.with_suffix(f".{packing}")
            compress = {"tar.gz": ".gz", "tgz": ".gz", "tar.xz": ".xz"}.get(packing, "")
            source.write_bytes(PACK[compress](pack(contents)))
            return source, texts
        for path, content in contents.items():
            content = content.encode() if isinstance(content, str) else content
            file = source / f"{path}{'' if packing == 'folder' else packing}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(PACK["" if packing == "folder" else packing](content))
        return source, texts

    return make


@pytest.fixture
def run(capsys, tmp_path):
    """prepare(name, source, ...) -> what it prints; the folder is tmp_path/out."""

    def prepare(name, source=None, *options, out=tmp_path / "out", code=0):
        capsys.readouterr()
        given = ["--source", str(source)] if source else []
        arguments = ["--dataset", name, *given, "--out", str(out), *options]
        assert cli.guarded("prepare", arguments) == code
        printed, err = capsys.readouterr()
        if code == 2:
            assert err.startswith("error: ") and err.count("\n") == 1, err
        return err if code else printed

    return prepare


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


PUBLISHED = {
    "text8": ("folder", ".xz", "zip"),
    "lm1b": ("folder", "tar.gz"),
    "ptb": ("folder", ".gz", "tgz"),
    "wikitext2": ("folder", ".zst", "zip"),
    "wikitext103": ("zip", "tar"),
    "lambada": ("folder", ".bz2", "tar.gz", "tar.xz"),
}


@pytest.mark.parametrize(
    "name, packing", [(n, p) for n, all_of in PUBLISHED.items() for p in all_of]
)
def test_the_files_are_the_text_of_the_corpus(name, packing, corpus, run, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "_BLOCK", 7)
    monkeypatch.setattr("experiments.data.builders.text8.CHUNK", 7)
    source, texts = corpus(name, packing)
    run(name, source)
    files = read(tmp_path / "out")
    described = json.loads(files.pop("dataset.json"))
    assert {file: content.decode() for file, content in files.items()} == {
        f"{split}.txt": text for split, text in texts.items()
    }
    for split, text in texts.items():
        assert described["splits"][split] == {
            "file": f"{split}.txt",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "characters": len(text),
            "bytes": len(text.encode()),
            "lines": text.count("\n"),
            "words": len(re.findall(r"[^ \n\r\t\v\f]+", text)),
        }
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    paths = [p for p in paths if not re.search(r"/\.|__MACOSX|\.old", str(p.relative_to(tmp_path)))]
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert {Path(s["name"]).name: s["sha256"] for s in described["sources"]} == hashes


def test_what_is_published_is_what_is_asked_for():
    counts = {n: {s: len(of) for s, of in builder_class(n).NAMES.items()} for n in ("lm1b", "ptb")}
    assert counts["lm1b"] == {"train": 98, "valid": 1, "test": 50}
    assert counts["ptb"] == dict.fromkeys(SPLITS, 1)
    assert builder_class("text8").ENDS == (90_000_000, 95_000_000, 100_000_000)
    for name in DATASETS:
        kind = builder_class(name)
        assert kind.name == name and kind.LICENCE
        assert set(kind.URLS) <= set(kind.url_infos), "a download without a checksum"


@pytest.mark.parametrize("name", ["ptb", "text8"])
def test_the_builder_makes_records_of_tfds_too(name, corpus, tmp_path):
    source, texts = corpus(name)
    builder = builder_class(name)(
        source=source, data_dir=tmp_path / "records", file_format="array_record"
    )
    builder.download_and_prepare()
    for split, text in texts.items():
        examples = [e["text"].decode() for e in builder.as_data_source(split=split)]
        assert "".join(f"{example}{builder.ENDING}" for example in examples) == text


def test_two_preparations_are_the_same_bytes(corpus, run, tmp_path):
    source, _ = corpus("lm1b")
    run("lm1b", source)
    for number, path in enumerate(sorted(source.rglob("*"))):
        os.utime(path, (number, number))
    moved = source.rename(tmp_path / "elsewhere")
    run("lm1b", moved, out=tmp_path / "again")
    assert read(tmp_path / "out") == read(tmp_path / "again")


@pytest.mark.parametrize("name", ["ptb", "text8"])
def test_training_takes_the_splits_as_they_are(name, corpus, run, tmp_path):
    source, texts = corpus(name)
    said = run(name, source).split("data.path=")[1].split()
    settings = [f"data.path={said[0]}", *said[2::2], f"data.cache_dir={tmp_path / 'cache'}"]
    prepared = tokens_of(load("configs/sotu/mdlm.py", settings).data)
    for split, name in zip(SPLITS, ("train", "validation", "test"), strict=True):
        assert prepared.tokenizer.decode(prepared.split(name, 1)) == texts[split]


SLOW = """
import sys, time
from experiments import cli
from experiments.data.builders.documents import Lines
texts = Lines.texts
def slow(self, files, split):
    for text in texts(self, files, split):
        yield text
        if split == "valid":
            print("half", flush=True)
            time.sleep(60)
Lines.texts = slow
import experiments.data.preparing as preparing
preparing._BLOCK = 1
sys.exit(cli.guarded("prepare", sys.argv[1:]))
"""


def test_a_killed_preparation_goes_on_with_the_split_it_was_at(run, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for split in SPLITS:
        (source / f"{split}.txt").write_text(text_of(lines_of(split, 300)))
    arguments = ["--dataset", "lines", "--source", str(source), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert any(line == "half\n" for line in process.stdout)
    assert "another process" in run("lines", source, code=2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "train.txt").exists() and (out / ".valid.txt").exists()
    assert not {"valid.txt", "test.txt", "dataset.json"} & {path.name for path in out.iterdir()}
    before = (out / "train.txt").stat()
    assert "train: was finished before" in run("lines", source)
    after = (out / "train.txt").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    run("lines", source, out=tmp_path / "at once")
    assert read(out) == read(tmp_path / "at once")


def test_an_interrupted_preparation_is_of_its_source_alone(corpus, run, tmp_path, monkeypatch):
    source, _ = corpus("lm1b")
    kind, out = builder_class("lm1b"), tmp_path / "out"
    texts = kind.texts

    def interrupted(self, files, split):
        yield from texts(self, files, split)
        if split == "valid":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kind, "texts", interrupted)
        run("lm1b", source, code=130)
    assert {path.name for path in out.iterdir()} == {"train.txt", ".train.json"}
    (source / "training" / "news.en-00003-of-00100").write_text("other\n")
    run("lm1b", source)
    run("lm1b", source, out=tmp_path / "at once")
    assert read(out) == read(tmp_path / "at once")


def test_a_folder_is_prepared_once_and_mended(corpus, run, tmp_path):
    source, _ = corpus("ptb")
    run("ptb", source)
    whole, out = read(tmp_path / "out"), tmp_path / "out"
    inodes = {path.name: path.stat().st_ino for path in out.glob("*.txt")}
    assert run("ptb", source).count("was finished before") == 3
    assert {path.name: path.stat().st_ino for path in out.glob("*.txt")} == inodes
    (out / "valid.txt").write_bytes(b"damaged")
    assert run("ptb", source).count("was finished before") == 2
    assert read(out) == whole


def test_a_folder_of_another_dataset_or_other_files_is_rejected(corpus, run, tmp_path):
    source, _ = corpus("ptb")
    run("ptb", source)
    before = read(tmp_path / "out")
    (source / "ptb" / "ptb.test.txt").rename(source / "ptb" / "ptb.test.txt.old")
    (source / "ptb" / "ptb.test.txt.gz").write_bytes(
        gzip.compress((source / "ptb" / "ptb.test.txt.old").read_bytes())
    )
    assert "other sources" in run("ptb", source, code=2)
    assert "other name" in run("lines", source / "ptb" / "ptb.test.txt.gz", code=2)
    assert read(tmp_path / "out") == before
    for file in ("notes.txt", "train.txt"):
        (tmp_path / file / "out").mkdir(parents=True)
        (tmp_path / file / "out" / file).write_text("mine")
        assert file in run("ptb", source, out=tmp_path / file / "out", code=2)
        assert read(tmp_path / file / "out") == {file: b"mine"}
    (tmp_path / "out" / "dataset.json").write_text("{")
    assert "damaged" in run("ptb", source, code=2)
    assert "File exists" in run("ptb", source, out=source / "../out/train.txt", code=2)
    assert "inside" in run("ptb", source, out=source / "out", code=2)


def break_text(old, new):
    def change(source):
        files = [p for p in sorted(source.rglob("*")) if p.is_file()]
        path = next(p for p in files if old in p.read_bytes())
        path.write_bytes(path.read_bytes().replace(old, new))

    return change


def put(name, content):
    return lambda source: (source / name).write_bytes(content)


def drop(name):
    return lambda source: next(source.rglob(name)).unlink()


def twice(name):
    return lambda source: (source / f"{name}.gz").write_bytes(
        gzip.compress(next(source.rglob(name)).read_bytes())
    )


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("ptb", break_text(b"naive", b"native"), None),
        ("ptb", break_text("naïve".encode(), b"native"), "its test is not that of ptb"),
        ("wikitext2", break_text("naïve".encode(), b"na\xefve"), "tokens, line 1: not UTF-8"),
        ("ptb", drop("ptb.valid.txt"), "ptb.valid.txt of the valid split is missing"),
        ("ptb", twice("ptb.test.txt"), "ptb.test.txt of the test split is there more than once"),
        ("text8", twice("text8"), "more than once"),
        ("lm1b", drop("news.en-000*"), "of the train split is missing"),
        ("lm1b", drop("news.en-00099-of-00100"), "of the valid split is missing"),
        ("lm1b", break_text(b"train news.en-00007", b"train\nnews.en-00007"), "valid have 100"),
        ("lm1b", drop("news.en.heldout-00031-of-00050"), "heldout-00031-of-00050 of the test"),
        ("text8", break_text(b"t", b""), "characters, and text8 has 100; take text8.zip"),
        ("text8", break_text(b"the", b"teh"), "another text of its length"),
        ("text8", break_text(TEXT8.encode(), b""), "is empty"),
        ("lambada", put("train-novels.tar", tar({"../b.txt": ""})), "leave the archive"),
        ("lambada", put("train-novels.tar", tar(NOVEL)[:-9000]), "train-novels.tar: damaged or cut"),
        ("lambada", drop("lambada_dev*"), "lambada_development_plain_text.txt of the valid"),
        ("ptb", lambda source: shutil.rmtree(source / "ptb"), "none of its files"),
        ("documents", lambda source: None, "none of its files"),
    ],
)  # fmt: skip
def test_what_is_not_the_corpus_is_one_line_and_no_file(
    name, change, message, corpus, run, tmp_path
):
    source, _ = corpus(name if name != "documents" else "wikitext2")
    if message is None:
        with pytest.raises(StopIteration):  # the changes below do change something
            change(source)
        return
    change(source)
    assert message in run(name, source, code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "packing", ["zip", "tar.gz", "tgz", "tar.xz", ".xz", ".gz", ".bz2", ".zst"]
)
def test_a_file_cut_anywhere_is_one_line_and_no_file(packing, corpus, run, tmp_path):
    source, _ = corpus("ptb", packing)
    path = source if source.is_file() else source / f"ptb/ptb.valid.txt{packing}"
    whole = path.read_bytes()
    for size in (0, 1, 10, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:size])
        message = run("ptb", source, code=2)
        assert "damaged or cut short" in message or (size == 0 and "is empty" in message)
        assert not (tmp_path / "out").exists()
    path.write_bytes(whole)
    run("ptb", source)


@pytest.mark.parametrize("pack", [zipped, tar])
@pytest.mark.parametrize(
    "name", ["../train.txt", "/etc/train.txt", "a/../../train.txt", "C:\\train.txt"]
)
def test_a_member_that_leaves_its_archive_is_rejected(pack, name, run, tmp_path):
    source = tmp_path / f"source.{'zip' if pack is zipped else 'tar'}"
    source.write_bytes(pack({"fine.txt": "fine", name: "not fine"}))
    assert "would leave the archive" in run("documents", source, code=2)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_a_file_that_is_in_an_archive_and_beside_it_is_rejected(corpus, run, tmp_path):
    source, texts = corpus("wikitext2", "zip")
    whole = tmp_path / "whole"
    whole.mkdir()
    source.rename(whole / "wikitext-2-v1.zip")
    run("wikitext2", whole)
    (whole / "wiki.valid.tokens").write_text(texts["valid"])
    message = run("wikitext2", whole, out=tmp_path / "again", code=2)
    assert "wiki.valid.tokens of the valid split is there more than once" in message


def test_links_in_an_archive_are_not_followed(run, tmp_path):
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(tmp_path / "source.tar", "w") as archive:
        link = tarfile.TarInfo("ptb.train.txt")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(link)
    assert "ptb.train.txt of the train split is missing" in run(
        "ptb", tmp_path / "source.tar", code=2
    )


def test_part_of_a_corpus_is_taken_when_asked_for(corpus, run, tmp_path):
    source, texts = corpus("lm1b")
    for path in source.glob("training/news*"):
        path.unlink()
    assert "news.en-00001-of-00100 and 97 more of the train split is missing" in run(
        "lm1b", source, code=2
    )
    assert f"--text {tmp_path}/out --split test" in run("lm1b", source, "--partial")
    packed = tmp_path / "part.tar"
    packed.write_bytes(
        tar({path.name: path.read_text() for path in sorted(source.glob("heldout/*"))})
    )
    run("lm1b", packed, "--partial", out=tmp_path / "packed")
    assert {path.name for path in (tmp_path / "packed").iterdir()} == {"test.txt", "dataset.json"}
    files = read(tmp_path / "out")
    assert (
        set(files) == {"test.txt", "dataset.json"} and files["test.txt"].decode() == texts["test"]
    )
    assert json.loads(files["dataset.json"])["partial"] is True


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


@pytest.fixture
def server(tmp_path):
    """(address, folder) of a server of files on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    (tmp_path / "www").mkdir()
    handler = partial(Quiet, directory=tmp_path / "www")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", tmp_path / "www"
        served.shutdown()


def test_a_corpus_is_downloaded_and_checked(server, corpus, run, tmp_path, monkeypatch):
    address, folder = server
    kind = builder_class("wikitext2")
    archive, texts = corpus("wikitext2", "zip")
    content = archive.read_bytes()
    url = f"{address}/wikitext-2-v1.zip"
    known = UrlInfo(len(content), hashlib.sha256(content).hexdigest(), None)
    monkeypatch.setattr(kind, "URLS", (url,))
    monkeypatch.setattr(kind, "url_infos", {url: known})
    assert f"{url}: could not be downloaded" in run("wikitext2", code=2)  # it is not there
    (folder / "wikitext-2-v1.zip").write_bytes(content[:-1] + b"x")
    assert f"{url}: could not be downloaded" in run("wikitext2", code=2)  # its checksum is another
    (folder / "wikitext-2-v1.zip").write_bytes(content)
    run("wikitext2")
    assert (tmp_path / "out" / "test.txt").read_text() == texts["test"]
    run("wikitext2", folder, out=tmp_path / "local")
    names = ("train.txt", "valid.txt", "test.txt", "dataset.json")
    assert [(tmp_path / "out" / n).read_bytes() for n in names] == [
        (tmp_path / "local" / n).read_bytes() for n in names
    ]
    (folder / "wikitext-2-v1.zip").write_bytes(content + b"x")
    assert "not the file published at" in run("wikitext2", folder, out=tmp_path / "x", code=2)


def test_without_a_network_a_download_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr(builder_class("ptb"), "URLS", ("http://127.0.0.1:1/ptb.train.txt",))
    assert "ptb.train.txt: could not be downloaded" in run("ptb", code=2)
    assert not (tmp_path / "out").exists()


IMPORTS = """
import sys
from experiments import cli
for name, *arguments in {commands!r}:
    assert cli.guarded(name, arguments) == 0
sys.exit(f"imported {{m}}" if (m := [m for m in sys.modules if m.split(".")[0] == "tensorflow"]) else 0)
"""


def test_neither_preparing_nor_training_imports_tensorflow(tmp_path):
    (tmp_path / "source.txt").write_text("the state of the union is strong\n" * 400)
    (tmp_path / "path" / "tensorflow").mkdir(parents=True)  # whether or not it is installed
    (tmp_path / "path" / "tensorflow" / "__init__.py").write_text("")
    out = str(tmp_path / "out")
    small = [
        *SMALL,
        "train.num_steps=1",
        "data.tokenizer.normalize=True",
        f"data.path={out}",
        "data.length=16",
    ]
    sets = [word for setting in small for word in ("--set", setting)]
    commands = [
        ("prepare", "--dataset", "lines", "--source", str(tmp_path / "source.txt"), "--out", out),
        ("train", "--config", "configs/sotu/mdlm.py", "--workdir", str(tmp_path / "run"), *sets),
    ]
    path = os.pathsep.join([str(tmp_path / "path"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS.format(commands=commands)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_zstandard_file_of_several_frames_is_read_whole(tmp_path):
    path = tmp_path / "a.zst"
    path.write_bytes(PACK[".zst"](b"one\n") + PACK[".zst"](b"") + PACK[".zst"](b"two\n" * 9**6))
    with streams.opened(path) as stream:
        assert stream.read() == b"one\n" + b"two\n" * 9**6
