"""A text corpus: files read once, as a stream, into token numbers on disk that are memory-mapped.

The prepared tokens live in a cache, in a folder named after what they depend on (source files,
tokenizer, splits). It is written under a temporary name and renamed when complete.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.data.labels import (
    PERIODS,
    Labels,
    cut_each,
    folder_names,
    folder_of,
    from_runs,
    period,
)
from experiments.data.reading import CHUNK, read
from experiments.data.tokenizers import Characters, Letters27, Tokenizer
from experiments.errors import UserError

SPLITS = ("train", "validation", "test")
EMBEDDED = "State of the Union addresses 1790-2021 (embedded)"
_NAMES = {"valid": "validation", "val": "validation", "dev": "validation"}


@dataclass(frozen=True)
class Text:
    """Where the text is and how it becomes sequences of `length` tokens.

    path: a UTF-8 file, also .xz, .gz, .bz2 or .zip, or a directory of such; None is the embedded
    corpus. A directory with files named after train, valid(ation) and test gives those splits; any
    other text is cut at `split_points`, the ends of train, validation and test in tokens, or into 90,
    5 and 5 %. cache_dir: by default $DDLM_CACHE, $XDG_CACHE_HOME/ddlm or ~/.cache/ddlm.

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


@dataclass(frozen=True)
class Corpus:
    """tokens: (N,) memory-mapped; bounds and sha256 by the name of the split; source: for records;
    labels: of all tokens, or None."""

    tokens: np.ndarray
    tokenizer: Tokenizer
    bounds: dict[str, tuple[int, int]]
    sha256: dict[str, str]
    source: str
    labels: Labels | None = None

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.labels.names if self.labels else ()

    def split(self, name: str, length: int) -> np.ndarray:
        """The tokens of a split, memory-mapped; UserError where it is shorter than `length`."""
        if name not in self.bounds:
            raise UserError(f"split {name!r}: expected one of {', '.join(self.bounds)}")
        start, stop = self.bounds[name]
        if stop - start < length:
            raise UserError(
                f"{self.source}: the {name} split has {stop - start} tokens, fewer than one sequence "
                f"of data.length = {length}; use more text or a smaller --set data.length"
            )
        return self.tokens[start:stop]

    def split_labels(self, name: str) -> Labels | None:
        """The labels of a split, None where the text has none."""
        return self.labels and self.labels.counted_from(self.bounds[name][0])


def prepare(data: Text) -> Corpus:
    """The corpus of `data`, from the cache or prepared now."""
    parts, source = _parts(data)
    identity = [[name, *_stamp(path)] for name, paths in parts for path in paths]
    names = _label_names(data, parts)
    labelled = (data.labels,) if data.labels else ()
    key = repr((3, identity, data.tokenizer, data.split_points, *labelled))
    name = f"{Path(source).stem[:40]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    folder = _cache(data) / re.sub("[^A-Za-z0-9._-]+", "_", name)
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError):
        return _open(folder, data, source)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".preparing-", dir=folder.parent) as temporary:
            _write(Path(temporary) / "corpus", data, parts, source, names)
            if folder.exists():
                shutil.rmtree(folder)  # it did not open: broken, or of another version
            with contextlib.suppress(FileExistsError):  # another process was first
                (Path(temporary) / "corpus").rename(folder)
        return _open(folder, data, source)
    except OSError as error:
        raise UserError(
            f"data.cache_dir {folder.parent}: {error.strerror or error}; make room there or choose "
            "another with --set data.cache_dir=DIR"
        ) from error


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
        if p.is_file() and not p.relative_to(path).as_posix().startswith(".")
    )
    if not files:
        raise UserError(f"data.path {data.path} is a directory without files")
    found: dict[str, list[Path]] = {name: [] for name in SPLITS}
    for file in files:
        for word in re.split("[^a-z]+", file.name.lower()):
            found.get(_NAMES.get(word, word), []).append(file)
    if all(found.values()) and data.split_points is None:
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


def _embedded(path: Path) -> Iterator[tuple[str, str, str]]:
    """(split, period, text) of each address, one a line, and of the spaces between them: every twentieth
    is in validation, and every twentieth in test."""
    addresses = "".join(read(path, Letters27())).splitlines()
    of = {9: "validation", 19: "test"}
    for name in SPLITS:
        chosen = [i for i in range(len(addresses)) if of.get(i % 20, "train") == name]
        for i in chosen:
            between = "" if i == chosen[0] else " "
            yield name, period(i, len(addresses)), between + addresses[i]


