"""A prepared text: token numbers on disk, memory-mapped, with its splits, labels and documents.

Written into a folder that its maker then gives its name; opened from there. What is read by documents,
which subword tokenizers make slow, is written so that a killed preparation goes on.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.data.documents import Documents, DocumentWriter, forget_progress
from experiments.data.labels import Labels, cut_each, folder_of, from_runs, period
from experiments.data.pairs import Around, make_pair_rows, read_pairs
from experiments.data.prepared import SPLITS, checked, table
from experiments.data.reading import CHUNK, Source, read
from experiments.data.rows import Rows, make_pieces, make_rows
from experiments.data.splits import Plan
from experiments.data.tokenizers import Letters27, Tokenizer, count, token_number
from experiments.errors import UserError
from experiments.plain_json import parse

if TYPE_CHECKING:
    from experiments.data.interleaving import Interleaved
    from experiments.data.text import Text

_HASHED = 1 << 28  # bytes: a second or less of each start
EMBEDDED = "State of the Union addresses 1790-2021 (embedded)"


@dataclass(frozen=True)
class Corpus:
    """tokens: (N,) memory-mapped; bounds and sha256 by the name of the split; source: for records;
    labels: of all tokens, or None; documents, of all tokens, where the text was read by documents;
    unknown: how many tokens of a split stand for what the vocabulary lacks; dataset: the published
    corpus that it is, where that is known; files: which of them are in which split, in words; one:
    whether the text has no splits but those cut of it; end: of pairs, the token that ends answers."""

    tokens: np.ndarray
    tokenizer: Tokenizer
    bounds: dict[str, tuple[int, int]]
    sha256: dict[str, str]
    source: str
    labels: Labels | None = None
    documents: Documents | None = None
    unknown: dict[str, int] = field(default_factory=dict)
    dataset: str | None = None
    files: str = ""
    one: bool = False
    end: int | None = None

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels; () where the text has none."""
        return self.labels.names if self.labels else ()

    def weighted(self) -> tuple[tuple["Corpus", float], ...]:
        """What is trained on and evaluated by itself, with its share of the examples: here all of it."""
        return ((self, 1.0),)

    def check_split(self, name: str, length: int) -> None:
        """Nothing; UserError where a split is shorter than `length`."""
        self.split(name, length)

    def training_text(self, length: int, rows: str) -> "np.ndarray | Rows | Interleaved":
        """What batches of training are made of."""
        return self.sequences("train", length, rows)

    def training_tokens(self) -> np.ndarray:
        """The tokens (N,) that statistics of the training text are taken of."""
        return self.split("train", 1)

    def split(self, name: str, length: int) -> np.ndarray:
        """The tokens of a split, memory-mapped; UserError where it is shorter than `length`."""
        if name not in self.bounds:
            raise UserError(f"split {name!r}: expected one of {', '.join(self.bounds)}")
        start, stop = self.bounds[name]
        if stop - start < length:
            advice = "use more text or a smaller --set data.length"
            if self.one and self.documents and 0 < (count := len(self.documents.starts) - 1) < 20:
                advice = (
                    f"splits are cut between documents, and it has {count}: take lines as documents by "
                    "--set data.document=line (or data.rows=pair), or give a folder with train.txt, "
                    "valid.txt and test.txt"
                )
            raise UserError(
                f"{self.source}: the {name} split has {stop - start} tokens, fewer than one sequence "
                f"of data.length = {length}; {advice}"
            )
        return self.tokens[start:stop]

    def sequences(self, name: str, length: int, rows: str) -> np.ndarray | Rows:
        """What batches of a split are made of: its tokens, (N,), for rows "wrap"; else its rows."""
        start, stop = self.bounds.get(name, (0, 1))
        if rows == "pair" and start == stop:
            assert self.documents is not None  # prompts and answers
            raise UserError(
                f"{self.source}: the {name} split has no pair of the {len(self.documents.starts) // 2}; "
                "give more, or a folder with train.jsonl, valid.jsonl and test.jsonl"
            )
        if rows == "wrap":
            return self.split(name, length)
        tokens, documents = self.split(name, 1), self.split_documents(name)
        assert documents is not None  # `Text` asks for them where rows are not "wrap"
        if rows == "pair":
            where = f"{self.source}, {name}"
            return make_pair_rows(tokens, documents, length, self.end, where)
        if rows == "piece":
            return make_pieces(tokens, documents.starts, length)
        return make_rows(tokens, documents.starts, length, rows == "pack")

    def whole(self, name: str) -> "Corpus":
        """The same with all of it in the one split."""
        size = len(self.tokens)
        unknown = {name: sum(self.unknown.values())}
        return replace(
            self, bounds={name: (0, size)}, sha256={name: sha256_of(self.tokens)}, unknown=unknown
        )

    def split_documents(self, name: str) -> Documents | None:
        """The documents of a split, None where the text was not read by documents."""
        return self.documents and self.documents.within(*self.bounds[name])

    def split_labels(self, name: str) -> Labels | None:
        """The labels of a split, None where the text has none."""
        return self.labels and self.labels.counted_from(self.bounds[name][0])


