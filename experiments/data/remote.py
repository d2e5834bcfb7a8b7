"""What is at a URL (gs://, s3://, https:// ..., whatever fsspec has a file system for), copied into the
cache once and again where it has changed. Everything that reads then reads files of this machine.
"""

import hashlib
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from experiments.errors import UserError, shortened
from experiments.locks import held
from experiments.streams import complain

# By which file systems tell that a file is another one than before, as far as each has it.
_CHANGES = ("etag", "ETag", "md5Hash", "generation", "mtime", "LastModified", "created")


def local_copy(url: str, cache: Path, about: str) -> Path:
    """The file or folder in `cache` that is a copy of what is at the URL, of the same name. UserError,
    about the setting, where there is nothing, or no way to it."""
    try:
        return _copied(url, cache)
    except UserError as error:
        raise UserError(f"{about} {url}: {error}") from error
    except Exception as error:  # of any file system that fsspec has, and its network
        what = shortened(str(error)) or type(error).__name__
        raise UserError(f"{about} {url} cannot be read ({what})") from error


def _copied(url: str, cache: Path) -> Path:
    import fsspec

    system, root = fsspec.core.url_to_fs(url)
    root = root.rstrip("/")
    single = system.isfile(root)
    infos: dict[str, Any] = {root: system.info(root)} if single else system.find(root, detail=True)
    names = {path: path[len(root) :].strip("/") for path in sorted(infos)}
    if not names:
        raise UserError("there is nothing; give a file or a folder")
    if unsafe := [name for name in names.values() if ".." in name.split("/")]:
        raise UserError(f"its name {unsafe[0]!r} leads out of the folder; rename it")
    stamps = [
        (name, infos[path].get("size"), *(str(infos[path].get(key)) for key in _CHANGES))
        for path, name in names.items()
    ]
    digest = hashlib.sha256(repr((url, stamps)).encode()).hexdigest()[:16]
    folder, base = cache / f"remote-{digest}", PurePosixPath(root).name or "root"
    work = folder.with_name(f".copying-{folder.name}")
    with held(work.with_name(f"{work.name}.lock"), f"the copy of {url}", log=complain, wait=True):
        if not folder.exists():
            shutil.rmtree(work, ignore_errors=True)  # of a copy that was cut short
            for path, name in names.items():
                to = work / base / name if name else work / base
                to.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(path, str(to))
            work.rename(folder)
    return folder / base
