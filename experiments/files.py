"""Files as programs write them. What a path names decides how.

A regular file, or one that is not there, is complete or as it was before: the content goes to another
file beside it, which then takes its place, its mode and its owner. A symbolic link is followed, and
stays. A pipe, a device, or an open file of this process (/dev/stdout, /dev/fd/3) is written into.
"""

import errno
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from experiments.errors import UserError

# A directory that takes no new file, or a file that is mounted, alone, from elsewhere.
_CANNOT_REPLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has joined the slashes
_MOST_LINKS = 40  # as many as Linux follows


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Nothing; `path` holds `content` (text as UTF-8), or what it held before. UserError where it cannot
    be written.

    Pipes, devices and open files get the content as it comes, and so does a file that can be written in
    a directory that cannot. Other names of the file (hard links) keep the old content.
    """
    content = content.encode() if isinstance(content, str) else content
    stream_atomically(path, lambda file: file.write(content))


def stream_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Nothing; `path` holds what `write` writes into the file that it is called with, as
    `write_atomically` has it. It is called again where the directory cannot be written."""
    with writing(path):
        file = open_stream(path)
        if file is None:
            _replace(Path(os.path.realpath(path)), write)
            return
        with file:
            write(file)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """A block in which an OSError becomes a UserError that names `path`; a pipe whose reader has left
    stays the BrokenPipeError that it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error})") from error


def check_new_folder(path: str | Path, option: str) -> None:
    """Nothing; UserError, which names the option, where no new folder could be made at `path`."""
    check_here(path, option)
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{option} {path} exists; choose another folder, or delete it")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which is at `path` once the block has ended well; else nothing is left."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as place:
            folder = Path(place) / "new"
            folder.mkdir()
            yield folder
            os.replace(folder, path)


def open_stream(path: str | Path) -> BinaryIO | None:
    """The pipe, device or open file that `path` names, to be written into; None where `path` is a
    regular file or could become one. OSError for a directory, and for what cannot be opened."""
    number = descriptor(path)
    if number is not None:
        return os.fdopen(os.dup(number), "wb")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    return None if stat.S_ISREG(mode) else os.fdopen(os.open(path, os.O_WRONLY), "wb")


def descriptor(path: str | Path) -> int | None:
    """The number of the open file of this process that `path` names, as /dev/stdout does; else None.

    Opened by its name, a file would be written from its beginning, and the shell's >> ignored.
    """
    path = os.fspath(path)
    with suppress(OSError, ValueError):  # the last name of a chain is no link
        for _ in range(_MOST_LINKS):
            folder, name = os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path)
            of_process = re.fullmatch(rf"/dev/fd|/proc/{os.getpid()}(/task/\d+)?/fd", folder)
            if of_process and re.fullmatch("[0-9]{1,9}", name):
                return int(name)
            path = os.path.join(folder, os.readlink(os.path.join(folder, name)))
    return None


def is_url(path: str | Path) -> bool:
    """Whether it is a URL and no path; Windows has paths of one letter and a colon."""
    return _URL.match(str(path)) is not None


def check_here(folder: str | Path, option: str = "workdir") -> None:
    """Nothing; UserError for a folder to be written, of the option, that is a URL."""
    if is_url(folder):
        url = re.sub("/+", "//", str(folder), count=1)  # of which a Path keeps one
        raise UserError(
            f"{option} {url} is a URL, but locks and renames need a file system; give a directory "
            "and copy it, or mount the bucket"
        )


def why_unwritable(path: str) -> str | None:
    """The reason why no file `path` could be written, as far as one sees before it is tried."""
    if not path:
        return "it names no file"
    if is_url(path):
        return "it is a URL; give a file of this machine"
    if os.path.isdir(path) or path.endswith(os.sep):
        return "it is a directory; name a file in it"
    if os.path.exists(path):
        return None if os.access(path, os.W_OK) else "it is write-protected"
    folder = Path(os.path.realpath(path)).parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is not a directory"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"no file can be made in {folder}"


def check_new(path: str | Path, force: bool) -> None:
    """Nothing; UserError where `path` cannot be written, or is a regular file that holds something and
    that only `force` replaces."""
    if reason := why_unwritable(os.fspath(path)):
        raise UserError(f"{path} cannot be written: {reason}")
    if os.path.isfile(path) and os.path.getsize(path) and descriptor(path) is None and not force:
        raise UserError(f"{path} exists; say where to write with --out, or replace it with --force")


def check_apart(written: Iterable[tuple[str, str]], read: Iterable[tuple[str, str]]) -> None:
    """Nothing; UserError where a regular file that is to be written is one of the others. Both: names of
    options and what they say, which of those to be read may be anything."""
    seen = {os.path.realpath(path): option for option, path in read if os.path.isfile(path)}
    for option, path in written:
        if os.path.exists(path) and not os.path.isfile(path):  # several may go to /dev/null
            continue
        place = os.path.realpath(path)
        if place in seen:
            raise UserError(f"{seen[place]} and {option} are the same file, {path}; name another")
        seen[place] = option


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Nothing; the regular file `path`, no link, holds what `write` writes, or is as it was with an
    error."""
    before = path.stat() if path.exists() else None
    if before and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected")
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            if before:
                _make_like(file.fileno(), before)
            _write_through(file, write)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        stays = isinstance(error, OSError) and error.errno in _CANNOT_REPLACE
        if before is None or not stays:
            raise
        with open(path, "r+b") as file:
            _write_through(file, write)


def _make_like(number: int, before: os.stat_result) -> None:
    """The open file has the owner, where that is allowed, and the mode of another."""
    with suppress(OSError):
        os.fchown(number, before.st_uid, before.st_gid)
    os.fchmod(number, stat.S_IMODE(before.st_mode))


def _write_through(file: BinaryIO, write: Callable[[BinaryIO], object]) -> None:
    write(file)
    file.truncate()
    file.flush()
    os.fsync(file.fileno())
