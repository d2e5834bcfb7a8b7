"""A text corpus: files read once, as a stream, into token numbers on disk that are memory-mapped.

The prepared tokens live in a cache, in a folder named after what they depend on (source files,
tokenizer, splits). It is written under a temporary name and renamed when complete.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal

from experiments.data.corpus import (
    EMBEDDED,
    SPLITS,
    Corpus,
    open_corpus,
    read_documents,
    write_corpus,
)
from experiments.data.labels import PERIODS, folder_names
from experiments.data.subwords import Subwords
from experiments.data.tokenizers import Letters27, Tokenizer
from experiments.errors import UserError
from experiments.plain_json import parse

DATASET = "dataset.json"  # what experiments.prepare says of a folder
_NAMES = {"valid": "validation", "val": "validation", "dev": "validation"}


@dataclass(frozen=True)
class Text:
    """Where the text is and how it becomes sequences of `length` tokens.

    path: a UTF-8 file, also .xz, .gz, .bz2 or .zip, or a directory of such; None is the embedded
    corpus. A directory with files named after train, valid(ation) and test gives those splits; any
    other text is cut at `split_points`, the ends of train, validation and test in tokens, or into 90,
    5 and 5 %. What `experiments.prepare` wrote is known by its dataset.json. cache_dir: by default
    $DDLM_CACHE, $XDG_CACHE_HOME/ddlm or ~/.cache/ddlm.

    rows: what a sequence is. "wrap": `length` tokens of the text as it goes on, which random crops are
    trained and chunks evaluated on. "sentence": a document, padded. "pack": as many whole documents as
    fit, padded, each seen alone. A document is a file, or a "line" of one; `begin` and `end` are tokens
    of the vocabulary put around each, such as "[CLS]" and "[SEP]", which count as tokens. Padding counts
    as nothing. Splits by share are then cut between documents.

    labels: what sequences are labelled by, a condition of the network (experiments.data.labels).
    "period" is for the embedded corpus: the quarter of its addresses, in order of date. "folder" is for
    a directory: the folder below `path` that a file is in, whatever is below that; without splits of
    its own, and without split_points, the text of each label is then cut into 90, 5 and 5 %.
    label_names: () takes the data's, in alphabetical order or that of time.
    """

    path: str | None = None
    tokenizer: Tokenizer = Letters27()
    length: int = 256
    split_points: tuple[int, int, int] | None = None
    cache_dir: str | None = None
    labels: Literal["period", "folder"] | None = None
    label_names: tuple[str, ...] = ()
    rows: Literal["wrap", "sentence", "pack"] = "wrap"
    document: Literal["file", "line"] = "file"
    begin: str = ""
    end: str = ""

    @property
    def by_documents(self) -> bool:
        """Whether the text is kept document by document."""
        subwords = isinstance(self.tokenizer, Subwords)
        return subwords or self.rows != "wrap" or self.document != "file"

    def __post_init__(self):
        if self.length < 1:
            raise ValueError(f"Text.length = {self.length} must be at least 1")
        points = self.split_points
        if points is not None and not 0 < points[0] < points[1] < points[2]:
            raise ValueError(f"Text.split_points = {points} must rise from above 0")
        if self.labels == "period" and self.path is not None:
            raise ValueError(
                f"Text.labels = period is for the embedded corpus, and Text.path = {self.path}; give a "
                "directory with a folder for each label and data.labels=folder, or data.labels=None"
            )
        if self.labels == "folder" and self.path is None:
            raise ValueError(
                "Text.labels = folder takes a directory with a folder for each label, and Text.path is "
                "None, the embedded corpus; give data.path, or data.labels=period"
            )
        if self.by_documents and (self.labels or points is not None):
            what = "labels" if self.labels else "split_points"
            raise ValueError(
                f"Text.{what} = {getattr(self, what)} is for letters and bytes in rows='wrap' of whole "
                f"files, not for {type(self.tokenizer).__name__}, rows = {self.rows!r}, document = "
                f"{self.document!r}; leave it out"
            )
        if (self.begin or self.end) and not isinstance(self.tokenizer, Subwords):
            raise ValueError(
                f"Text.begin = {self.begin!r}, Text.end = {self.end!r}: {type(self.tokenizer).__name__} "
                "has no such tokens; leave them out, or take data.tokenizer=Subwords"
            )


def prepare(data: Text) -> Corpus:
    """The corpus of `data`, from the cache or prepared now."""
    if isinstance(data.tokenizer, Subwords):
        data = replace(data, tokenizer=data.tokenizer.read())
    parts, source = _parts(data)
    identity = [[name, *_stamp(path)] for name, paths in parts for path in paths]
    names = _label_names(data, parts)
    more = (data.labels,) if data.labels else ()
    if data.by_documents:
        digest = getattr(data.tokenizer, "sha256", None)
        # Whether documents are joined into one text, or each stands alone.
        more += (digest, data.rows == "wrap", data.document, data.begin, data.end)
    version = 4 if data.by_documents else 3  # of what a prepared folder holds
    key = repr((version, identity, data.tokenizer, data.split_points, *more))
    name = f"{Path(source).stem[:40]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    folder = _cache(data) / re.sub("[^A-Za-z0-9._-]+", "_", name)
    found = _opened(folder, data, source)
    if found is None:
        try:
            with _workplace(folder, data.by_documents) as work:
                found = _opened(folder, data, source)  # another process was first
                if found is None:
                    write_corpus(work, data, parts, source, names)
                    if folder.exists():
                        shutil.rmtree(folder)  # it did not open: broken, or of another version
                    with contextlib.suppress(FileExistsError):
                        work.rename(folder)
                    found = open_corpus(folder, data, source)
        except OSError as error:
            raise UserError(
                f"data.cache_dir {folder.parent}: {error.strerror or error}; make room there or choose "
                "another with --set data.cache_dir=DIR"
            ) from error
    return replace(found, dataset=_dataset(data))


def _opened(folder: Path, data: Text, source: str) -> Corpus | None:
    """The corpus in the folder, None where there is none that is whole."""
    with contextlib.suppress(OSError, ValueError):
        return open_corpus(folder, data, source)


@contextlib.contextmanager
def _workplace(folder: Path, stays: bool) -> Iterator[Path]:
    """A path for what becomes `folder`. If it `stays`, it is one for all processes, which wait for each
    other, and keeps what an interrupted one has done, but nothing after a UserError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not stays:
        with tempfile.TemporaryDirectory(prefix=".preparing-", dir=folder.parent) as temporary:
            yield Path(temporary) / "corpus"
        return
    work = folder.with_name(f".preparing-{folder.name}")
    work.mkdir(exist_ok=True)
    handle = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield work
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        os.close(handle)


