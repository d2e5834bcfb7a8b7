"""Text of your own, such as OpenWebText: a document a line of train, valid and test.

Files are taken in the order of their names. Where each name tells a split (a word of it is train, valid,
validation, val, dev or test) and not all the same, that is the split; else every twentieth document is
in valid, and every twentieth in test, as in the embedded corpus. So a document that is in the source
twice may be in two splits.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from experiments.data.builders.corpus import SPLITS, Corpus, Files
from experiments.data.builders.members import decode, is_archive, lines, plain, told
from experiments.errors import UserError
from experiments.plain_json import parse

_WORDS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("valid", "validation", "val", "dev"), "valid"
)
_TWENTIETH = {9: "valid", 19: "test"}  # of each twenty documents; train has the others


class Documents(Corpus, skip_registration=True):
    """Documents are .txt files and the records of .jsonl files, {"text": ...}, compressed or not, in a
    folder or an archive. Line breaks inside a document become a space."""

    name = "documents"
    LICENCE = "that of your files"
    KINDS = (".txt", ".jsonl")

    def is_part(self, name: str) -> bool:
        return is_archive(name) or self.split_of(name) is not None

    def split_of(self, name: str) -> str | None:
        """The split that the name tells, "" where none, and None for what is no document."""
        path = PurePosixPath(plain(PurePosixPath(name).name))
        if path.suffix not in self.KINDS:
            return None
        named = {_WORDS[w] for w in re.split("[^a-z]+", path.stem.lower()) if w in _WORDS}
        return named.pop() if len(named) == 1 else ""

    def check(self, files: Files) -> None:
        """UserError where the names of the files tell some splits and not others."""
        named = self._named(files)
        missing = [split for split in SPLITS if split not in named]
        if named and missing and not self.partial:
            raise UserError(
                f"--source {self.source}: its files are named after {' and '.join(sorted(named))}, and "
                f"{missing[0]} is missing; add it, rename them, or take what is there: --partial"
            )

    def splits(self, files: Files) -> list[str]:
        named = self._named(files)
        return [split for split in SPLITS if not named or split in named]

    def texts(self, files: Files, split: str) -> Iterator[str]:
        named, seen = self._named(files), 0
        for name, stream, where in self.streams(files):
            its = self.split_of(name)
            if its is None or (named and its != split):
                continue
            with told(where):
                for content, place in self.units(name, stream, where):
                    chosen = named or _TWENTIETH.get(seen % 20, "train") == split
                    seen += 1
                    if chosen and (text := self.text_of(name, content, place)):
                        yield text

    def units(self, name: str, stream, where: str) -> Iterator[tuple[bytes, str]]:
        """(content, where) of the documents of a file, not yet read as such."""
        if not plain(name).endswith(".jsonl"):
            yield stream.read(), where
            return
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield line, f"{where}, line {number}"

    def text_of(self, name: str, content: bytes, where: str) -> str:
        """The text of a document on one line."""
        text = decode(content, where)
        if plain(name).endswith(".jsonl"):
            try:
                text = parse(text)["text"]
                text.encode()  # half of a surrogate pair is no text
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f'{where}: not a JSON record with its text in "text" ({error})'
                ) from error
        return re.sub(r"\s*[\r\n]\s*", " ", text.strip())

    def _named(self, files: Files) -> set[str]:
        """The splits that the names of the files tell, if they do."""
        named = {"" if is_archive(name) else self.split_of(name) for name, _ in files}
        return set() if "" in named or len(named) < 2 else named


class Lines(Documents, skip_registration=True):
    """Each line of the .txt files that is not blank is a document."""

    name = "lines"
    KINDS = (".txt", ".tokens")

    def units(self, name: str, stream, where: str) -> Iterator[tuple[bytes, str]]:
        for number, line in enumerate(lines(stream, where), 1):
            if line.strip():
                yield line.encode(), f"{where}, line {number}"
