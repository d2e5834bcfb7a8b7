"""Every reader with a few hostile cases: experiments.studies.fuzz has many."""

import asyncio
import gc
import importlib.util
import json
import os
import shutil
import sys
import time

import orbax.checkpoint as ocp
import pytest
from hypothesis import strategies as st

from experiments import cli
from experiments.errors import UserError
from experiments.run import load_run
from experiments.studies.fuzzing import engine
from experiments.studies.fuzzing import readers as all_readers
from experiments.studies.fuzzing.engine import Reader, classify, run
from experiments.training.checkpoint_record import RECORD, record_hash
from experiments.training.checkpoints import Checkpoints
from experiments.training.orbax_noise import quiet


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def readers(place):
    return all_readers.make_readers(place)


@pytest.fixture(scope="module")
def trained(readers, place):
    return place / "trained" / "run"


@pytest.mark.representatives()
def test_every_reader_reads_or_rejects(readers, place):
    assert sum(reader.share for reader in readers) == 10_000
    for reader in readers:
        outcome = run(reader, 4 if "checkpoints" in reader.name else 12, 0, place / "case")
        assert not outcome.failures, reader.name
        assert outcome.accepted + outcome.rejected == outcome.cases > 3, reader.name


def _escape(folder):
    (folder.parent / "escaped").write_text("")


@pytest.mark.parametrize(
    "what, read",
    [
        ("KeyError at ", lambda folder: {}["a"]),
        ("it did os.system", lambda folder: os.system("true")),
        ("it did wrote", _escape),
        ("it did os.symlink", lambda folder: os.symlink("/dev/../etc", folder / "a")),
        ("Hung", lambda folder: [None for _ in iter(int, 1)]),
        ("MemoryError", lambda folder: bytearray(8 << 30)),
        ("UserError of 9", lambda folder: reject("x" * 9000)),
        ("UserError of several lines", lambda folder: reject("a\nb")),
    ],
)
def test_a_reader_that_does_harm_fails(what, read, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE", 0.5)
    reader = Reader("harm", 1, st.none(), lambda case, folder: read(folder))
    assert classify(reader, None, tmp_path / "case")[0].startswith(what)


def reject(message):
    error = UserError("")
    error.args = (message,)
    raise error


def test_the_program_prints_a_table_and_exits_by_failures(monkeypatch, capsys):
    def make(folder):
        return [
            Reader("good", 1, st.integers(), lambda case, folder: None),
            Reader("bad", 1, st.integers(), lambda case, folder: {}[case]),
        ]

    monkeypatch.setattr(all_readers, "make_readers", make)
    with pytest.raises(SystemExit) as caught:
        cli.guarded("studies.fuzz", ["--cases", "40"])
    assert caught.value.code == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "| good | 20 | 20 | 0 | 0 |" in lines and "| bad | 20 | 0 | 0 | 20 |" in lines
    assert "| all | 40 | 20 | 0 | 20 |" in lines
    assert cli.guarded("studies.fuzz", ["--cases", "40", "--only", "good"]) == 0


def test_without_hypothesis_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.guarded("studies.fuzz", []) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record | {"meta": {}},
        lambda record: record | {"meta": []},
        lambda record: record | {"meta": {"config": None}},
        lambda record: record | {"arrays": []},
        lambda record: record | {"arrays": {"ema/a": 1}},
        lambda record: record | {"metric": "a"},
        lambda record: record | {"metric": float("nan")},
        lambda record: {k: v for k, v in record.items() if k != "arrays"},
        lambda record: {k: v for k, v in record.items() if k != "metric"},
    ],
)
def test_checkpoint_record_of_another_form_is_rejected(change, trained, tmp_path, rejected):
    shutil.copytree(trained, tmp_path / "run")
    (path,) = (tmp_path / "run").glob(f"checkpoints/*/{RECORD}")
    whole = json.loads(path.read_text())
    record = change({k: v for k, v in whole["custom_metadata"].items() if k != "sha256"})
    whole["custom_metadata"] = record | {"sha256": record_hash(record)}
    path.write_text(json.dumps(whole))
    rejected(load_run, tmp_path / "run")
    Checkpoints(path.parent.parent).best()


@pytest.mark.representatives()
def test_damaged_checkpoint_says_one_line_and_no_more(
    trained, tmp_path, rejected, capfd, monkeypatch
):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: said.append(str(event.exc_value)))
    shutil.copytree(trained, tmp_path / "run")
    (path,) = (tmp_path / "run").glob("checkpoints/*/state/manifest.ocdbt")
    path.write_bytes(b"")
    for _ in range(6):  # what is said depends on which thread is first
        rejected(load_run, tmp_path / "run")
    time.sleep(0.3)  # of its threads some end later
    gc.collect()
    assert capfd.readouterr().err == "" and said == []


@pytest.mark.parametrize("file, silent", [(ocp.__file__, True), (__file__, False)])
def test_a_read_that_a_failed_load_left_says_nothing_when_it_is_collected(
    file, silent, capfd, monkeypatch
):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back at the end
    source = """
async def read():
    try:
        await sleep(0)
    except BaseException as error:
        raise Exception("a read that ended") from error
"""
    made = {"sleep": asyncio.sleep}
    exec(compile(source, file, "exec"), made)
    read = made["read"]()
    read.send(None)
    with pytest.raises(ValueError), quiet():
        raise ValueError
    del read
    assert ("a read that ended" in capfd.readouterr().err) != silent


def test_a_run_as_it_was_made_is_read(trained):
    assert load_run(trained).step == 0
