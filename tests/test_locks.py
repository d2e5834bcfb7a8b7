"""One writer of a run's directory, of prepared text and of a dataset; readers go on beside it."""

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_fault_injection import SETTINGS, run
from test_programs import ROOT, SMOKE

from experiments import cli, locks, serialization
from experiments.config import Experiment
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Characters
from experiments.devices.sharding import make_mesh
from experiments.errors import UserError
from experiments.locks import held
from experiments.run import load_run
from experiments.training import trainer
from experiments.training.checkpoints import Checkpoints

HOLDING = """
import sys, time
from pathlib import Path
from experiments.locks import held
with held(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


class Holder:
    """Another process that holds the file."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        line = [sys.executable, "-c", HOLDING, str(self.path)]
        self.process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "held\n"
        return self.process

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def rejected(path, advice="go"):
    with pytest.raises(UserError) as caught, held(path, "it", advice):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def listing(folder):
    return sorted(p.name for p in folder.iterdir())


# The lock


def test_one_process_holds_it_and_says_who_it_is_until_it_is_killed(tmp_path):
    path = tmp_path / "new" / ".lock"
    with Holder(path) as process:
        said = rejected(path)
        assert said.startswith(f"it is in use by another process, {process.pid} on ")
        assert f" on {socket.gethostname()} since 20" in said and said.endswith("; go")
        assert f"-c {path}" in said
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held(path, "it"):
            assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.parent.exists() or listing(path.parent) == []


def test_one_that_only_looks_does_not_keep_a_holder_out(tmp_path):
    path = tmp_path / ".lock"
    path.touch()
    with path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.03, fcntl.flock, [looking, fcntl.LOCK_UN]).start()
        with held(path, "it"):
            assert path.exists()


def test_it_goes_at_the_end_and_so_do_folders_that_were_made_for_it(tmp_path):
    with held(tmp_path / "a" / "b" / ".lock", "it"):
        assert listing(tmp_path / "a" / "b") == [".lock"]
    assert listing(tmp_path) == []
    with held(tmp_path / "a" / "b" / ".lock", "it"):
        (tmp_path / "a" / "b" / "kept").touch()
    assert listing(tmp_path / "a" / "b") == ["kept"]


def test_within_a_process_too_and_not_by_a_child(tmp_path):
    path = tmp_path / ".lock"
    with held(path, "it"):
        assert "it is in use" in rejected(path)
        (file,) = [file for file in locks._open if not file.closed]
        assert not os.get_inheritable(file.fileno())
        left, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(left, 1)
            os._exit(0)
    try:
        with held(path, "it"):
            pass
    finally:
        os.write(told, b".")
        os.waitpid(child, 0)
        os.close(left)
        os.close(told)


def test_who_waits_says_so_and_takes_the_lock_of_the_file_that_is_there_then(tmp_path):
    path, lines, order = tmp_path / ".lock", [], []

    def waiting():
        with held(path, "it", log=lines.append, wait=True):
            order.append("second")
            assert json.loads(path.read_text())["pid"] == os.getpid()
            assert "it is in use" in rejected(path)

    thread = threading.Thread(target=waiting)
    with held(path, "it"):
        thread.start()
        while not lines:
            time.sleep(0.01)
        order.append("first")
    thread.join(timeout=60)
    assert order == ["first", "second"] and listing(tmp_path) == []
    (line,) = lines
    assert f"it is in use by another process, {os.getpid()} on " in line and "waiting" in line


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 3}', "\x1b[2J\n" * 9999, "null"])
def test_what_the_file_says_is_not_believed(tmp_path, content):
    path = tmp_path / ".lock"
    path.write_text(content)
    with open(path) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert rejected(path) == "it is in use by another process; go"
    with held(path, "it"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "device"])
def test_what_is_no_file_is_not_written(tmp_path, kind):
    path, target = tmp_path / ".lock", tmp_path / "target"
    target.write_text("kept")
    {
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(target),
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/null"),
    }[kind]()
    before = path.lstat()
    with pytest.raises(OSError), held(path, "it"):
        pass
    assert target.read_text() == "kept" and path.lstat() == before


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(locks.errno.ENOLCK, "No locks available")

    lines = []
    monkeypatch.setattr(fcntl, "flock", none)
    with held(tmp_path / ".lock", "it", log=lines.append):
        pass
    assert len(lines) == 1 and "this file system has no locks" in lines[0]


# Training


def second(capsys, workdir, *more):
    """The one line of a second training."""
    line = ["--config", SMOKE, "--workdir", str(workdir), *more]
    for setting in SETTINGS:
        line += ["--set", setting]
    capsys.readouterr()
    assert cli.guarded("train", line) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_a_second_training_ends_at_once_and_changes_nothing(tmp_path, capsys, monkeypatch):
    """Also while the last checkpoint of the first is being written."""
    real, seen = Checkpoints.wait, []

    def wait(self):
        if self._pending:
            before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.json*")}
            seen.append((self._pending[0], second(capsys, tmp_path)))
            assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.json*")} == before
        real(self)

    monkeypatch.setattr(Checkpoints, "wait", wait)
    prepared = []
    monkeypatch.setattr(trainer, "make_train_step", lambda *a: prepared.append(a) or make(*a))
    run(tmp_path)
    assert [step for step, _ in seen] == [4, 8, 12, 16] and len(prepared) == 1
    for _, line in seen:
        assert line.startswith(f"error: workdir {tmp_path} is in use by another process, ")
        assert line.endswith("wait until it ends, or give another --workdir\n")
    assert ".lock" not in listing(tmp_path)
    monkeypatch.undo()
    assert run(tmp_path)[-1].startswith("already at step 16")


make = trainer.make_train_step


@pytest.mark.parametrize(
    "error, call", [("EROFS", "open"), ("EACCES", "open"), ("ENOSPC", "mkdir"), ("EROFS", "mkdir")]
)
def test_a_directory_that_cannot_be_written_is_one_line(tmp_path, capsys, monkeypatch, error, call):
    """Root may write where others may not: the system's answers are made up."""
    number = getattr(errno, error)

    def failing(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, call, failing)
    line = second(capsys, tmp_path / "new" / "w")
    monkeypatch.undo()
    assert "w cannot be written (" in line and os.strerror(number) in line
    assert listing(tmp_path) == []


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_stands_where_it_is_to_be_is_told(tmp_path, capsys, there):
    if there == "file":
        (tmp_path / "w").write_text("")
    else:
        (tmp_path / "w" / ".lock").mkdir(parents=True)
    line = second(capsys, tmp_path / "w")
    assert ("is a file" if there == "file" else "(.lock: Is a directory)") in line


def test_a_mistake_in_the_config_leaves_no_directory(tmp_path):
    with pytest.raises(UserError, match="no such"):
        run(tmp_path / "new" / "w", "no.such=1")
    with pytest.raises(UserError, match="fewer than one sequence"):
        run(tmp_path / "new" / "w", "data.length=100000000")
    assert listing(tmp_path) == []


def test_a_comparison_holds_its_folder(tmp_path, capsys):
    configs = ["--config", "configs/sotu/mdlm.py", "--config", "configs/sotu/d3pm_absorbing.py"]
    configs += ["--set", "model.time_conditioning=True"]
    with Holder(tmp_path / ".lock") as process:
        assert cli.guarded("compare", ["--workdir", str(tmp_path), *configs]) == 2
    error = capsys.readouterr().err
    assert f"workdir {tmp_path} is in use by another process, {process.pid} " in error
    assert error.count("\n") == 1 and listing(tmp_path) == [".lock"]


# Readers beside a training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "w"
    run(workdir, "train.num_steps=4", "train.keep_last=1")
    return workdir


