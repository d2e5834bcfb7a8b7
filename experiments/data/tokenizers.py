"""Alphabets: text to token numbers and back. The mask token belongs to the process, never to these.

The characters and words of a text are counted of what the tokens spell: in letters and bytes after
normalising, which is what is modelled. Subword tokens do not spell their text (they lower its case, they
part it at commas), so theirs are counted of the text that was given to the tokenizer. In records this is
`COUNTED`.
"""

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import Field, dataclass, replace
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any, ClassVar

import numpy as np

from experiments.errors import UserError

LETTERS = " " + ascii_lowercase
COUNTED = "characters and words of the text after normalising, before subwords"
_CHUNK = 1 << 22  # bytes decoded at a time
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_NOT_TEXT = re.compile("[\udc80-\udcff]")  # bytes, as Python reads them
_SPELLED = str.maketrans(
    dict(zip(ascii_uppercase, ascii_lowercase, strict=True))
    | {str(n): f" {word} " for n, word in enumerate(_DIGITS)}
)


class OutsideAlphabet(UserError):
    """A character that an alphabet lacks."""


class Tokenizer(ABC):
    """How text becomes token numbers and back. An implementation is a frozen dataclass of settings."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings
    vocab_size: int | None
    separator: str  # stands between the files of a directory
    sha256: str = ""
    """The digest of the files that it is read from; "" of one that needs none."""
    unknown: int | None = None
    """The number of the token that stands for what the vocabulary lacks."""
    symbols: str | None = None
    """The characters of an alphabet that is taken from the text, "" until it is; None of others."""
    binary: bool = False
    """Whether tokens are bytes, so that any bytes are a text."""

    @abstractmethod
    def encode(self, chunks: Iterable[str], where: str) -> Iterator[np.ndarray]:
        """The tokens of each chunk of one text, uint8 or uint16; UserError naming `where`."""

    @abstractmethod
    def decode(self, tokens: np.ndarray) -> str:
        """The text of a row of tokens."""

    @abstractmethod
    def count_characters(self, tokens: np.ndarray) -> int:
        """How many characters of the text the tokens stand for."""

    @abstractmethod
    def count_words(self, tokens: np.ndarray) -> int:
        """How many words, parted by white space, they stand for."""

    def count_not_text(self, tokens: np.ndarray) -> int:
        """How many of the tokens are bytes that are in no character; 0 unless `binary`."""
        return 0

    def read(self) -> "Tokenizer":
        """The same with what its files say filled in; UserError where they are missing or changed."""
        return self

    def copy(self, folder: Path) -> None:  # noqa: B027, most need no files
        """Writes the files that it is read from into the folder."""

    def moved(self, folder: Path) -> "Tokenizer":
        """The same, read from the files that `copy` wrote into the folder."""
        return self

    def normalized(self, chunks: Iterable[str]) -> Iterator[str]:
        """The chunks of one text as the tokens spell it."""
        return iter(chunks)

    def without_normalizing(self) -> "Tokenizer":
        """The tokenizer that takes text as it is."""
        return self

    def advice(self) -> str:
        """What to do about text outside of the alphabet of a run that is trained."""
        return "a run keeps the alphabet it was trained with"


class SubwordTokenizer(Tokenizer):
    """Tokens are parts of words, have names, and depend on the text around them."""

    @abstractmethod
    def number(self, token: str) -> int:
        """The number of a token by its name, such as "[SEP]"; UserError where it has none."""

    @abstractmethod
    def name(self, number: int) -> str:
        """The token of a number, as the vocabulary writes it."""

    @property
    @abstractmethod
    def space(self) -> int | None:
        """The number of the token that is a space and nothing else, None where there is none."""

    @abstractmethod
    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """(number, start, stop) of the tokens of a text, by its characters. Some have no characters of
        their own: a space that is put before the text, all bytes of a character but one."""


def token_number(tokenizer: Tokenizer, token: str, setting: str) -> int:
    """The number of a token that a setting gives: of subwords by its name, of others one character."""
    if isinstance(tokenizer, SubwordTokenizer):
        return tokenizer.number(token)
    numbers = np.concatenate([*tokenizer.encode([token], setting), np.zeros(0, np.uint8)])
    if len(numbers) != 1:
        kind = type(tokenizer).__name__
        raise UserError(f"{setting} = {token!r} is not one token of {kind}; give one character")
    return int(numbers[0])


@dataclass(frozen=True)
class Letters27(Tokenizer):
    """text8's alphabet: space is 0, a to z are 1 to 26.

    normalize: whether any text is brought into it as text8 was (M. Mahoney's wikifil.pl): lower case,
    digits spelled out, every run of other characters one space. Characters are then counted after it.
    False rejects text outside of the alphabet.
    """

    normalize: bool = False
    vocab_size = len(LETTERS)
    separator = " "

    def encode(self, chunks, where):
        advice = (
            "--set data.tokenizer.normalize=True maps text to a-z and space, "
            "--set data.tokenizer=Characters takes every character as it is"
        )
        chunks = self.normalized(chunks)
        return _encode(chunks, LETTERS, where, "27 letters (a-z and space)", advice)

    def decode(self, tokens):
        return _decode(LETTERS, tokens)

    def normalized(self, chunks):
        return _normalized(chunks) if self.normalize else iter(chunks)

    def without_normalizing(self):
        return replace(self, normalize=False)

    def advice(self):
        return f"{super().advice()}, to which --set data.tokenizer.normalize=True maps text"

    def count_characters(self, tokens):
        return len(tokens)

    def count_words(self, tokens):
        return _count_words(tokens, LETTERS)


@dataclass(frozen=True)
class Characters(Tokenizer):
    """One token per character of an alphabet.

    symbols: the alphabet, in order; "" takes every character that occurs in the data.
    """

    symbols: str = ""
    separator = "\n"

    def __post_init__(self):
        if len(set(self.symbols)) != len(self.symbols):
            raise ValueError(f"Characters.symbols = {self.symbols!r} repeats a character")

    @property
    def vocab_size(self) -> int | None:
        """The number of symbols; None where the data has yet to tell them."""
        return len(self.symbols) or None

    def encode(self, chunks, where):
        advice = "add it to data.tokenizer.symbols, or leave that empty to take what occurs"
        return _encode(chunks, self.symbols, where, f"{len(self.symbols)} symbols", advice)

    def decode(self, tokens):
        return _decode(self.symbols, tokens)

    def count_characters(self, tokens):
        return len(tokens)

    def count_words(self, tokens):
        return _count_words(tokens, self.symbols)


@dataclass(frozen=True)
class Bytes(Tokenizer):
    """One token per byte of the UTF-8 text."""

    vocab_size = 256
    separator = "\n"
    binary = True

    def encode(self, chunks, where):
        for text in chunks:
            yield np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)

    def decode(self, tokens):
        return bytes(tokens.tolist()).decode("utf-8", "replace")

    def count_characters(self, tokens):
        return _count_bytes(tokens)[0]

    def count_words(self, tokens):
        return _count_bytes(tokens)[1]

    def count_not_text(self, tokens: np.ndarray) -> int:
        """How many of the bytes are in no character of UTF-8, less those of one that an end cuts."""
        return _count_bytes(tokens)[2]


@dataclass(frozen=True)
class Numbers(SubwordTokenizer):
    """One token per number of a text such as "12 5 7": for a network whose tokenizer is not at hand.

    vocab_size: V; numbers are below it.
    """

    vocab_size: int = 256
    separator = "\n"

    def __post_init__(self):
        if not 1 <= self.vocab_size < 2**31:
            raise ValueError(f"Numbers.vocab_size = {self.vocab_size} must be at least 1")

    def encode(self, chunks, where):
        dtype = np.uint16 if self.vocab_size <= 65536 else np.uint32
        for text in chunks:
            words = text.split()
            if wrong := next((word for word in words if not self._is_token(word)), None):
                raise OutsideAlphabet(
                    f"{where}: {wrong[:20]!r} is no number below {self.vocab_size}", self.advice()
                )
            yield np.array(words, dtype)

    def advice(self) -> str:
        """What to do about text that is not numbers."""
        return "this run has no tokenizer of its own; import it with --tokenizer to read text"

    def _is_token(self, word: str) -> bool:
        return re.fullmatch("[0-9]{1,10}", word) is not None and int(word) < self.vocab_size

    @property
    def space(self):
        return None

    def number(self, token):
        if not self._is_token(token):
            raise UserError(f"{token!r} is not a number below {self.vocab_size}; give one")
        return int(token)

    def name(self, number: int) -> str:
        """The number as it is written."""
        return str(number)

    def spans(self, text):
        return [(self.number(m[0]), *m.span()) for m in re.finditer(r"\S+", text)]

    def decode(self, tokens):
        return " ".join(str(int(token)) for token in tokens)

    def count_characters(self, tokens):
        return len(self.decode(tokens))

    def count_words(self, tokens):
        return len(tokens)


def count(text: str) -> tuple[int, int]:
    """(characters, words) of a text as `normalized` gives it; bytes that are no UTF-8 are none."""
    return len(text) if text.isascii() else len(_NOT_TEXT.sub("", text)), len(text.split())


def _count_bytes(tokens: np.ndarray) -> tuple[int, int, int]:
    """(characters, words, bytes that are in no character) of UTF-8. Both ends may cut a character: it
    counts where it begins."""
    tokens = np.asarray(tokens)
    start = int(np.argmin(np.append((tokens[:4] & 0xC0) == 0x80, False)))
    start = 0 if start == 4 else start  # no character goes on for so long
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    characters, words, not_text, within = 0, 0, 0, False
    for at in range(start, len(tokens), _CHUNK):
        text = decoder.decode(tokens[at : at + _CHUNK].astype(np.uint8).tobytes())
        if not text:
            continue
        counts = count(text)
        characters, not_text = characters + counts[0], not_text + len(text) - counts[0]
        words += counts[1] - (within and not text[0].isspace())
        within = not text[-1].isspace()
    cut = bool(decoder.getstate()[0])
    return characters + cut, words + (cut and not within), not_text


def _count_words(tokens: np.ndarray, symbols: str) -> int:
    """How often a symbol that is not white space begins the text or follows one that is."""
    spaces = [number for number, symbol in enumerate(symbols) if symbol.isspace()]
    within = ~np.isin(tokens, spaces)
    return int(np.count_nonzero(within[1:] & ~within[:-1]) + np.count_nonzero(within[:1]))


def _normalized(chunks: Iterable[str]) -> Iterator[str]:
    after_space = False
    for text in chunks:
        text = re.sub("[^a-z]+", " ", text.translate(_SPELLED))
        if after_space and text.startswith(" "):
            text = text[1:]
        after_space = text.endswith(" ") if text else after_space
        yield text


def _decode(symbols: str, tokens) -> str:
    codes = np.array([ord(c) for c in symbols], "<u4")  # a table, since texts are read back whole
    return codes[np.asarray(tokens, np.intp)].tobytes().decode("utf-32-le", "surrogatepass")


def _encode(chunks, symbols: str, where: str, alphabet: str, advice: str) -> Iterator[np.ndarray]:
    codes = np.array([ord(c) for c in symbols], np.int64)
    size = max(codes, default=0) + 2
    table = np.full(size, len(codes), np.uint16)  # the number of no symbol, for what is none
    table[codes] = np.arange(len(codes))
    offset = 0
    for text in chunks:
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        tokens = table[np.minimum(points, size - 1)]
        outside = np.flatnonzero(tokens == len(codes))
        if outside.size:
            at = int(outside[0])
            raise OutsideAlphabet(
                f"{where}: character {text[at]!r} at offset {offset + at} is outside the {alphabet}",
                advice,
            )
        offset += len(text)
        yield tokens.astype(np.uint8) if len(codes) <= 256 else tokens
