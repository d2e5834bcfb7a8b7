"""The experiment files of this package and what their docstrings say, without running them."""

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from experiments.docstring import docstring
from experiments.errors import UserError

FOLDER = Path(__file__).parents[2] / "configs"
_MEASURED = re.compile(r"^Measured: (.*?)\.?$", re.MULTILINE)


@dataclass(frozen=True)
class ConfigFile:
    """An experiment file. path: as `--config` takes it from here; what: the first line of its docstring;
    measured: what the line "Measured: ..." of it says, "" where there is none."""

    path: Path
    what: str
    measured: str


def config_file(name: str) -> Path | None:
    """The file that `--config NAME` means: the one at that path, else that of this package, which may be
    installed far from here; None where there is neither."""
    return next((p for p in (Path(name), FOLDER.parent / name) if p.is_file()), None)


def configs(pattern: str = "") -> list[ConfigFile]:
    """The experiment files whose path or description has `pattern`, in the order of their paths; `*` and
    `?` stand for any characters, and upper case is as lower. UserError where there is none."""
    found = []
    for path in sorted(FOLDER.rglob("*.py")):
        if path.name == "__init__.py":
            continue
        what, measured = _described(path)
        name = path.relative_to(FOLDER.parent)
        if fnmatch(f"{name} {what}".lower(), f"*{pattern.lower()}*"):
            meant = config_file(str(name))
            found.append(
                ConfigFile(name if meant and meant.samefile(path) else path, what, measured)
            )
    if not found:
        raise UserError(
            f"no config has {pattern!r} in its path or description; ddlm configs lists all of them"
        )
    return found


def _described(path: Path) -> tuple[str, str]:
    try:
        text = docstring(path)
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}", ""
    measured = _MEASURED.search(text)
    return text.partition("\n")[0], measured[1] if measured else ""