def _dataset(data: Text) -> str | None:
    """The name of the published corpus that `data.path` was prepared of; None where it does not say."""
    file = Path(data.path).expanduser() / DATASET if data.path else None
    if file is None or not file.is_file():
        return None
    try:
        return str(parse(file.read_bytes())["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"data.path {data.path}: {DATASET} is damaged ({error}); prepare the folder again"
        ) from error


def training_lines(data: Text) -> Iterator[str]:
    """The lines that are not empty of the files of the training split, or of all where none is."""
    parts, _ = _parts(data)
    lines = replace(data, document="line", rows="sentence")
    found = [(name, paths) for name, paths in parts if name in ("train", "all")]
    for _, texts, _ in read_documents(lines, found):
        yield from texts


def _cache(data: Text) -> Path:
    if data.cache_dir:
        return Path(data.cache_dir).expanduser()
    if "DDLM_CACHE" in os.environ:
        return Path(os.environ["DDLM_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddlm"


def _parts(data: Text) -> tuple[list[tuple[str, list[Path]]], str]:
    """The files of each split (or of "all"), in the order of the tokens, and the source's name."""
    if data.path is None:
        # An installed package may be inside an archive; this one is not (setup.py: package_data).
        file = Path(str(resources.files("experiments.data") / "corpora" / "sotu27.txt.xz"))
        return [("embedded", [file])], EMBEDDED
    path = Path(data.path).expanduser()
    if path.is_file():
        return [("all", [path])], path.name
    if not path.is_dir():
        raise UserError(
            f"data.path {data.path} does not exist; give a text file or a directory with "
            "--set data.path=PATH"
        )
    files = sorted(
        p
        for p in path.rglob("*")
        if p.is_file()
        and not p.relative_to(path).as_posix().startswith(".")
        and p != path / DATASET
    )
    if not files:
        raise UserError(f"data.path {data.path} is a directory without files")
    found: dict[str, list[Path]] = {name: [] for name in SPLITS}
    for file in files:
        for word in re.split("[^a-z]+", file.name.lower()):
            found.get(_NAMES.get(word, word), []).append(file)
    if all(found.values()) or ((path / DATASET).is_file() and any(found.values())):
        return list(found.items()), path.resolve().name
    return [("all", files)], path.resolve().name


def _label_names(data: Text, parts) -> tuple[str, ...]:
    """The names of the labels that `data` asks for; UserError where its files do not tell them."""
    if data.labels != "folder":
        return PERIODS if data.labels else ()
    files = [path for _, paths in parts for path in paths]
    least = 1 if data.label_names else 2  # text of one label can be evaluated
    return folder_names(Path(data.path).expanduser(), files, {*SPLITS, *_NAMES}, least)


def _stamp(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns
