"""Files that programs write: what a path names stays what it is; files are whole or as they were."""

import errno
import os
import stat
import subprocess
import sys
import threading

import pytest

from experiments import cli, files
from experiments.errors import UserError
from experiments.files import write_atomically


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_pipe_gets_the_content_and_stays(tmp_path):
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    write_atomically(path, "größer")
    reader.join(20)
    assert got == ["größer".encode()] and stat.S_ISFIFO(path.stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_device_gets_the_content_and_stays():
    master, slave = os.openpty()
    name = os.ttyname(slave)
    write_atomically(name, "to the terminal")
    assert os.read(master, 100) == b"to the terminal" and stat.S_ISCHR(os.stat(name).st_mode)
    os.close(master)
    os.close(slave)


def test_a_device_that_is_full_is_one_line():
    with pytest.raises(UserError, match=r"/dev/full: could not be written .No space left"):
        write_atomically("/dev/full", "x")


def test_an_open_file_is_written_where_it_stands(tmp_path):
    path = tmp_path / "log"
    with open(path, "w+b", buffering=0) as file:
        file.write(b"before ")
        link = tmp_path / "link"
        link.symlink_to(f"/dev/fd/{file.fileno()}")
        write_atomically(f"/dev/fd/{file.fileno()}", "one ")
        write_atomically(f"/proc/self/fd/{file.fileno()}", "two ")
        write_atomically(link, "three")
        file.write(b" after")
    assert path.read_text() == "before one two three after" and link.is_symlink()
    with pytest.raises(UserError, match="/dev/fd/987: could not be written"):
        write_atomically("/dev/fd/987", "x")


@pytest.mark.parametrize("there", [True, False])
def test_links_are_written_through(there, tmp_path):
    target = tmp_path / "there" / "target"
    if there:
        target.parent.mkdir()
        target.write_text("old")
    first, second = tmp_path / "first", tmp_path / "second"
    first.symlink_to("second")
    second.symlink_to("there/target")
    write_atomically(first, b"new")
    assert first.is_symlink() and second.is_symlink() and not target.is_symlink()
    assert target.read_bytes() == b"new" and len(list(target.parent.iterdir())) == 1


def test_a_loop_of_links_is_one_line(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="a: could not be written"):
        write_atomically(tmp_path / "a", "x")


def test_a_replaced_file_keeps_its_mode_and_its_other_names_their_content(tmp_path):
    path, other = tmp_path / "a", tmp_path / "other"
    path.write_text("old")
    path.chmod(0o640)
    os.link(path, other)
    before = os.umask(0o077)
    try:
        write_atomically(path, "new")
        write_atomically(tmp_path / "fresh", "new")
    finally:
        os.umask(before)
    assert path.read_text() == "new" and mode(path) == 0o640
    assert mode(tmp_path / "fresh") == 0o600 and other.read_text() == "old"


def test_the_longest_names_of_files_can_be_written(tmp_path):
    path = tmp_path / ("ü" * 127)
    write_atomically(path, "x")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a: could not be written .No space left on device"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EBUSY])
def test_a_file_in_a_folder_that_takes_no_other_is_written_in_place(number, tmp_path, monkeypatch):
    def no_new_file(path, *arguments, **options):
        if os.path.exists(path):
            return open(path, *arguments, **options)
        raise OSError(number, os.strerror(number))

    path = tmp_path / "a"
    path.write_text("a long old content")
    kept = path.stat().st_ino
    monkeypatch.setattr(files, "open", no_new_file, raising=False)
    write_atomically(path, "new")
    assert path.read_text() == "new" and path.stat().st_ino == kept
    with pytest.raises(UserError, match="fresh: could not be written"):
        write_atomically(tmp_path / "fresh", "new")


def test_a_folder_that_can_do_nothing_is_one_line(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files, "open", denied, raising=False)
    monkeypatch.setattr(type(tmp_path), "unlink", denied)
    with pytest.raises(UserError, match=r"a: could not be written .Read-only file system"):
        write_atomically(tmp_path / "a", "new")


def test_text_is_utf_8_in_every_locale(tmp_path):
    code = "from experiments.files import write_atomically as w; w('a', chr(0xfc))"
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    line = [sys.executable, "-c", code]
    subprocess.run(line, cwd=tmp_path, env=env | {"PYTHONPATH": path}, check=True)
    assert (tmp_path / "a").read_bytes() == "ü".encode()


@pytest.mark.parametrize(
    "out, said",
    [
        ("", "names no file"),
        (".", "is a directory"),
        ("new/", "is a directory"),
        (f"{__file__}/x", "test_files.py is not a directory"),
    ],
)
@pytest.mark.parametrize(
    "command, option",
    [("sample", "--out"), ("sample", "--trace"), ("evaluate", "--out"), ("quality", "--out"),
     ("compare", "--table"), ("compare", "--plot"), ("plan", "--out"),
     ("studies.gradient_noise", "--out")],
)  # fmt: skip
def test_what_cannot_be_written_is_said_before_any_work(command, option, out, said, capsys):
    assert cli.guarded(command, [option, out]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: argument {option}: ") and error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize(
    "command",
    [
        ["quality", "--scorer", "x", "--samples", "{a}", "--out", "{a}"],
        ["quality", "--scorer", "x", "--samples", "{a}", "--out", "{link}"],
        ["compare", "{a}", "--plot", "{a}"],
        ["compare", "{a}", "--plot", "{new}", "--table", "{new}"],
        ["compress", "--workdir", "w", "{a}", "--out", "{a}", "--force"],
        ["sample", "--workdir", "w", "--out", "{new}", "--trace", "{new}"],
        ["studies.benchmark", "--config", "{a}", "--out", "{a}"],
    ],
    ids=lambda c: " ".join(c),
)
def test_no_program_writes_over_what_it_reads_or_writes_besides(command, tmp_path, capsys):
    path, link = tmp_path / "a", tmp_path / "link"
    path.write_text("{}\n")
    link.symlink_to(path)
    words = [w.format(a=path, link=link, new=tmp_path / "new") for w in command]
    assert cli.guarded(words[0], words[1:]) == 2
    assert "are the same file" in capsys.readouterr().err
    assert path.read_text() == "{}\n" and not (tmp_path / "new").exists()