def _embedded(source: Source) -> Iterator[tuple[str, str, str]]:
    """(split, period, text) of each address, one a line, and of the spaces between them: every twentieth
    is in validation, and every twentieth in test."""
    addresses = [a for _, chunks in read([source], Letters27()) for a in _lines(chunks) if a]
    of = {9: "validation", 19: "test"}
    for name in SPLITS:
        chosen = [i for i in range(len(addresses)) if of.get(i % 20, "train") == name]
        for i in chosen:
            between = "" if i == chosen[0] else " "
            yield name, period(i, len(addresses)), between + addresses[i]


def _streams(data, parts) -> Iterator[tuple[str, str, Iterator[str], str]]:
    """(split, label or "", chunks of text, where from), each chunk once."""
    for name, sources in parts.items():
        if name == "embedded":
            for split, label, text in _embedded(sources[0]):
                yield split, label, iter([text]), EMBEDDED
            continue
        for number, (source, chunks) in enumerate(read(sources, data.tokenizer)):
            label = folder_of(source.path, Path(data.path).expanduser()) if data.labels else ""
            if number:
                yield name, label, iter([data.tokenizer.separator]), str(source)
            yield name, label, chunks, str(source)


def write_corpus(
    folder: Path, data: "Text", plan: Plan, source: str, names: tuple[str, ...]
) -> None:
    """Nothing; the folder holds the corpus of `data`, a Text, of the sources of the plan."""
    tokenizer = data.tokenizer
    if tokenizer.symbols == "":
        tokenizer = _with_symbols(data, plan.parts, source)
    folder.mkdir(exist_ok=True)
    size = tokenizer.vocab_size or 0
    dtype = "uint8" if size <= 256 else "uint16" if size <= 65536 else "uint32"
    write = _write_documents if data.by_documents else _write_stream
    sizes, runs = write(folder, data, tokenizer, plan.parts, dtype)
    total = sum(sizes.values())
    if total == 0:
        raise UserError(f"data.path {data.path}: {source} contains no text")
    ends = list((plan.one and data.split_points) or plan.ends(sizes.get("train", 0)))
    if data.by_documents:
        starts = np.load(folder / "documents.npy", "r")[0, :: 2 if data.rows == "pair" else 1]
        ends = [int(starts[np.searchsorted(starts, end)]) for end in ends]
    if ends[-1] > total:
        raise UserError(
            f"data.split_points end at {ends[-1]}, but {source} has {total} tokens; choose ends "
            "of train, validation and test within the text"
        )
    train = sizes.get("train", 0)
    if train and data.labels and plan.shares and data.split_points is None:
        runs, ends = cut_each(folder / "tokens.bin", dtype, names, runs, train, plan.ends)
    bounds = _bounds(ends, sizes)
    points = tuple(stop for _, stop in bounds.values())
    if not plan.one and data.split_points and points != data.split_points:
        raise UserError(
            f"data.split_points = {data.split_points}, but the files of {source} named after splits end "
            f"at {list(points)}; leave it out: --set data.split_points=None"
        )
    tokens = np.memmap(folder / "tokens.bin", dtype, "r")
    described = {
        "dtype": dtype,
        "size": total,
        "bounds": bounds,
        "symbols": tokenizer.symbols,
        "sha256": {n: sha256_of(tokens[a:b]) for n, (a, b) in bounds.items()},
        "files": plan.words,
        "one": plan.one,
    }
    if (unknown := tokenizer.unknown) is not None:
        count = {n: int((tokens[a:b] == unknown).sum()) for n, (a, b) in bounds.items()}
        described["unknown"] = count
    if data.labels:
        labels = from_runs(names, runs)
        np.save(folder / "labels.npy", np.stack([labels.starts, labels.ids]), allow_pickle=False)
        described["label_names"] = names
    (folder / "corpus.json").write_text(json.dumps(described))
    forget_progress(folder)


