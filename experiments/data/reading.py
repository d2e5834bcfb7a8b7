"""Text files, also compressed ones, read as a stream."""

import bz2
import gzip
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from experiments.data.tokenizers import Bytes, Tokenizer
from experiments.errors import UserError

CHUNK = 1 << 22  # characters, or tokens, at a time
# What the libraries raise of files that are damaged, cut short, or of a kind that they do not read.
DAMAGE = (
    EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, struct.error,
    UnicodeDecodeError,  # zipfile: of a name
    RuntimeError,  # zipfile: a password, an unknown compression
)  # fmt: skip
_OPENERS = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}


def read(path: Path, tokenizer: Tokenizer) -> Iterator[str]:
    """The text in chunks; UserError for what is not UTF-8 or not the compressed file it says."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for member in sorted(info.filename for info in zip_files(archive)):
                    with archive.open(member) as file:
                        yield from _chunks(file, tokenizer, path)
        else:
            with _OPENERS.get(path.suffix, open)(path, "rb") as file:
                yield from _chunks(file, tokenizer, path)
    except DAMAGE as error:
        raise UserError(f"{path}: the compressed file is damaged or cut short ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def zip_files(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members that are files, in the archive's order; BadZipFile for one without a name."""
    if not all(info.filename for info in archive.infolist()):
        raise zipfile.BadZipFile("a member without a name")
    return [info for info in archive.infolist() if not info.is_dir()]


def _chunks(file, tokenizer, path) -> Iterator[str]:
    errors = "surrogateescape" if isinstance(tokenizer, Bytes) else "strict"
    text = TextIOWrapper(file, encoding="utf-8", errors=errors, newline="")
    read = 0
    while True:
        try:
            chunk = text.read(CHUNK)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: not UTF-8 after character {read} ({error.reason}); convert it, or take it "
                "as it is with --set data.tokenizer=Bytes"
            ) from error
        if not chunk:
            return
        read += len(chunk)
        yield chunk
