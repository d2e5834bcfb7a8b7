"""Several texts that are trained on together, each as much as its weight says.

Each text is prepared and split as if it were alone, and kept in the cache under its own name. Their
bounds are evaluated one by one; the bound of the mixture is their mean by the weights.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.data.corpus import Corpus
from experiments.data.documents import Documents
from experiments.data.interleaving import Interleaved
from experiments.data.prepared import SPLITS
from experiments.errors import UserError

if TYPE_CHECKING:
    from experiments.data.text import Text

_PIECE = 4096  # tokens that go on, of what statistics are taken of


def check_sources(data: "Text") -> None:
    """Nothing; ValueError for sources that no text could follow."""
    sources, weights = data.sources, data.weights
    if weights and (not sources or len(weights) != len(sources)):
        raise ValueError(
            f"Text.weights = {weights}: {len(weights)} for {len(sources)} sources; give one for each of "
            "Text.sources, or leave weights out"
        )
    if any(weight <= 0 for weight in weights):
        raise ValueError(f"Text.weights = {weights} must be above 0; leave out what has no weight")
    if not sources:
        return
    if data.path is not None:
        raise ValueError(
            f"Text.path = {data.path} and Text.sources = {sources}; set one of them, the other is "
            "data.path=None or data.sources=()"
        )
    if len(set(sources)) < len(sources):
        raise ValueError(f"Text.sources = {sources} names a text twice; raise its weight instead")
    for name in ("labels", "split_points"):
        if getattr(data, name):
            raise ValueError(
                f"Text.{name} = {getattr(data, name)} is for one text, and Text.sources are "
                f"{len(sources)}; leave it out"
            )
    for _ in texts_of(data):
        pass  # each is checked as it is made


def texts_of(data: "Text") -> Iterator["Text"]:
    """The Text of each of the sources alone; of a text without sources itself."""
    if not data.sources:
        yield data
    for path in data.sources:
        yield replace(data, path=path, sources=(), weights=())


@dataclass(frozen=True)
class Mixture(Corpus):
    """Several corpora of one tokenizer. Its tokens are those of the parts, and not here: (0,). bounds
    count as if the parts were joined, split by split; a split that is asked for is joined in memory,
    which training and evaluation do without.

    parts: the corpora; shares: of the examples, which sum to 1.
    """

    parts: tuple[Corpus, ...] = ()
    shares: tuple[float, ...] = ()

    def weighted(self):
        return tuple(zip(self.parts, self.shares, strict=True))

    def check_split(self, name, length):
        for part in self.parts:
            part.check_split(name, length)

    def split(self, name, length):
        self.check_split(name, length)
        return self._joined[name].tokens

    def split_documents(self, name):
        return self._joined[name].documents

    def split_labels(self, name):
        return None

    def sequences(self, name, length, rows):
        self.check_split(name, length if rows == "wrap" else 1)
        return self._joined[name].sequences(name, length, rows)

    def whole(self, name):
        raise UserError(f"{self.source}: texts with splits of their own are not taken whole")

    def training_text(self, length, rows):
        texts = tuple(part.sequences("train", length, rows) for part in self.parts)
        return Interleaved(texts, self.shares)

    def training_tokens(self):
        texts = [part.split("train", 1) for part in self.parts]
        most = min(len(text) / share for text, share in zip(texts, self.shares, strict=True))
        return np.concatenate(
            [_spread(t, round(s * most)) for t, s in zip(texts, self.shares, strict=True)]
        )

    @cached_property
    def _joined(self) -> "_Joined":
        return _Joined(self.parts)


class _Joined(dict):
    """The corpus by the name of a split, which is all that it has, made where it is asked for."""

    def __init__(self, parts: tuple[Corpus, ...]):
        self.parts = parts

    def __missing__(self, name: str) -> Corpus:
        texts = [part.split(name, 0) for part in self.parts]
        documents = [part.split_documents(name) for part in self.parts]
        tokens = np.concatenate(texts)
        self[name] = replace(
            self.parts[0],
            tokens=tokens,
            bounds={name: (0, len(tokens))},
            documents=_one_after_another([d for d in documents if d], [len(t) for t in texts]),
        )
        return self[name]


def _one_after_another(parts: list[Documents], sizes: list[int]) -> Documents | None:
    """The documents of texts that have so many tokens; None where they were not read by documents."""
    if not parts:
        return None
    ends = np.cumsum([0, *sizes])
    starts = [of.starts[:-1] + end for of, end in zip(parts, ends[:-1], strict=True)]
    return Documents(
        np.append(np.concatenate(starts), ends[-1]),
        np.concatenate([of.characters for of in parts]),
        np.concatenate([of.words for of in parts]),
    )


def _spread(tokens: np.ndarray, size: int) -> np.ndarray:
    """So many of the tokens, or all, in pieces at equal distances."""
    if size >= len(tokens):
        return tokens
    count = max(1, size // _PIECE)
    piece = size // count
    starts = np.linspace(0, len(tokens) - piece, count).round().astype(int)
    return np.concatenate([tokens[start : start + piece] for start in starts])


def mixed(data: "Text", prepare: Callable[["Text"], Corpus]) -> Mixture:
    """The mixture of the sources of `data`, each made by `prepare`; an alphabet that is that of the text
    has the characters of all of them."""
    texts = list(texts_of(data))
    parts = [prepare(text) for text in texts]
    if data.tokenizer.symbols == "":
        symbols = "".join(sorted(set().union(*(part.tokenizer.symbols or "" for part in parts))))
        tokenizer = replace(data.tokenizer, symbols=symbols)
        parts = [
            part if part.tokenizer == tokenizer else prepare(replace(text, tokenizer=tokenizer))
            for part, text in zip(parts, texts, strict=True)
        ]
    parts = _named_apart(parts, data.sources)
    sizes = {name: [b - a for a, b in (p.bounds[name] for p in parts)] for name in SPLITS}
    weights = data.weights or sizes["train"]
    if not all(weights):
        source = parts[weights.index(0)].source
        raise UserError(f"{source} has no training text; leave it out of data.sources")
    shares = tuple(weight / sum(weights) for weight in weights)
    ends = np.cumsum([0, *(sum(of_split) for of_split in sizes.values())]).tolist()
    return Mixture(
        np.zeros(0, parts[0].tokens.dtype),
        parts[0].tokenizer,
        dict(zip(SPLITS, pairwise(ends), strict=True)),
        {name: _digest([p.sha256[name] for p in parts], shares) for name in SPLITS},
        " + ".join(part.source for part in parts),
        unknown={name: sum(part.unknown.get(name, 0) for part in parts) for name in SPLITS},
        files="\n".join(map(_in_words, parts, shares)),
        end=parts[0].end,
        parts=tuple(parts),
        shares=shares,
    )


def _in_words(part: Corpus, share: float) -> str:
    start, end = part.bounds["train"]
    return f"{100 * share:.4g} % of rows from {part.source}, {end - start:,} tokens ({part.files})"


def _named_apart(parts: list[Corpus], paths: tuple[str | None, ...]) -> list[Corpus]:
    """The corpora, those of the same name called by as much of their paths as tells them apart."""
    counts = Counter(part.source for part in parts)

    def name(part, path):
        if counts[part.source] == 1 or path is None:
            return part.source
        same = [Path(p) for q, p in zip(parts, paths, strict=True) if p and q.source == part.source]
        for depth in range(2, len(Path(path).parts) + 1):
            end = Path(path).parts[-depth:]
            if sum(other.parts[-depth:] == end for other in same) == 1:
                return "/".join(end)
        return path

    return [replace(p, source=name(p, path)) for p, path in zip(parts, paths, strict=True)]


def _digest(digests: list[str], shares: tuple[float, ...]) -> str:
    """What identifies the texts with their shares; of one text its own."""
    if len(digests) == 1:
        return digests[0]
    named = "\n".join(f"{d} {share:.9g}" for d, share in zip(digests, shares, strict=True))
    return hashlib.sha256(named.encode()).hexdigest()