def _with_symbols(data, parts, source: str) -> Tokenizer:
    """The tokenizer with every character that occurs."""
    if data.rows == "pair":  # whose files have others too, those of JSON
        texts = chain.from_iterable(texts for _, texts, _ in read_documents(data, parts))
        chunks = chain(texts, [data.begin, data.end])
    else:
        chunks = chain.from_iterable(chunk for _, _, chunk, _ in _streams(data, parts))
    tokenizer = replace(data.tokenizer, symbols="".join(sorted(set().union(*chunks))))
    if len(tokenizer.symbols) > 65535:
        raise UserError(f"{source}: {len(tokenizer.symbols)} characters; use data.tokenizer=Bytes")
    return tokenizer


def _write_stream(folder, data, tokenizer, parts, dtype):
    """The tokens of each split and the runs of their labels (label, size), of text as it comes."""
    sizes: dict[str, int] = {}
    runs: list[tuple[str, int]] = []
    with open(folder / "tokens.bin", "wb") as file:
        for name, label, chunks, where in _streams(data, parts):
            for tokens in tokenizer.encode(chunks, where):
                file.write(tokens.astype(dtype).tobytes())
                sizes[name] = sizes.get(name, 0) + len(tokens)
                runs.append((label, len(tokens)))
    return sizes, runs


def _write_documents(folder, data, tokenizer, parts, dtype):
    """As `_write_stream`, of text document by document; after a kill from where it was."""
    around = [
        np.array([token_number(tokenizer, token, f"data.{name}")] if token else [], dtype)
        for name, token in (("begin", data.begin), ("end", data.end))
    ]
    waiting = deque()  # characters and words of documents that are being encoded

    def counted(texts):
        for text in texts:
            waiting.append(count(text))
            yield text

    with DocumentWriter(folder, dtype) as writer:
        written = writer.count
        for name, texts, where in read_documents(data, parts):
            while written and next(texts, None) is not None:
                written -= 1
            for tokens in tokenizer.without_normalizing().encode(counted(texts), where):
                tokens = tokens.astype(dtype)
                if data.rows == "pair":
                    whole = Around(*around).document(writer.count, tokens, tokenizer, where)
                else:
                    whole = np.concatenate([around[0], tokens, around[1]])
                writer.add(name, whole, *waiting.popleft())
        writer.finish()
        return writer.sizes, []


def read_documents(
    data: "Text", parts: dict[str, list[Source]]
) -> Iterator[tuple[str, Iterator[str], str]]:
    """(split, documents that are not empty, normalised, where from); of pairs prompts and answers in
    turn. In a text that goes on, with no tokens around documents, what stands between them belongs to
    the later one."""
    joined = data.rows == "wrap" and not (data.begin or data.end)
    begun = set()

    def parted(name, texts):
        for text in texts:
            if text.strip():
                yield data.tokenizer.separator + text if joined and name in begun else text
                begun.add(name)

    def modelled(name, texts):
        texts = texts if data.rows == "pair" else parted(name, texts)
        if joined:
            return data.tokenizer.normalized(texts)
        return chain.from_iterable(data.tokenizer.normalized([text]) for text in texts)

    for name, sources in parts.items():
        if name == "embedded":
            for split, _, text in _embedded(sources[0]):
                yield split, modelled(split, [text.strip()]), EMBEDDED
            continue
        for source, chunks in read(sources, data.tokenizer):
            if data.rows == "pair":
                texts = read_pairs(_lines(chunks), str(source))
            else:
                texts = _lines(chunks) if data.document == "line" else ["".join(chunks)]
            yield name, modelled(name, texts), str(source)


