"""Compiled programs are kept between commands, in JAX's own cache on disk.

They lie in the user's cache folder (`cache_folder`), for each kind of processor apart, since a program
compiled for one may not run on another. What is loaded from there is run: nobody else may write into it,
or it is not used. Nothing heavy is imported here: all is said to JAX by environment variables.
"""

import hashlib
import os
import platform
import stat
import time
import warnings
from pathlib import Path

from experiments.files import why_unwritable

LIMIT = 512 * 2**20  # bytes; what was not read for longest goes first
_SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def cache_folder() -> Path:
    """$DDLM_CACHE, or ddlm in the user's cache folder."""
    named = os.environ.get("DDLM_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddlm"


def keep_programs() -> None:
    """Nothing; JAX, imported after this, keeps what it compiles. Not where DDLM_CACHE is empty, where
    the folder cannot be used, or where JAX_COMPILATION_CACHE_DIR says something already."""
    if chosen_otherwise():
        return
    try:
        folder = program_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _fault(folder):
            return
        _clean(folder)
    except (OSError, RuntimeError):  # no home; a disk that is full, or cannot be written
        return
    # A file that another process has only begun to write is compiled again.
    for doing in ("reading", "writing"):
        warnings.filterwarnings("ignore", f"Error {doing} persistent compilation cache entry")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def program_folder() -> Path:
    """Where the programs of this kind of processor are kept; RuntimeError for a user without a home."""
    return cache_folder() / "programs" / _processor()


def why_unusable() -> str:
    """Why no programs can be kept in `program_folder`, or "" where they can; nothing is made."""
    folder = program_folder()
    return (_fault(folder) if folder.is_dir() else why_unwritable(str(folder))) or ""


def chosen_otherwise() -> str:
    """What the user has said against the cache of programs, "" for nothing."""
    if os.environ.get("DDLM_CACHE") == "":
        return "DDLM_CACHE is empty"
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return f"JAX_COMPILATION_CACHE_DIR is {os.environ['JAX_COMPILATION_CACHE_DIR']}"
    return ""


def _fault(folder: Path) -> str:
    """Why the folder, which is there, cannot be used; "" where it can."""
    about = folder.stat()
    if about.st_uid != os.getuid():
        return "it belongs to another user"
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write into it, and what is in it is run; chmod go-w {folder}"
    return "" if os.access(folder, os.W_OK) else "it is write-protected"


def _processor() -> str:
    """A name for processors that run the same programs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = [platform.processor()]
    chosen = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    digest = hashlib.sha256("\n".join(chosen or lines).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"


def _clean(folder: Path) -> None:
    """Nothing; files that a killed process has left incomplete are gone, and the oldest beyond LIMIT."""
    checked, now = folder / ".checked", time.time()
    last = checked.stat().st_mtime if checked.exists() else 0
    entries = [(file, file.stat()) for file in folder.parent.glob("*/*-cache")]
    total = sum(about.st_size for _, about in entries)
    for file, about in sorted(entries, key=lambda e: max(e[1].st_atime, e[1].st_mtime)):
        new = file.parent == folder and about.st_mtime >= last
        if total > LIMIT or (new and not _complete(file)):
            file.unlink(missing_ok=True)
            total -= about.st_size
    checked.touch()
    os.utime(checked, (now, now))


def _complete(file: Path) -> bool:
    """Whether the file can be decompressed: JAX compiles anew what cannot, and never replaces it."""
    import zstandard

    try:
        zstandard.ZstdDecompressor().decompress(file.read_bytes())
    except zstandard.ZstdError:
        return False
    return True
