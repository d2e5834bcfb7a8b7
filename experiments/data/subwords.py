"""Subword tokenizers from local files, read by the libraries they were made with.

The files are vocabularies, merges and tables of pieces: data, from which nothing is executed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.tokenizers import Tokenizer
from experiments.errors import UserError
from experiments.files import write_atomically

_BATCH = 1 << 20  # characters
_KINDS = (
    "a vocab.txt of WordPiece (BERT), a folder with encoder.json and vocab.bpe or with vocab.json and "
    "merges.txt (GPT-2), a tokenizer.json of the tokenizers library, or a .model of SentencePiece"
)


@dataclass(frozen=True)
class Subwords(Tokenizer):
    """path: a vocab.txt (WordPiece, lower case as bert-base-uncased), a folder with encoder.json and
    vocab.bpe (byte-level BPE, GPT-2), a tokenizer.json, or a .model of SentencePiece. sha256, of what
    was read, and vocab_size are filled in and stored with the run; the file may move.
    """

    path: str = field(default="", compare=False)
    sha256: str = ""
    vocab_size: int | None = None
    separator = "\n"

    def read(self) -> "Subwords":
        """The same, with its digest and size; UserError where the file is missing, broken or another."""
        _, sha256 = _content(self.path, self.sha256)
        return replace(self, sha256=sha256, vocab_size=_coder(self.path, sha256).size)

    @property
    def _loaded(self) -> "_Coder":
        return _coder(self.path, self.sha256)

    def copy(self, folder: Path) -> None:
        """Writes into the folder what `path` has to be given for the same tokenizer."""
        for file in _files(Path(self.path).expanduser()):
            name = "tokenizer.model" if file.suffix == ".model" else file.name
            write_atomically(folder / name, file.read_bytes())

    def number(self, token: str) -> int:
        """The number of a token by its name, such as "[SEP]"; UserError where it has none."""
        number = self._loaded.number(token)
        if number is None:
            raise UserError(f"data.tokenizer.path {self.path} has no token {token!r}")
        return number

    @property
    def unknown(self) -> int | None:
        """The number of the token that stands for what the vocabulary lacks."""
        return self._loaded.unknown

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
        found = iter(self._loaded.encode([piece for each in pieces for piece in each]))
        dtype = "uint16" if (self.vocab_size or 0) <= 65536 else "uint32"
        for each in pieces:
            ids = [np.array(next(found), dtype) for _ in each]
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


class _Coder(NamedTuple):
    """What the libraries have in common."""

    size: int
    encode: Callable[[list[str]], list[list[int]]]
    decode: Callable[[list[int]], str]
    number: Callable[[str], int | None]
    unknown: int | None


def _content(path: str, sha256: str) -> tuple[bytes, str]:
    """What the tokenizer is, its files in order, and the digest; UserError where that is not `sha256`,
    unless "" is given."""
    if not path:
        raise UserError(f"data.tokenizer.path is missing; give {_KINDS}")
    try:
        content = b"\0".join(file.read_bytes() for file in _files(Path(path).expanduser()))
    except OSError as error:
        raise UserError(
            f"data.tokenizer.path {path}: {error.strerror or error}; give {_KINDS}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in ("", found):
        raise UserError(
            f"data.tokenizer.path {path}: its vocabulary is another (sha256 {found[:12]}) than that of "
            f"the run ({sha256[:12]}); give the file it was trained with"
        )
    return content, found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    pairs = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
    for pair in pairs:
        if all((path / name).is_file() for name in pair):
            return [path / name for name in pair]
    single = [path / name for name in ("tokenizer.json", "vocab.txt", "tokenizer.model")]
    return [file for file in single if file.is_file()][:1] or [path / "encoder.json"]


@lru_cache(maxsize=4)
def _coder(path: str, sha256: str) -> _Coder:
    """The tokenizer at `path`; UserError where there is none, or another than the one of the digest."""
    content, _ = _content(path, sha256)
    files = _files(Path(path).expanduser())
    try:
        if files[0].suffix == ".model":
            return _sentencepiece(content)
        return _tokenizers(files, content)
    except UserError:
        raise
    except Exception as error:  # the libraries raise plain Exception for a broken file
        said = " ".join(str(error).split())[:120]
        raise UserError(
            f"data.tokenizer.path {path}: cannot be read as a tokenizer ({said}); give {_KINDS}"
        ) from error


def _tokenizers(files: list[Path], content: bytes) -> _Coder:
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    parts = content.decode("utf-8").split("\0")
    if len(files) == 2:
        merges = [tuple(line.split()) for line in parts[1].splitlines() if line[:8] != "#version"]
        made = tokenizers.Tokenizer(models.BPE(json.loads(parts[0]), [m for m in merges if m]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    elif files[0].suffix == ".txt":
        vocab = {word: number for number, word in enumerate(parts[0].splitlines())}
        made = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece(cleanup=False)
    else:
        made = tokenizers.Tokenizer.from_str(parts[0])
        made.no_padding()
        made.no_truncation()
    numbers = made.get_vocab().values()
    if sorted(numbers) != list(range(len(numbers))) or (
        files[0].suffix == ".txt" and len(numbers) != len(parts[0].splitlines())
    ):
        raise UserError(
            f"data.tokenizer.path {files[0]}: tokens are not numbered from 0 on, each once; give a "
            "whole vocabulary without repetitions"
        )
    unknown = getattr(made.model, "unk_token", None)
    unknown = None if unknown is None else made.token_to_id(unknown)
    letters = pre_tokenizers.ByteLevel.alphabet()
    if unknown is None and any(made.token_to_id(letter) is None for letter in letters):
        raise UserError(
            f"data.tokenizer.path {files[0]}: the vocabulary has neither all bytes nor a token for what "
            "it lacks ([UNK]), so that text could get lost; give a whole vocabulary"
        )

    def encode(texts):
        found = made.encode_batch(texts, add_special_tokens=False)
        return [one.ids for one in found]

    def decode(ids):
        return made.decode(ids, skip_special_tokens=False)

    return _Coder(made.get_vocab_size(), encode, decode, made.token_to_id, unknown)


def _sentencepiece(content: bytes) -> _Coder:
    import sentencepiece

    if not content:  # which the library takes for no model yet, not for a broken one
        raise ValueError("it is empty")
    made = sentencepiece.SentencePieceProcessor(model_proto=content)

    def number(token):
        found = made.piece_to_id(token)
        return None if found == made.unk_id() and token != made.id_to_piece(found) else found

    return _Coder(made.get_piece_size(), made.encode, made.decode, number, made.unk_id())
