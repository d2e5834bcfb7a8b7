"""Where an imported run is from: source.json in its directory."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.plain_json import parse
from experiments.published import BASE, SOURCE
from experiments.published.family import Options

_DICTS = ("files", "options", "config", "keys", "dtypes")


@dataclass(frozen=True)
class SourceRecord:
    """What a run says of where it is from.

    family: of the checkpoint. files: their digests. name, revision: of a hub. licence: what the card
    beside it says. averaged: whether the average that the file kept was taken. notes, unknown: what was
    assumed at import, and the tensors that were left out. published: the number to compare with, and how
    the protocol of evaluation here differs. options, config, keys, dtypes: what an export needs to make
    the same files: the mask and the like, their config.json, their keys in order by what they are
    without prefixes, and the types by the same.
    """

    family: str
    files: dict[str, str]
    name: str | None = None
    revision: str | None = None
    licence: str | None = None
    averaged: bool = False
    notes: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    published: dict[str, str] | None = None
    options: dict[str, int | None] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)


def read_source(workdir: Path, name: str = SOURCE) -> SourceRecord | None:
    """What a run says of where it is from, or by the name BASE of where the run is from that it began
    with; None of one that was not imported. UserError where that cannot be read."""
    path = workdir / name
    if not path.is_file():
        return None
    try:
        source = SourceRecord(**parse(path.read_bytes()))
        if not all(isinstance(getattr(source, name), dict) for name in _DICTS):
            raise TypeError(f"of {', '.join(_DICTS)} one is no object")
        if source.published is not None and set(source.published) != {"number", "differs"}:
            raise TypeError("published has other entries")
        Options(**source.options)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it, or import again") from error
    return source


def keep_base(base: Path, workdir: Path) -> None:
    """Nothing; the run in `workdir`, which begins with that in `base`, says of which checkpoint."""
    path = next((base / name for name in (SOURCE, BASE) if (base / name).is_file()), None)
    if path is not None:
        write_atomically(workdir / BASE, path.read_text())


def published_line(workdir: Path) -> str | None:
    """The published number of an imported run and how its protocol differs; None where none is known."""
    source = read_source(workdir)
    if source is None or source.published is None:
        return None
    return f"published: {source.published['number']} ({source.published['differs']})"
