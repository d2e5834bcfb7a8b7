"""What is elsewhere is copied once and again where it has changed; what must be here says so."""

import gzip
import shutil

import fsspec
import pytest
from conftest import SMALL
from published import read, run  # noqa: F401

from experiments import cli
from experiments.data.remote import local_copy
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Bytes
from experiments.errors import UserError

TEXTS = {"train/a.txt": b"the people", "train/b.txt.gz": gzip.compress(b" of"), "valid.txt": b"the",
         "test.txt": b"states"}  # fmt: skip


@pytest.fixture
def bucket(request):
    """(file system, its URL) of a bucket that is in memory, with a folder of texts."""
    system, name = fsspec.filesystem("memory"), f"/{request.node.name[:40]}"
    for path, content in TEXTS.items():
        system.pipe(f"{name}/text/{path}", content)
    yield system, f"memory:/{name}"
    system.rm(name, recursive=True)


def corpus(url, cache):
    made = prepare(Text(path=url, tokenizer=Bytes(), length=1, cache_dir=str(cache)))
    splits = ("train", "validation", "test")
    return made.source, [made.tokenizer.decode(made.split(name, 1)) for name in splits]


def test_text_elsewhere_is_read_as_here_and_copied_where_it_changes(bucket, tmp_path, monkeypatch):
    system, url = bucket
    copied = []
    get = type(system).get_file
    monkeypatch.setattr(
        type(system), "get_file", lambda self, *of: copied.append(of[0]) or get(self, *of)
    )
    here = tmp_path / "text"
    for path, content in TEXTS.items():
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).write_bytes(content)
    expected = corpus(str(here), tmp_path / "cache")
    assert corpus(f"{url}/text", tmp_path / "cache") == expected
    assert corpus(f"{url}/text/", tmp_path / "cache") == expected and len(copied) == 8
    assert corpus(f"{url}/text", tmp_path / "cache") == expected and len(copied) == 8
    system.pipe(f"{url}/text/test.txt", b"STATES")
    assert corpus(f"{url}/text", tmp_path / "cache")[1] == [*expected[1][:2], "STATES"]
    assert not list((tmp_path / "cache").glob(".copying*"))


def test_one_file_elsewhere_keeps_its_name(bucket, tmp_path):
    assert local_copy(f"{bucket[1]}/text/valid.txt", tmp_path, "x").name == "valid.txt"
    assert local_copy(f"{bucket[1]}/text/valid.txt", tmp_path, "x").read_bytes() == b"the"


def test_documents_elsewhere_are_prepared(bucket, run, tmp_path, monkeypatch):
    monkeypatch.setenv("DDLM_CACHE", str(tmp_path / "cache"))
    run("documents", f"{bucket[1]}/text")
    assert read(tmp_path / "out")["train.txt"] == b"the people\nof\n"


def test_a_run_elsewhere_is_what_another_begins_with(bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDLM_CACHE", str(tmp_path / "cache"))
    system, url = bucket
    sets = [word for setting in SMALL for word in ("--set", setting)]

    def train(name, *more):
        where = ["--config", "configs/smoke.py", "--workdir", str(tmp_path / name)]
        return cli.guarded("train", [*where, *sets, *more])

    assert train("a") == 0
    system.put(str(tmp_path / "a"), f"{url}/a", recursive=True)
    shutil.rmtree(tmp_path / "a")
    capsys.readouterr()
    assert train("b", "--set", f"init_from={url}/a") == 0
    said = capsys.readouterr().out
    assert f"arrays loaded from {url}/a" in said and "fresh" not in said


@pytest.mark.parametrize(
    "name, said",
    [
        ("memory://nothing/here", "data.path memory://nothing/here: there is nothing"),
        ("nosuch://a/b", "data.path nosuch://a/b cannot be read (Protocol not known: nosuch"),
        ("memory://unsafe", "leads out of the folder"),
    ],
)
def test_what_cannot_be_read_elsewhere_is_one_line(name, said, tmp_path, monkeypatch):
    system = fsspec.filesystem("memory")
    find = {"/unsafe/../../a.txt": {"size": 1}} if "unsafe" in name else {}
    monkeypatch.setattr(type(system), "find", lambda self, path, detail: find)
    with pytest.raises(UserError) as caught:
        corpus(name, tmp_path)
    assert said in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("train", ["--config", "configs/smoke.py", "--workdir", "gs://b/run"]),
        ("evaluate", ["--workdir", "gs://b/run"]),
        ("sample", ["--workdir", "s3://b/run"]),
        ("sample", ["--workdir", "run", "--out", "gs://b/s.jsonl"]),
        ("prepare", ["--dataset", "lines", "--source", "x", "--out", "gs://b/out"]),
    ],
)
def test_what_is_written_elsewhere_is_one_line_and_no_folder_called_gs(
    name, arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.guarded(name, arguments) == 2
    said = capsys.readouterr().err
    assert "is a URL" in said and "://b/" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