def _streams(data: Text, parts) -> Iterator[tuple[str, str, Iterator[str], str]]:
    """(split, label or "", chunks of text, where from), each chunk once."""
    for name, paths in parts:
        if name == "embedded":
            for split, label, text in _embedded(paths[0]):
                yield split, label, iter([text]), EMBEDDED
            continue
        for number, path in enumerate(paths):
            label = folder_of(path, Path(data.path).expanduser()) if data.labels else ""
            if number:
                yield name, label, iter([data.tokenizer.separator]), str(path)
            yield name, label, read(path, data.tokenizer), str(path)


def _write(folder: Path, data: Text, parts, source: str, names: tuple[str, ...]) -> None:
    tokenizer = data.tokenizer
    if isinstance(tokenizer, Characters) and not tokenizer.symbols:
        chunks = chain.from_iterable(chunk for _, _, chunk, _ in _streams(data, parts))
        occurring = set().union(*chunks)
        tokenizer = replace(tokenizer, symbols="".join(sorted(occurring)))
        if len(tokenizer.symbols) > 65535:
            raise UserError(
                f"{source}: {len(tokenizer.symbols)} characters; use data.tokenizer=Bytes"
            )
    folder.mkdir()
    sizes: dict[str, int] = {}
    runs: list[tuple[str, int]] = []
    dtype = "uint8" if (tokenizer.vocab_size or 0) <= 256 else "uint16"
    with open(folder / "tokens.bin", "wb") as file:
        for name, label, chunks, where in _streams(data, parts):
            for tokens in tokenizer.encode(chunks, where):
                file.write(tokens.astype(dtype).tobytes())
                sizes[name] = sizes.get(name, 0) + len(tokens)
                runs.append((label, len(tokens)))
    total = sum(sizes.values())
    if total == 0:
        raise UserError(f"data.path {data.path}: {source} contains no text")
    points = list(np.cumsum([sizes.get(name, 0) for name in SPLITS]))
    if "all" in sizes:
        points = list(data.split_points or _shares(total))
    if points[-1] > total:
        raise UserError(
            f"data.split_points end at {points[-1]}, but {source} has {total} tokens; "
            "declare the ends of train, validation and test within the text"
        )
    if data.labels and "all" in sizes and data.split_points is None:
        runs, points = cut_each(folder / "tokens.bin", dtype, from_runs(names, runs), _shares)
    tokens = np.memmap(folder / "tokens.bin", dtype, "r")
    bounds = {
        n: (int(a), int(b)) for n, a, b in zip(SPLITS, [0, *points[:-1]], points, strict=True)
    }
    described = {
        "dtype": dtype,
        "size": total,
        "bounds": bounds,
        "symbols": tokenizer.symbols if isinstance(tokenizer, Characters) else None,
        "sha256": {n: _sha256(tokens[a:b]) for n, (a, b) in bounds.items()},
    }
    if data.labels:
        labels = from_runs(names, runs)
        np.save(folder / "labels.npy", np.stack([labels.starts, labels.ids]), allow_pickle=False)
        described["label_names"] = names
    (folder / "corpus.json").write_text(json.dumps(described))


def _shares(size: int) -> tuple[int, int, int]:
    return int(0.9 * size), int(0.95 * size), size


def _sha256(tokens: np.ndarray) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(tokens), CHUNK):
        digest.update(tokens[start : start + CHUNK].tobytes())
    return digest.hexdigest()


def _open(folder: Path, data: Text, source: str) -> Corpus:
    described = json.loads((folder / "corpus.json").read_text())
    tokens = np.memmap(folder / "tokens.bin", described["dtype"], "r")
    if len(tokens) != described["size"]:
        raise ValueError("cut short")
    tokenizer = data.tokenizer
    if isinstance(tokenizer, Characters):
        tokenizer = replace(tokenizer, symbols=described["symbols"])
    bounds = {name: (a, b) for name, (a, b) in described["bounds"].items()}
    labels = None
    if data.labels:
        labels = Labels(
            tuple(described["label_names"]),
            *np.load(folder / "labels.npy", allow_pickle=False),
        )
        if data.label_names:
            labels = labels.numbered_as(data.label_names, source)
    return Corpus(tokens, tokenizer, bounds, described["sha256"], source, labels)