def test_readers_take_the_newest_of_checkpoints_that_come_and_go(trained, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(trained, workdir)
    e = serialization.decode(Checkpoints(workdir / "checkpoints").meta(4)["config"], "", Experiment)
    like = trainer.described_state(e, make_mesh(e.mesh))
    ends, steps = threading.Event(), []

    def writing():
        with Checkpoints(workdir / "checkpoints", keep_last=1, keep_best=0) as checkpoints:
            state, meta = checkpoints.restore(4, like), checkpoints.meta(4)
            while not ends.is_set():
                steps.append(steps[-1] + 1 if steps else 5)
                checkpoints.save(steps[-1], state, meta)

    thread = threading.Thread(target=writing)
    thread.start()
    try:
        found = [load_run(str(workdir)).step for _ in range(8)]
    finally:
        ends.set()
        thread.join(timeout=60)
    assert found == sorted(found) and found[-1] > found[0]


def test_a_checkpoint_deleted_while_it_is_read(trained, tmp_path, monkeypatch):
    workdir = tmp_path / "w"
    shutil.copytree(trained, workdir)
    folder, real = workdir / "checkpoints", Checkpoints.restore_partial

    def deleted(self, step, *arguments):
        if step == 4:
            (folder / "4").rename(folder / "8")
        return real(self, step, *arguments)

    monkeypatch.setattr(Checkpoints, "restore_partial", deleted)
    assert load_run(str(workdir)).step == 8
    (folder / "8").rename(folder / "4")
    with pytest.raises(UserError, match="4: not there; other steps: 8"):
        load_run(str(workdir), step=4)


# Prepared text


def test_text_is_prepared_once_and_who_waits_says_so(tmp_path, capsys, monkeypatch):
    source = tmp_path / "text.txt"
    source.write_text("some words of text " * 400)
    data = Text(path=str(source), length=16, cache_dir=str(tmp_path / "cache"))
    from experiments.data import text

    real, calls, others = text.write_corpus, [], []

    def slow(*arguments):
        calls.append(arguments)
        others.append(threading.Thread(target=lambda: found.append(prepare(data))))
        others[0].start()
        said = ""
        while "waiting until" not in said:
            time.sleep(0.01)
            said += capsys.readouterr().err
        real(*arguments)

    found = []
    monkeypatch.setattr(text, "write_corpus", slow)
    first = prepare(data)
    others[0].join(timeout=60)
    assert len(calls) == 1 and found[0].sha256 == first.sha256
    assert listing(tmp_path / "cache") == [Path(first.tokens.filename).parent.name]


def test_a_run_asks_by_its_symbols_for_the_text_that_it_was_trained_on(tmp_path, monkeypatch):
    """It is not prepared again, but where the folder is gone or damaged."""
    from experiments.data import text

    source, made = tmp_path / "text.txt", []
    source.write_text("some words of text " * 400)
    asked = Text(path=str(source), length=16, tokenizer=Characters(), cache_dir=str(tmp_path / "c"))
    write = text.write_corpus
    monkeypatch.setattr(text, "write_corpus", lambda *a: (made.append(a), write(*a)))
    first = prepare(asked)
    of_run = dataclasses.replace(asked, tokenizer=first.tokenizer)
    assert first.tokenizer != asked.tokenizer and len(made) == 1
    assert prepare(of_run).sha256 == first.sha256 and len(made) == 1
    folder = Path(first.tokens.filename).parent
    (folder / "tokens.bin").write_bytes(b"")
    assert prepare(of_run).sha256 == first.sha256 and len(made) == 2  # in a folder of its own
    assert prepare(asked).sha256 == first.sha256 and len(made) == 3
    link = next(path for path in (tmp_path / "c").iterdir() if path != folder and path.is_dir())
    shutil.rmtree(link)
    shutil.rmtree(folder)
    link.symlink_to(folder.name)  # to what is gone
    assert prepare(of_run).sha256 == first.sha256 and len(made) == 4
    assert not link.is_symlink()
