"""Files that are either complete or absent."""

import os
from pathlib import Path

from experiments.errors import UserError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Nothing; `path` holds `content`, or what it held before. UserError where it cannot be written."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb" if isinstance(content, bytes) else "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None
        raise UserError(f"{path}: could not be written ({error.strerror or error})") from error
