"""What commands say: a standard output that is full, closed or ASCII, and errors as one line."""

import errno
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from test_programs import SMOKE
from test_recovery import TINY

from experiments import cli
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.training.checkpoints import Checkpoints


@pytest.fixture
def program(monkeypatch):
    """program(main): the exit code of a command that does `main`, as `name`."""

    def run(main, *arguments, name="made_up"):
        module = SimpleNamespace(main=lambda _: main())
        monkeypatch.setitem(sys.modules, f"experiments.{name}", module)
        return cli.guarded(name, list(arguments))

    return run


@pytest.fixture(params=["full", "buffered", "shut", "none"])
def bad(request, monkeypatch):
    """bad(): standard output cannot be written from now on, for the reason that is returned. (Called by
    the test, since pytest sets standard output after its fixtures.)"""
    stream = None
    if request.param != "none":
        raw = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        binary = raw if request.param == "full" else io.BufferedWriter(raw)
        stream = io.TextIOWrapper(binary, "utf-8", write_through=True)
    if request.param == "shut":
        stream.close()

    def spoil():
        monkeypatch.setattr(sys, "stdout", stream)
        return "No space left on device" if stream and not stream.closed else "it is closed"

    yield spoil
    if stream and not stream.closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), raw.fileno())
        stream.close()


@pytest.mark.parametrize("flush", [True, False])
def test_a_result_that_cannot_be_printed_is_one_line(flush, bad, program, capfd):
    reason = bad()
    assert program(lambda: print("42", flush=flush)) == 2
    assert capfd.readouterr().err == f"error: standard output cannot be written ({reason})\n"


@pytest.mark.parametrize("name, code", [("made_up", 2), ("train", 0)])
def test_a_lost_log_ends_no_work_and_is_said_once(name, code, bad, program, tmp_path, capfd):
    def work():
        for step in range(10):
            cli.log(f"step {step}")
        write_atomically(tmp_path / "result", "42")

    reason = bad()
    assert program(work, name=name) == code and (tmp_path / "result").read_text() == "42"
    said = f"standard output cannot be written ({reason}); the command continues\n"
    assert capfd.readouterr().err == said


def test_a_lost_log_and_a_lost_result_are_one_line(bad, program, capfd):
    bad()
    assert program(lambda: (cli.log("half way"), print("42"))) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_help_that_cannot_be_printed_is_one_line(bad, capfd):
    reason = bad()
    assert cli.guarded("sample", ["--help"]) == 2
    assert reason in capfd.readouterr().err


def test_nothing_is_said_to_a_standard_error_that_is_full(program, monkeypatch):
    full = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    for stream in (full, None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert program(raises(UserError("a mistake"))) == 2
    os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    full.close()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_standard_output_lacks_are_escaped(encoding, program, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")
    monkeypatch.setattr(sys, "stdout", stream)
    assert program(lambda: print("[0] größer ’ \udc80")) == 0
    printed = stream.buffer.getvalue()
    assert printed == "[0] größer ’ \udc80\n".encode(encoding, "backslashreplace")


def raises(error):
    def main():
        raise error

    return main


def no_memory():
    np.ones(1 << 55)


@pytest.mark.parametrize(
    "main, code, said",
    [
        (raises(FileNotFoundError(2, "No such file", "a.txt")), 2, "error: a.txt: No such file"),
        (raises(OSError(errno.ENOSPC, "No space left")), 2, "error: No space left"),
        (raises(OSError("a cause\nin two lines")), 2, "error: a cause in two lines"),
        (raises(TimeoutError()), 2, "error: TimeoutError"),
        (raises(MemoryError()), 2, "error: out of memory (no more is given); lower --batch-size"),
        (no_memory, 2, "error: out of memory (Unable to allocate"),
        (
            raises(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nBuffer")),
            2,
            "error: out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes. Buffer)",
        ),
        (lambda: "\udc80".encode(), 2, "error: text that cannot be encoded or decoded ('utf-8'"),
        (lambda: b"\xff".decode(), 2, "error: text that cannot be encoded or decoded ('utf-8'"),
        (raises(KeyboardInterrupt()), 130, "interrupted"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_expected_errors_are_one_line(main, code, said, program, capsys):
    assert program(main) == code
    error = capsys.readouterr().err
    assert error.startswith(said) and error.count("\n") == 1, error


def test_a_reader_that_left_is_no_error(program, monkeypatch, capfd):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert program(lambda: print("42")) == 141 and capfd.readouterr().err == ""
        assert program(lambda: [cli.log("1"), cli.log("2")], name="train") == 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)
    assert capfd.readouterr().err.count("Broken pipe") == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("a mistake of ours"), KeyError("x")])
def test_a_mistake_of_ours_keeps_its_traceback(error, program):
    with pytest.raises(type(error)) as raised:
        program(raises(error))
    assert raised.traceback[-1].name == "main"


def test_only_the_file_is_on_a_standard_output_that_is_the_file(program, capfd):
    def main():
        cli.log("half way")
        write_atomically("/dev/stdout", '{"text": "a"}\n')
        print("done")

    assert program(main, "--out=/dev/stdout") == 0
    out, err = capfd.readouterr()
    assert out == '{"text": "a"}\n' and err == "half way\ndone\n"


# Processes


def ddlm(*arguments, shell, **environment):
    """The finished `ddlm ...`, with what a shell does to its streams."""
    code = "from experiments.cli import main; main()"
    line = ["sh", "-c", f'exec "$@" {shell}', "sh", sys.executable, "-c", code, *arguments]
    return subprocess.run(line, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["sample", "--help"]])
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(
    "shell, reason", [(">/dev/full", "No space left"), (">&-", "it is closed")]
)
def test_processes_without_standard_output_end_in_one_line(words, buffered, shell, reason):
    done = ddlm(*words, shell=shell, PYTHONUNBUFFERED=buffered)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: standard output cannot be written (" + reason)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("shell", [">&- 2>&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-"])
def test_processes_without_any_output_end_all_the_same(shell):
    assert ddlm("--version", shell=shell).returncode == 2


def test_a_reader_that_leaves_is_told_nothing():
    done = ddlm("sample", "--help", shell="| head -0")
    assert done.stderr == ""


@pytest.mark.representatives()
@pytest.mark.parametrize("shell", [">/dev/full", "<&- >&- 2>&-"])
def test_training_goes_on_without_a_log(shell, tmp_path):
    sets = [word for s in [*TINY, "train.num_steps=4"] for word in ("--set", s)]
    workdir = tmp_path / "w"
    done = ddlm("train", "--config", SMOKE, "--workdir", str(workdir), *sets, shell=shell)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == (shell == ">/dev/full")
    assert Checkpoints(workdir / "checkpoints").latest() == 4
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        assert "step" in json.loads(line)  # no line of the log in a file of the run
