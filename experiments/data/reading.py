"""Texts, each a file or a member of an archive, read as a stream of characters.

A byte order mark at the beginning of one is none of its characters. What `--set data.tokenizer=Bytes`
reads may be any bytes, but what is compressed is never taken for them.
"""

import codecs
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from experiments.data.streams import (
    archive_kind,
    hidden,
    members,
    naming_damage,
    opened,
    start_of_text,
    unpacked,
)
from experiments.data.tokenizers import Tokenizer
from experiments.errors import UserError

CHUNK = 1 << 22  # bytes, or tokens, at a time


@dataclass(frozen=True)
class Source:
    """A text. name: its path below what was asked for, in which an archive stands as a folder does;
    member: its name in the archive `path`, None where it is the file itself."""

    path: Path
    name: str
    member: str | None = None

    def __str__(self):
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"


def files_of(path: Path) -> list[tuple[str, Path]]:
    """(name below `path`, file) of a file, or of a folder in the order of names, but for hidden ones."""
    if not path.is_dir():
        return [(path.name, path)]
    paths = ((p.relative_to(path).as_posix(), p) for p in sorted(path.rglob("*")) if p.is_file())
    return [(name, p) for name, p in paths if not hidden(name)]


def sources_of(root: Path | None, files: Iterable[tuple[str, Path]]) -> list[Source]:
    """The texts of files below `root`, or of that file, and of the archives among them, without
    hidden members: those of a zip in the order of their names, those of a tar as they stand in it."""
    sources = []
    for name, path in files:
        kind = archive_kind(path)
        if kind:
            below = "" if path == root else f"{name}/"
            names = [m for m, _ in members(path) if not hidden(_tidy(m))]
            inside = [Source(path, f"{below}{_tidy(m)}", m) for m in names]
            _check_members(path, inside)
            sources += (
                sorted(inside, key=lambda source: source.member or "") if kind == "zip" else inside
            )
        else:
            sources.append(Source(path, name))
    return sources


def _tidy(member: str) -> str:
    """The path of a member with "/" between its parts and nothing before the first."""
    parts = member.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _check_members(path: Path, inside: list[Source]) -> None:
    names = Counter(source.member for source in inside)
    if not names:
        raise UserError(f"{path}: an archive without text")
    name, count = names.most_common(1)[0]
    if count > 1:
        raise UserError(f"{path}: {name} is in the archive {count} times; unpack it")


def streams(
    sources: Iterable[Source], counted: Callable[[int], None] = lambda size: None
) -> Iterator[tuple[Source, io.BufferedReader]]:
    """Each source with its bytes, without compression, to be read before the next. counted: is told what
    is read of files as they are."""
    for path, texts in groupby(sources, lambda source: source.path):
        by_member = {source.member: source for source in texts}
        if None in by_member:
            with opened(path, counted) as stream:
                yield by_member[None], stream
            continue
        names = [member for member in by_member if member is not None]
        for member, stream in members(path, names, counted):
            if member in by_member:
                with naming_damage(by_member[member]):
                    stream = unpacked(stream, member)
                yield by_member[member], stream


def read(sources: Iterable[Source], tokenizer: Tokenizer) -> Iterator[tuple[Source, Iterator[str]]]:
    """Each source with its text in chunks, to be read before the next; UserError for what is no UTF-8
    text and for what is damaged."""
    for source, stream in streams(sources):
        yield source, _chunks(stream, tokenizer.binary, source)


def _chunks(stream: io.BufferedReader, binary: bool, where: Source) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape" if binary else "strict")
    with naming_damage(where):
        offset, block = start_of_text(stream, where, binary), None
        while block != b"":
            block = stream.read(CHUNK)
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{where}: not UTF-8 at byte {offset - waiting + error.start} ({error.reason}); "
                    "convert it, or take it as it is with --set data.tokenizer=Bytes"
                ) from error
            offset += len(block)
            if text:
                yield text
