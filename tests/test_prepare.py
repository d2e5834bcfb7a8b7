"""Preparing corpora: the text is that of the source, counted and checked, whatever it is packed in, and
a folder holds complete files or none."""

import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import SMALL
from published import ROOT, SPLITS, corpus, lines_of, read, run, tar, text_of  # noqa: F401
from tensorflow_datasets.core.download.checksums import UrlInfo

from experiments.data import preparing
from experiments.data.builders import DATASETS, builder_class
from experiments.data.text import prepare as tokens_of
from experiments.overrides import load

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
    assert "train: already finished" in run("lines", source)
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
    assert run("ptb", source).count("already finished") == 3
    assert {path.name: path.stat().st_ino for path in out.glob("*.txt")} == inodes
    (out / "valid.txt").write_bytes(b"damaged")
    assert run("ptb", source).count("already finished") == 2
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
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
