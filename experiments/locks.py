"""One process at a time: a lock of the operating system on a file, which says who holds it.

It ends with the process that holds it, however that ends, and no child has a part in it. It is an flock,
which Linux keeps on NFS for all hosts. On a file system without locks the log asks for care instead.
"""

import errno
import fcntl
import json
import os
import shlex
import socket
import stat
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from experiments.errors import UserError, shortened
from experiments.plain_json import parse

LOCK = ".lock"  # the file in a run's directory that its training holds
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_LOOK = 0.1  # seconds
_open = weakref.WeakSet()  # files, which a fork would go on to hold


@contextmanager
def held(
    path: Path,
    what: str,
    advice: str = "",
    log: Callable[[str], None] = print,
    wait: bool = False,
) -> Iterator[None]:
    """Inside, this process alone holds `path`, a file that is there for as long; its folder is made
    where it is missing, and goes again if nothing else is put into it.

    what: that which is held, for messages. wait: until another process leaves it, with a line to
    `log`; else UserError, with who holds it and the advice, at once. OSError where it cannot be written.
    """
    made = [folder for folder in path.parents if not os.path.lexists(folder)]
    with ExitStack() as stack:
        stack.callback(_remove, made)
        file = None
        while file is None or not _is_still(file, path):  # its last holder removed it meanwhile
            file = stack.enter_context(_opened(path))
            _lock(file, path, what, advice, log, wait)
        stack.callback(_unlink, file, path)
        file.seek(0)
        file.truncate()
        file.write(json.dumps(_me()).encode())
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds `path` now, as far as the file system tells; nothing is written."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Shared, so that two may look at once, and for a moment, which a holder that begins waits.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(descriptor)
    return False


def _opened(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of a name that somebody else put there, no link is followed and no pipe waited for.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    file = os.fdopen(descriptor, "r+b", buffering=0)
    _open.add(file)
    return file


def _lock(file: IO[bytes], path: Path, what: str, advice: str, log, wait: bool) -> None:
    try:
        _try(file)
    except BlockingIOError:
        line = f"{what} is in use by another process{_holder(file)}"
        if not wait:
            raise UserError(f"{line}; {advice}") from None
        log(f"{line}; waiting until it is done")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log(f"{path}: this file system has no locks; make sure that no other process writes there")


def _try(file: IO[bytes]) -> None:
    """Nothing; the lock is ours. BlockingIOError where another holds it for longer than one that only
    looks (`is_held`)."""
    end = time.monotonic() + _LOOK
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(_LOOK / 10)


def _is_still(file: IO[bytes], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def _unlink(file: IO[bytes], path: Path) -> None:
    with suppress(OSError):
        if _is_still(file, path):
            path.unlink()


def _me() -> dict:
    program, *arguments = sys.argv or [""]
    command = shlex.join([Path(program).name, *arguments])
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
        "command": shortened(command),
    }


def _holder(file: IO[bytes]) -> str:
    """Who holds the file, as far as it says, to follow \"another process\"."""
    with suppress(ValueError, KeyError, TypeError):
        holder = parse(file.read(4096))
        pid, host, since, command = (holder[k] for k in ("pid", "host", "since", "command"))
        return f", {pid} on {host} since {since}: {command}"
    return ""


def _remove(folders: list[Path]) -> None:
    """Nothing; the folders, the deepest first, are gone as far as nothing is in them."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _leave_to_parent() -> None:
    for file in list(_open):
        with suppress(OSError):
            file.close()


os.register_at_fork(after_in_child=_leave_to_parent)
