"""What the builders share: which files make a corpus, whether they are the published ones, their text.

A corpus gives examples {"text": a line, a document or a piece of text}, in the order of its files.
`experiments.data.preparing` writes them as text. As a builder of tensorflow-datasets a corpus can also
make records of them, `Ptb(source=DIR, data_dir=DIR, file_format="array_record").download_and_prepare()`.
None of this needs TensorFlow, as long as tfds downloads and does not extract, and the format is that
one.
"""

import hashlib
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, ClassVar
from urllib.error import HTTPError

import tensorflow_datasets as tfds
from etils import epath

from experiments.data.streams import (
    CHUNK,
    check_inside,
    hidden,
    is_archive,
    lines,
    members,
    naming_damage,
    opened,
    plain,
    unpacked,
)
from experiments.errors import UserError

SPLITS = ("train", "valid", "test")
_PATIENCE = 20  # seconds for a server to answer
Files = list[tuple[str, Path]]  # (name as published, where it is)


class Corpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """source: a file or folder; None downloads. partial: without what is missing of the published files.
    column: where records and tables of documents have their text.

    URLS: the published files; their sizes and sha256 are in checksums.tsv, where tfds looks for them.
    NAMES: the files of each split, by name, also compressed or in an archive. DIGESTS: of the text of a
    split, "md5:..."; LINES: of one or several splits together, as published. ENDING: what ends an
    example in the text. ADVICE: for who has too little text. sources: after `_split_generators`, name,
    bytes and sha256 of the files taken.
    """

    VERSION = tfds.core.Version("1.0.0")
    URLS: tuple[str, ...] = ()
    NAMES: ClassVar[dict[str, tuple[str, ...]]] = {}
    DIGESTS: ClassVar[dict[str, str]] = {}
    LINES: ClassVar[dict[tuple[str, ...], int]] = {}
    ENDING = "\n"
    ADVICE = ""
    HOMEPAGE = ""
    LICENCE = ""
    code_path = epath.Path(
        __file__
    )  # tfds would look for it with a package that it does not install

    def __init__(
        self,
        *,
        source: str | Path | None = None,
        partial: bool = False,
        column: str = "text",
        **tfds_options: Any,
    ):
        self.source = None if source is None else Path(source).expanduser()
        self.partial, self.column = partial, column
        self.sources: list[dict] = []
        super().__init__(**tfds_options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            homepage=self.HOMEPAGE,
            license=self.LICENCE,
            disable_shuffling=True,  # records in the order of the text
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        files = self._files(dl_manager)
        self.sources = [self._verified(name, path) for name, path in files]
        self.check(files)
        return {split: self._generate_examples(files, split) for split in self.splits(files)}

    def _generate_examples(self, files: Files, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        for number, text in enumerate(self.texts(files, split)):
            yield number, {"text": text}

    def is_part(self, name: str) -> bool:
        """Whether a file of a folder belongs to the corpus."""
        published = {PurePosixPath(url).name for url in self.URLS}
        return name in published or self.split_of(name) is not None

    def split_of(self, name: str) -> str | None:
        """The split that a file belongs to, by its name."""
        base = plain(PurePosixPath(name).name)
        return next((s for s, names in self.NAMES.items() if base in names), None)

    def check(self, files: Files) -> None:
        """UserError where the names tell already that a split is missing, or twice there."""
        if any(self.is_archive(name) for name, _ in files):
            return  # which names are in it shows when it is read
        for split, names in self.NAMES.items():
            self._check_names(split, names, [name for name, _ in files])

    def splits(self, files: Files) -> list[str]:
        """The splits that the files may hold."""
        present = {None if self.is_archive(name) else self.split_of(name) for name, _ in files}
        return [split for split in SPLITS if None in present or split in present]

    def texts(self, files: Files, split: str) -> Iterator[str]:
        """The examples of a split."""
        seen = []
        for name, stream, where in self.streams(files):
            if self.split_of(name) == split:
                seen.append(name)
                with naming_damage(where):
                    yield from self.read(name, stream, where)
        self._check_names(split, self.NAMES[split], seen)

    def share(self) -> float:
        """How much of what `texts` reads was read, from 0 to 1; 0 where that is not known."""
        return 0.0

    def read(self, name: str, stream: BinaryIO, where: str) -> Iterator[str]:
        """The examples of a file; where is for messages."""
        return lines(stream, where)

    def is_archive(self, name: str) -> bool:
        """Whether a file of this name is an archive, and no text of a split."""
        return is_archive(name) and self.split_of(name) is None

    def streams(self, files: Files) -> Iterator[tuple[str, BinaryIO, str]]:
        """(name, stream, where for messages) of the files, and of those in archives."""
        for name, path in files:
            if self.is_archive(name):
                for member, stream in members(path):
                    check_inside(member, path)
                    if not hidden(member):
                        with naming_damage(f"{path}: {member}"):
                            stream = unpacked(stream, member)
                        yield member, stream, f"{path}: {member}"
            else:
                with opened(path) as stream:
                    yield name, stream, str(path)

    def rejection(self, reason: str) -> UserError:
        """What to say where a source is not this corpus."""
        names = [name for names in self.NAMES.values() for name in names[:1]]
        files = [*(PurePosixPath(url).name for url in self.URLS), *names]
        where = f"; it is published at {self.HOMEPAGE}" if self.HOMEPAGE else ""
        return UserError(
            f"--source {self.source}: {reason}; {self.name} consists of "
            f"{', '.join(dict.fromkeys(files))}{where}. Your own text is --dataset lines or "
            "documents"
        )

    def _check_names(self, split, expected, names) -> None:
        bases = [plain(PurePosixPath(name).name) for name in names]
        for name, base in zip(names, bases, strict=True):
            if self.split_of(name) == split and bases.count(base) > 1:
                raise UserError(
                    f"--source {self.source}: {base} of the {split} split occurs more than once; "
                    "keep one of them"
                )
        missing = [name for name in expected if name not in bases]
        if missing and not self.partial:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            rejected = self.rejection(f"{missing[0]}{more} of the {split} split is missing")
            raise UserError(f"{rejected}; --partial accepts an incomplete corpus")

    def _files(self, dl_manager) -> Files:
        if self.source is None:
            return self._downloaded(dl_manager)
        if self.source.is_file():
            files = [(self.source.name, self.source)]
        elif self.source.is_dir():
            paths = sorted(p for p in self.source.rglob("*") if p.is_file())
            files = [(p.relative_to(self.source).as_posix(), p) for p in paths]
            files = [(n, p) for n, p in files if self.is_part(p.name) and not hidden(n)]
        else:
            what = "is no file, and a pipe can be read only once" * self.source.exists()
            raise UserError(
                f"--source {self.source} {what or 'does not exist'}; give a file or a folder"
            )
        if not any(self.is_archive(n) or self.split_of(n) is not None for n, _ in files):
            raise self.rejection("none of its files is of this dataset")
        return files

    def _downloaded(self, dl_manager) -> Files:
        name = self.URLS[0]
        try:
            for name in self.URLS:  # without a network, tfds tries for minutes before it gives up
                with suppress(HTTPError):  # there is a server, tfds asks it in its own way
                    urllib.request.urlopen(name, timeout=_PATIENCE).close()
            paths = dl_manager.download({PurePosixPath(url).name: url for url in self.URLS})
        except Exception as error:  # of urllib, requests, ssl, tfds: whatever ends a download
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise UserError(
                f"{name}: could not be downloaded ({reason[0]}); download it another way and pass "
                "it with --source FILE_OR_FOLDER"
            ) from error
        return [(name, Path(path)) for name, path in paths.items()]

    def _verified(self, name: str, path: Path) -> dict:
        """Name, bytes and sha256 of a file; UserError where it differs from the published one."""
        digest, size = hashlib.sha256(), 0
        with naming_damage(path), open(path, "rb") as stream:
            while block := stream.read(CHUNK):
                digest.update(block)
                size += len(block)
        if not size:
            raise UserError(f"{path} is empty; download it again")
        for url, known in (self.url_infos or {}).items():
            published = PurePosixPath(url).name == PurePosixPath(name).name and url in self.URLS
            if published and known.checksum != digest.hexdigest():
                raise UserError(
                    f"{path}: not the file published at {url}: {size:,} bytes with sha256 "
                    f"{digest.hexdigest()[:16]}..., expected {int(known.size):,} with "
                    f"{known.checksum[:16]}...; download it again"
                )
        return {"name": name, "bytes": size, "sha256": digest.hexdigest()}
