"""Text of your own, such as OpenWebText: a document a line of train, valid and test.

Files are taken in the order of their names. Where their names, or those of their folders, tell train,
valid and test (experiments.data.splits), those are the splits; where they tell none, or all the same,
every twentieth document is in valid, and every twentieth in test, as in the embedded corpus. So a
document that is in the source twice may be in two splits.
"""

import io
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from experiments.data.builders.corpus import SPLITS, Corpus, Files
from experiments.data.reading import Source, sources_of, streams
from experiments.data.splits import splits_named
from experiments.data.streams import (
    check_inside,
    decode,
    is_archive,
    lines,
    naming_damage,
    plain,
    start_of_text,
)
from experiments.data.tables import table_kind, table_texts
from experiments.errors import UserError, shortened
from experiments.plain_json import parse

_TWENTIETH = {9: "valid", 19: "test"}  # of each twenty documents; train has the others


class Documents(Corpus, skip_registration=True):
    """Documents are .txt files and the records of .jsonl files, {"text": ...}, compressed or not, in a
    folder or an archive, and the rows of tables (experiments.data.tables) in a folder. Line breaks
    inside a document become a space. column: where the text of records and rows is."""

    name = "documents"
    LICENCE = "that of your files"
    KINDS = (".txt", ".jsonl")
    TABLES = True
    ADVICE = ": a .txt file is one document; --dataset lines takes each of its lines for one"

    def is_part(self, name: str) -> bool:
        return self.is_archive(name) or self.split_of(name) is not None

    def is_archive(self, name: str) -> bool:
        """Whether it may be one: OpenWebText's shards are tars that are called `_data.xz`."""
        packed = is_archive(name) or plain(name) != name
        return packed and self.split_of(name) is None

    def split_of(self, name: str) -> str | None:
        """ "" for a document, whose split only the names of all tell, and None for what is none."""
        text = PurePosixPath(plain(name)).suffix.lower() in self.KINDS
        return "" if text or (self.TABLES and table_kind(name)) else None

    def rejection(self, reason: str) -> UserError:
        return UserError(
            f"--source {self.source}: {reason}; {self.name} takes files and members of archives that "
            f"end with {' or '.join(self.KINDS)}"
            + ", and .parquet, .arrow and .array_record files"
            * self.TABLES
        )

    def check(self, files: Files) -> None:
        """UserError where the names of the files tell some splits and not others."""
        texts = sources_of(self.source, files)
        for text in texts:
            check_inside(text.member or "", text.path)
        self._texts = [text for text in texts if self.split_of(text.name) is not None]
        if not self._texts:
            raise self.rejection("none of its files is of this dataset")
        named = splits_named([text.name for text in self._texts])
        self._named: dict[Source, str] = {}
        if len(set().union(*named)) < 2:
            return
        for text, splits in zip(self._texts, named, strict=True):
            if len(splits) != 1:
                what = "after two splits" if splits else "after none, and others are"
                raise UserError(
                    f"--source {self.source}: {text.name} is named {what}; name all files or "
                    "folders after train, valid or test, or prepare them separately"
                )
            self._named[text] = splits.pop().replace("validation", "valid")
        present = set(self._named.values())
        missing = [split for split in SPLITS if split not in present]
        if missing and not self.partial:
            raise UserError(
                f"--source {self.source}: its files are named after "
                f"{' and '.join(sorted(present))}, and {missing[0]} is missing; add it, rename "
                "them, or accept this with --partial"
            )

    def splits(self, files: Files) -> list[str]:
        named = self._named.values()
        return [split for split in SPLITS if not named or split in named]

    def texts(self, files: Files, split: str) -> Iterator[str]:
        named, seen = self._named, 0
        wanted = [source for source in self._texts if not named or named[source] == split]
        self._read, self._size = 0, sum(p.stat().st_size for p in {s.path for s in wanted})
        for source, stream in streams(wanted, self._count):
            with naming_damage(source):
                for content, place in self._units(source, stream):
                    chosen = named or _TWENTIETH.get(seen % 20, "train") == split
                    seen += 1
                    if chosen and (text := self.text_of(source.name, content, place)):
                        yield text

    def share(self) -> float:
        return min(self._read / max(self._size, 1), 1.0)

    def _count(self, size: int) -> None:
        self._read += size

    def _units(
        self, source: Source, stream: io.BufferedReader
    ) -> Iterator[tuple[str | bytes, str]]:
        if self.TABLES and table_kind(source.name):
            return table_texts(source, stream, self.column)
        start_of_text(stream, source)
        return self.units(source.name, stream, str(source))

    def units(self, name: str, stream: IO[bytes], where: str) -> Iterator[tuple[bytes, str]]:
        """(content, where) of the documents of a file, not yet read as such."""
        if not _has_records(name):
            yield stream.read(), where
            return
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield line, f"{where}, line {number}"

    def text_of(self, name: str, content: str | bytes, where: str) -> str:
        """The text of a document on one line."""
        text = decode(content, where) if isinstance(content, bytes) else content
        if _has_records(name):
            text = _text_of_record(text, self.column, where)
        return re.sub(r"\s*[\r\n]\s*", " ", text.strip())


def _has_records(name: str) -> bool:
    return plain(name).lower().endswith(".jsonl")


def _text_of_record(line: str, column: str, where: str) -> str:
    try:
        record = parse(line)
    except ValueError as error:
        raise UserError(f"{where}: not a JSON record ({shortened(str(error))})") from error
    what = f"it is {_kind(record)}"
    if isinstance(record, dict):
        fields = ", ".join(map(repr, record)) or "nothing"
        what = f"it has {shortened(fields)}"
        if column in record:
            what = f'its "{column}" is {_kind(record[column])}'
            if isinstance(record[column], str):
                return record[column]
    raise UserError(f'{where}: not a JSON record with its text in "{column}": {what}')


def _kind(value) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


class Lines(Documents, skip_registration=True):
    """Each line of the .txt files that is not blank is a document."""

    name = "lines"
    KINDS = (".txt", ".tokens")
    TABLES = False
    ADVICE = ": each line is a document"

    def units(self, name: str, stream: IO[bytes], where: str) -> Iterator[tuple[bytes, str]]:
        for number, line in enumerate(lines(stream, where), 1):
            if line.strip():
                yield line.encode(), f"{where}, line {number}"
