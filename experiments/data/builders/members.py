"""Files of a corpus as streams of bytes: compression taken off, archives walked, nothing extracted.

What is damaged, cut short, not UTF-8 or named so that it would leave its archive is a UserError.
"""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import zstandard

from experiments.data.reading import DAMAGE, zip_files
from experiments.errors import UserError

CHUNK = 1 << 20
_BLOCK = 512  # of a tar
_ZIP = re.compile(r"\.zip$")
_TAR = re.compile(r"\.(tgz|tar|tar\.(gz|xz|bz2|zst))$")
_DAMAGE = (*DAMAGE, tarfile.TarError, zstandard.ZstdError)


class _Zstd(io.RawIOBase):
    """A .zst file; zstandard's own reader takes a cut file for a short one."""

    def __init__(self, file: BinaryIO):
        self._file, self._frame = file, zstandard.ZstdDecompressor().decompressobj()
        self._ready, self._begun = memoryview(b""), False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._ready:
            rest = self._frame.unused_data if self._frame.eof else b""
            block = rest or self._file.read(CHUNK)
            if not block:
                if self._begun and not self._frame.eof:
                    raise EOFError("the last frame has no end")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._begun = True
            self._ready = memoryview(self._frame.decompress(block))
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


class _Ending:
    """A stream that knows its last block. A tar ends with a block of zeros, and tarfile takes one that
    was cut between two members for a whole one."""

    def __init__(self, stream: BinaryIO):
        self._stream, self.last = stream, b""

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self.last = (self.last + content)[-_BLOCK:]
        return content


def _open_zstd(path: Path, mode: str) -> BinaryIO:
    return io.BufferedReader(_Zstd(open(path, mode)), CHUNK)


_OPENERS = {
    ".xz": lzma.open,
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".zst": _open_zstd,
}


def plain(name: str) -> str:
    """The name of what a compressed file holds: `a.txt.xz` holds `a.txt`."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix in _OPENERS else name


def hidden(name: str) -> bool:
    """Whether a file is none of the user's making, such as those that some systems add to archives."""
    return any(part[0] == "." for part in PurePosixPath(name).parts)


def is_archive(name: str) -> bool:
    return bool(_ZIP.search(name) or _TAR.search(name))


@contextmanager
def told(path: Path | str):
    """Nothing; what shows inside as damage to the file is a UserError that names it. A stream of a
    generator below is read by another frame, which this then has to be around."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(
            f"{path}: damaged or cut short ({error or type(error).__name__}); get it again"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The stream of a file without its compression."""
    with told(path), _OPENERS.get(path.suffix, open)(path, "rb") as stream:
        yield stream


def members(path: Path) -> Iterator[tuple[str, BinaryIO]]:
    """(name, stream) of the files in an archive, in its order, to be read before the next one. Links and
    devices are passed over. It is read to its end, where checksums are."""
    if _ZIP.search(path.name):
        with told(path), zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                _check_inside(info.filename, path)
            for info in zip_files(archive):
                with archive.open(info) as stream:
                    yield info.filename, stream
        return
    with opened(path) as stream:
        yield from tar_members(stream, path)


def tar_members(stream: BinaryIO, where: Path | str) -> Iterator[tuple[str, BinaryIO]]:
    """(name, stream) of the files in an uncompressed tar, itself read as a stream."""
    ending = _Ending(stream)
    with told(where), tarfile.open(fileobj=ending, mode="r|") as archive:
        for info in archive:
            _check_inside(info.name, where)
            if info.isfile():
                yield info.name, archive.extractfile(info)
        while ending.read(CHUNK):
            pass
        if ending.last != bytes(_BLOCK):
            raise EOFError("the archive has no end")


def _check_inside(name: str, path: Path | str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if (parts and (parts[0][0] == "/" or parts[0].endswith(":"))) or ".." in parts:
        raise UserError(
            f"{path}: its member {name!r} would leave the archive; this is not the published file"
        )


def lines(stream: BinaryIO, where: str) -> Iterator[str]:
    """The lines of a stream, without their ends; only the line feed ends a line."""
    for number, line in enumerate(stream, 1):
        yield decode(line.removesuffix(b"\n"), f"{where}, line {number}")


def decode(content: bytes, where: str) -> str:
    """UTF-8 text; UserError where it is another encoding."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 ({error.reason}); convert the file to UTF-8"
        ) from error
