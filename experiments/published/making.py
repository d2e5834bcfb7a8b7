"""A folder that is made whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.errors import UserError


def check_absent(folder: Path, option: str) -> None:
    """Nothing; UserError where there is a file, or a folder that holds something, under the name."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{option} {folder} already exists; give another folder, or remove it")


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A new folder beside it, which becomes `folder` at the end of the block; after an error nothing is
    left of it. UserError where it cannot be written."""
    folder = folder.resolve()
    made = folder.with_name(f".{folder.name[:40]}.{secrets.token_hex(4)}")
    new = [parent for parent in folder.parents if not parent.exists()]
    try:
        made.mkdir(parents=True)
        yield made
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
        new = []
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}); free space there, or give "
            "another folder"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
        for parent in new:
            with suppress(OSError):  # something else is in it meanwhile
                parent.rmdir()
