"""Subword tokenizers from local files (experiments.data.vocabularies)."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from experiments.data.tokenizers import SubwordTokenizer
from experiments.data.vocabularies import KINDS, Coder, find_files, read_coder
from experiments.errors import UserError, shortened
from experiments.files import write_atomically

_BATCH = 1 << 20  # characters


@dataclass(frozen=True)
class Subwords(SubwordTokenizer):
    """Tokens of a vocabulary file; the file may move once a run has been started.

    path: a vocab.txt (WordPiece, lower case as bert-base-uncased), a folder with encoder.json and
    vocab.bpe (byte-level BPE, GPT-2), a tokenizer.json, or a .model of SentencePiece. sha256: of what
    was read, filled in and stored with the run; "" takes any file. vocab_size: V; None takes the number
    of the file's tokens, and a larger one is of a network that has more, which text never uses.
    """

    path: str = field(default="", compare=False)
    sha256: str = ""
    vocab_size: int | None = None
    separator = "\n"

    def read(self):
        """The same, with its digest and size; UserError where the file is missing, broken or another."""
        _, sha256 = _content(self.path, self.sha256)
        size = _coder(self.path, sha256).size
        if self.vocab_size is not None and size > self.vocab_size:
            raise UserError(
                f"data.tokenizer.path {self.path} has {size} tokens, more than the vocab_size = "
                f"{self.vocab_size} of the network; give the tokenizer that belongs to it"
            )
        return replace(self, sha256=sha256, vocab_size=self.vocab_size or size)

    @property
    def _loaded(self) -> Coder:
        return _coder(self.path, self.sha256)

    def copy(self, folder):
        files = find_files(Path(self.path).expanduser())
        usual = {".model": "tokenizer.model", ".txt": "vocab.txt"}
        alone = usual.get(files[0].suffix, "tokenizer.json")
        for file in files:
            name = alone if len(files) == 1 else file.name
            write_atomically(folder / name, file.read_bytes())

    def moved(self, folder):
        return replace(self, path=str(folder))

    def number(self, token):
        number = self._loaded.number(token)
        if number is None:
            raise UserError(f"data.tokenizer.path {self.path} has no token {token!r}")
        return number

    def name(self, number: int) -> str:
        """The token of a number, as the vocabulary writes it."""
        name = self._loaded.name(number)
        if name is None:
            raise UserError(
                f"data.tokenizer.path {self.path} has no token with the number {number}"
            )
        return name

    @property
    def unknown(self) -> int | None:
        """As `Tokenizer.unknown`."""
        return self._loaded.unknown

    @property
    def space(self):
        names = ((n, self.name(n)) for n in range(self._loaded.size))
        letters = (
            n for n, name in names if len(name) == 1 and self.decode(np.array([n, n])).isalpha()
        )
        between = next(letters, None)  # at the ends of a text spaces are dropped
        for space in map(self._loaded.number, ("▁", "Ġ", " ")):
            if space is not None and between is not None:
                first, *rest, last = self.decode(np.array([between, space, between]))
                if rest == [" "] and first == last:
                    return space
        return None

    def spans(self, text):
        return self._loaded.spans(text)

    def encode(self, chunks: Iterable[str], where: str) -> Iterator[np.ndarray]:
        batch, size = [], 0
        for text in chunks:
            batch.append(text)
            size += len(text)
            if size > _BATCH:
                yield from self._encode(batch)
                batch, size = [], 0
        yield from self._encode(batch)

    def _encode(self, texts: list[str]) -> Iterator[np.ndarray]:
        pieces = [list(_pieces(text)) for text in texts]
        encoded = iter(self._loaded.encode([piece for each in pieces for piece in each]))
        dtype = "uint16" if (self.vocab_size or 0) <= 65536 else "uint32"
        for each in pieces:
            ids = [np.array(next(encoded), dtype) for _ in each]
            yield np.concatenate([*ids, np.zeros(0, dtype)])

    def decode(self, tokens):
        return self._loaded.decode([int(t) for t in tokens])

    def count_characters(self, tokens):
        return len(self.decode(tokens))

    def count_words(self, tokens):
        return len(self.decode(tokens).split())


def _pieces(text: str) -> Iterator[str]:
    """Parts of a long text that are tokenized alike apart: cut before a line break that a letter
    follows, where byte-level BPE cuts words too."""
    start = 0
    while len(text) - start > _BATCH:
        at = start + _BATCH
        while at < len(text) and not (text[at - 1] == "\n" and not text[at].isspace()):
            at += 1
        if at == len(text):
            break
        yield text[start : at - 1]
        start = at - 1
    if text:
        yield text[start:]


def _content(path: str, sha256: str) -> tuple[list[bytes], str]:
    """What the tokenizer is, file by file, and the digest; UserError where that is not `sha256`, unless
    "" is given."""
    if not path:
        raise UserError(f"data.tokenizer.path is missing; give {KINDS}")
    try:
        contents = [file.read_bytes() for file in find_files(Path(path).expanduser())]
    except OSError as error:
        raise UserError(
            f"data.tokenizer.path {path}: {error.strerror or error}; give {KINDS}"
        ) from error
    digest = hashlib.sha256(b"\0".join(contents)).hexdigest()
    if sha256 not in ("", digest):
        raise UserError(
            f"data.tokenizer.path {path}: its vocabulary (sha256 {digest[:12]}) is not that of "
            f"the run ({sha256[:12]}); give the file that the run was trained with"
        )
    return contents, digest


@lru_cache(maxsize=4)
def _coder(path: str, sha256: str) -> Coder:
    """The tokenizer at `path`; UserError where there is none, or another than the one of the digest."""
    contents, _ = _content(path, sha256)
    try:
        return read_coder(find_files(Path(path).expanduser()), contents)
    except UserError:
        raise
    except Exception as error:  # the libraries raise plain Exception for a broken file
        raise UserError(
            f"data.tokenizer.path {path}: cannot be read as a tokenizer ({shortened(str(error))}); give "
            f"{KINDS}"
        ) from error
