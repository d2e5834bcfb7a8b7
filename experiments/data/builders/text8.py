"""text8: the first 100 million characters of a cleaned Wikipedia, in 27 letters, on one line.

The split of the field is by position: 90, 5 and 5 million characters (Mikolov et al. 2012).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from experiments.data.builders.corpus import Corpus, Files
from experiments.data.streams import CHUNK, is_archive, naming_damage
from experiments.errors import UserError


class Text8(Corpus, skip_registration=True):
    """Examples are pieces of the text, which follow each other without anything between."""

    name = "text8"
    URLS = ("http://mattmahoney.net/dc/text8.zip",)
    NAMES: ClassVar = {split: ("text8",) for split in ("train", "valid", "test")}
    ENDING = ""
    HOMEPAGE = "http://mattmahoney.net/dc/textdata.html"
    LICENCE = "GFDL / CC BY-SA, as Wikipedia"
    ENDS = (90_000_000, 95_000_000, 100_000_000)
    SHA256 = "6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7"

    def split_of(self, name: str) -> str | None:
        is_source = self.source is not None and self.source.is_file() and name == self.source.name
        return "train" if is_source and not is_archive(name) else super().split_of(name)

    def splits(self, files: Files) -> list[str]:
        return list(self.NAMES)

    def check(self, files: Files) -> None:
        """UserError unless the text is text8, by its length and sha256."""
        digest, size = hashlib.sha256(), 0
        for block in self._blocks(files):
            digest.update(block)
            size += len(block)
        if size != self.ENDS[-1]:
            raise UserError(
                f"{files[0][1]}: {size:,} characters, but text8 has {self.ENDS[-1]:,}; use "
                f"text8.zip from {self.HOMEPAGE}, or train on this file as it is with --set "
                f"data.path={self.source}"
            )
        if digest.hexdigest() != self.SHA256:
            raise UserError(
                f"{files[0][1]}: another text of the same length, sha256 "
                f"{digest.hexdigest()[:16]}..., expected {self.SHA256[:16]}...; use text8.zip "
                f"from {self.HOMEPAGE}"
            )

    def texts(self, files: Files, split: str) -> Iterator[str]:
        number = list(self.NAMES).index(split)
        start, stop, at = [0, *self.ENDS][number], self.ENDS[number], 0
        for block in self._blocks(files):
            piece = block[max(0, start - at) : max(0, stop - at)]
            at += len(block)
            if piece:
                yield piece.decode()

    def _blocks(self, files: Files) -> Iterator[bytes]:
        """The bytes of the one text; each is a character, which the sha256 makes sure of."""
        seen = []
        for name, stream, where in self.streams(files):
            if self.split_of(name):
                seen.append(Path(name).name)
                if len(seen) > 1:
                    raise UserError(
                        f"--source {self.source}: text8 occurs more than once; keep one of them"
                    )
                with naming_damage(where):
                    while block := stream.read(CHUNK):
                        yield block
        if not seen:
            raise self.rejection("text8 is not in it")