def _lines(chunks: Iterator[str]) -> Iterator[str]:
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        yield from (line.removesuffix("\r") for line in lines)
    yield rest.removesuffix("\r")


def _bounds(ends: list[int], sizes: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Where each split begins and ends among the tokens, train's text first, which is cut at `ends`."""
    bounds: dict[str, tuple[int, int]] = dict(zip(SPLITS, pairwise([0, *ends]), strict=True))
    at = sizes.get("train", 0)
    for name in SPLITS[1:]:
        if name in sizes:
            bounds[name] = at, at + sizes[name]
            at += sizes[name]
        elif bounds[name][0] == bounds[name][1]:
            bounds[name] = at, at
    return bounds


def sha256_of(tokens: np.ndarray) -> str:
    """The hash of the bytes of tokens (N,), as a hexadecimal number."""
    digest = hashlib.sha256()
    for start in range(0, len(tokens), CHUNK):
        digest.update(tokens[start : start + CHUNK].tobytes())
    return digest.hexdigest()


def open_corpus(folder: Path, data: "Text", source: str) -> Corpus:
    """The corpus in the folder; OSError or ValueError where it is not whole. More than `_HASHED` bytes
    of tokens are not compared with their hash, which would read all of them."""
    described = parse((folder / "corpus.json").read_bytes())
    described = checked(described, data.tokenizer.symbols is not None, bool(data.labels))
    tokens = np.memmap(folder / "tokens.bin", described["dtype"], "r")
    if len(tokens) != described["size"]:
        raise ValueError("cut short")
    if tokens.nbytes <= _HASHED:
        for name, (start, stop) in described["bounds"].items():
            if sha256_of(tokens[start:stop]) != described["sha256"][name]:
                raise ValueError("changed")
    tokenizer = data.tokenizer
    if tokenizer.symbols is not None:
        tokenizer = replace(tokenizer, symbols=described["symbols"])
        if tokens.nbytes <= _HASHED and tokens.max(initial=0) >= len(described["symbols"]):
            raise ValueError("its symbols changed")
    bounds = {name: (a, b) for name, (a, b) in described["bounds"].items()}
    labels = None
    if data.labels:
        names = tuple(described["label_names"])
        starts, ids = np.array(table(folder / "labels.npy", 2))  # which outlives the file
        if (
            starts[0] != 0
            or (np.diff(starts) <= 0).any()
            or not 0 <= ids.min() <= ids.max() < len(names)
        ):
            raise ValueError("its labels changed")
        labels = Labels(names, starts, ids)
        if data.label_names:
            labels = labels.numbered_as(data.label_names, source)
    documents = _documents(folder, len(tokens), data.rows) if data.by_documents else None
    end = None
    if data.rows == "pair" and data.end:
        end = token_number(tokenizer, data.end, "data.end")
    return Corpus(
        tokens, tokenizer, bounds, described["sha256"], source, labels, documents,
        described.get("unknown", {}), files=described["files"], one=described["one"], end=end,
    )  # fmt: skip


def _documents(folder: Path, size: int, rows: str) -> Documents:
    """The documents of so many tokens in the folder; ValueError where they are not those."""
    starts, characters, words = table(folder / "documents.npy", 3)
    in_pairs = rows != "pair" or len(starts) % 2
    whole = starts[0] == 0 and starts[-1] == size and in_pairs
    if not whole or (np.diff(starts) < 0).any():
        raise ValueError("its documents changed")
    return Documents(starts, characters[:-1], words[:-1])
