"""Files and members of archives as streams of bytes, known by their content, whatever they are named:
compression taken off, archives walked, nothing extracted.

What is damaged, cut short, packed twice or no text is a UserError that names the file and the member.
"""

import bz2
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import zstandard

from experiments.errors import UserError

CHUNK = 1 << 20
_BLOCK = 512  # of a tar
_HEAD = 8192  # bytes by which a content is known
_MARK = b"\xef\xbb\xbf"  # the byte order mark that some editors begin UTF-8 with
# What the libraries raise of files that are damaged, cut short, or of a kind that they do not read.
_DAMAGE = (
    EOFError,
    lzma.LZMAError,
    zlib.error,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    struct.error,
    UnicodeDecodeError,  # zipfile: of a name
    RuntimeError,  # zipfile: a password, an unknown compression
    tarfile.TarError,
    zstandard.ZstdError,
)


class _Zstd(io.RawIOBase):
    """A .zst file; zstandard's own reader takes a cut file for a short one."""

    def __init__(self, file: IO[bytes]):
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


def _zstd(file: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(_Zstd(file), CHUNK)


class _Counted(io.FileIO):
    """A file that tells how many bytes were read of it."""

    def __init__(self, path: Path, counted: Callable[[int], None]):
        super().__init__(path)
        self._counted = counted

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer) or 0
        self._counted(size)
        return size

    def readall(self) -> bytes:
        content = super().readall()
        self._counted(len(content))
        return content


class _Ending:
    """A stream that knows its last block. A tar ends with a block of zeros, and tarfile takes one that
    was cut between two members for a whole one."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self.last = stream, b""

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self.last = (self.last + content)[-_BLOCK:]
        return content


def _kinds(*rows: tuple) -> list[tuple]:
    return [(name, re.compile(begins, re.DOTALL), *more) for name, begins, *more in rows]


_PACKINGS = _kinds(
    ("gzip", rb"\x1f\x8b\x08", gzip.open),
    ("xz", rb"\xfd7zXZ\0", lzma.open),
    ("lzma", rb"\x5d\0\0..(\xff{8}|.{5}\0{3})", lzma.open),
    ("bzip2", rb"BZh[1-9][1\x17][Ar]", bz2.open),
    ("Zstandard", rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", _zstd),
)
_ZIP = re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)")
_UNKNOWN_PACKINGS = _kinds(
    ("a 7z archive", rb"7z\xbc\xaf\x27\x1c"),
    ("a RAR archive", rb"Rar!\x1a\x07"),
    ("an LZ4 file", rb"\x04\x22\x4d\x18"),
    ("a file of compress (.Z)", rb"\x1f[\x9d\xa0]"),
    ("an lzip file", rb"LZIP[\0\1]"),
    ("an lzop file", rb"\x89LZO\0"),
    ("a Snappy file", rb"\xff\x06\0\0sNaPpY"),
    ("a CAB archive", rb"MSCF\0"),
    ("a RPM package", rb"\xed\xab\xee\xdb"),
)
_BINARIES = _kinds(
    ("UTF-16 or UTF-32 text", rb"\xff\xfe|\xfe\xff|\0\0\xfe\xff"),
    ("a PDF document", rb"%PDF-"),
    ("an old Office document", rb"\xd0\xcf\x11\xe0"),
    ("a Parquet table (ddlm prepare --dataset documents takes it)", rb"PAR1[\0-\x1f]"),
    ("an Arrow table (ddlm prepare --dataset documents takes it)", rb"ARROW1\0|\xff{4}.{3}\0"),
    ("an Avro file", rb"Obj\x01"),
    ("a SQLite database", rb"SQLite format 3\0"),
    ("an HDF5 file", rb"\x89HDF"),
    ("a numpy array", rb"\x93NUMPY"),
    ("a Python pickle", rb"\x80[\2-\5]"),
    ("an image", rb"\x89PNG|\xff\xd8\xff|GIF8[79]a"),
    ("a program", rb"\x7fELF|MZ.\0"),
)
_PACKED_NAME = re.compile(r"\.(xz|lzma|gz|bz2|zst)$", re.IGNORECASE)
_TAR_NAME = re.compile(r"\.(tar(\.(gz|xz|bz2|zst))?|tgz|tbz2?|txz)$", re.IGNORECASE)
_NOT_THE_USERS = re.compile(r"\..+|.*~|#.*#|.*\.sw[op]|__macosx|thumbs\.db|desktop\.ini")


def plain(name: str) -> str:
    """The name of what a compressed file holds: `a.txt.xz` holds `a.txt`."""
    return _PACKED_NAME.sub("", name)


def hidden(name: str) -> bool:
    """Whether a file is none of the user's making: hidden, a copy of an editor, or what some systems add
    to folders and archives. name: its path in the folder or archive."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return any(_NOT_THE_USERS.fullmatch(part.lower()) for part in parts)


def is_archive(name: str) -> bool:
    """Whether a file is named as archives are."""
    return bool(_TAR_NAME.search(name)) or name.lower().endswith(".zip")


@contextmanager
def naming_damage(where: object) -> Iterator[None]:
    """Nothing; what shows inside as damage to the file is a UserError that names it. A stream of a
    generator below is read by another frame, which this then has to be around."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(
            f"{where}: damaged or cut short ({error or type(error).__name__}); get a new copy"
        ) from error
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror or error})") from error


def unpacked(file: IO[bytes], name: str) -> io.BufferedReader:
    """The stream without its compression, if it has one; EOFError where it is cut within its head."""
    stream = io.BufferedReader(cast(Any, file), CHUNK)
    head = stream.peek(_HEAD)
    for _, begins, opener in _PACKINGS:
        if begins.match(head):
            return io.BufferedReader(opener(stream), CHUNK)
    least = _BLOCK if name.lower().endswith(".tar") else 16
    if 0 < len(head) < least and (_PACKED_NAME.search(name) or is_archive(name)):
        raise EOFError("no more than a part of its head")
    return stream


def _untold(size: int) -> None:
    """Nothing is done with it."""


@contextmanager
def opened(path: Path, counted: Callable[[int], None] = _untold) -> Iterator[io.BufferedReader]:
    """The stream of a file without its compression. counted: is told what is read of the file."""
    with naming_damage(path), _Counted(path, counted) as file:
        yield unpacked(file, path.name)


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head[:_BLOCK], "utf-8", "surrogateescape")  # by its checksum
    except tarfile.HeaderError:
        return head[257:262] == b"ustar"
    return True


def archive_kind(path: Path) -> str:
    """ "zip", "tar" (compressed or not), or "" for a file that is no archive."""
    with naming_damage(path), open(path, "rb", buffering=0) as file:
        if _ZIP.match(file.read(4)):
            return "zip"
        file.seek(0)
        return "tar" if _is_tar(unpacked(file, path.name).peek(_HEAD)) else ""


def members(
    path: Path, order: Sequence[str] = (), counted: Callable[[int], None] = _untold
) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, stream) of the files in an archive, to be read before the next one: of a zip in `order`, if
    given, else as they stand in it. Links and devices are passed over. A tar is read to its end, where
    checksums are. counted: is told what is read of the archive."""
    kind = archive_kind(path)
    if not kind:
        raise UserError(f"{path}: damaged or cut short (not an archive); get a new copy")
    if kind == "zip":
        with (
            naming_damage(path),
            io.BufferedReader(_Counted(path, counted)) as file,
            zipfile.ZipFile(file) as archive,
        ):
            infos = zip_files(archive)
            by_name = {info.filename: info for info in infos}
            for info in [by_name[name] for name in order] or infos:
                with archive.open(info) as stream:
                    yield info.filename, stream
        return
    with opened(path, counted) as stream:
        yield from tar_members(stream, path)


def zip_files(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members that are files, in the archive's order; BadZipFile for one without a name."""
    names = [info.filename for info in archive.infolist()]
    if not all(names):
        raise zipfile.BadZipFile("a member without a name")
    for mark, what in (("[Content_Types].xml", "an Office document"), ("mimetype", "an e-book")):
        if mark in names:
            raise UserError(
                f"{archive.filename}: looks like {what}, not text; save its content as plain text"
            )
    return [
        info
        for info in archive.infolist()
        if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
    ]


def tar_members(stream: IO[bytes], where: object) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, stream) of the files in an uncompressed tar, itself read as a stream."""
    ending = _Ending(stream)
    whole = cast(IO[bytes], ending)  # of which tarfile only reads
    with naming_damage(where), tarfile.open(fileobj=whole, mode="r|") as archive:
        for info in archive:
            if info.isfile() and (file := archive.extractfile(info)) is not None:
                yield info.name, file
        while ending.read(CHUNK):
            pass
        if ending.last != bytes(_BLOCK):
            raise EOFError("the archive has no end")


def check_inside(name: str, path: Path | str) -> None:
    """Nothing; UserError for a member of a published archive whose path leads out of it."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if (parts and (parts[0][0] == "/" or parts[0].endswith(":"))) or ".." in parts:
        raise UserError(
            f"{path}: its member {name!r} would leave the archive; this is not the published file"
        )


def start_of_text(stream: io.BufferedReader, where: object, binary: bool = False) -> int:
    """The number of bytes passed over, the mark that UTF-8 may begin with; UserError where the stream is
    no text. binary: any bytes will do, but for what is compressed in a way that is not read."""
    head = stream.peek(_HEAD)[:_HEAD]
    packed = "a zip" if _ZIP.match(head) else "a tar" if _is_tar(head) else ""
    for name, begins, _ in _PACKINGS:
        packed = f"a {name} file" if begins.match(head) else packed
    if packed:
        raise UserError(
            f"{where}: {packed} inside another archive or compressed file; unpack it first"
        )
    for name, begins in _UNKNOWN_PACKINGS:
        if begins.match(head):
            raise UserError(f"{where}: looks like {name}, which is unsupported; unpack it first")
    if not binary:
        _check_no_binary(head, where)
    return len(stream.read(len(_MARK))) if head.startswith(_MARK) else 0


def _check_no_binary(head: bytes, where: object) -> None:
    """A NUL among the first bytes is what tells binary files from text, as for git and grep."""
    looks = [name for name, begins in _BINARIES if begins.match(head)]
    if not looks and b"\0" not in head:
        return
    what = f"looks like {looks[0]}" if looks else f"a NUL at byte {head.index(0)}"
    raise UserError(
        f"{where}: {what}, not UTF-8 text; convert it, move it out of the text's folder, or model its "
        "bytes with --set data.tokenizer=Bytes"
    )


def lines(stream: IO[bytes], where: str) -> Iterator[str]:
    """The lines of a stream, without their ends; only the line feed ends a line."""
    for number, line in enumerate(stream, 1):
        yield decode(line.removesuffix(b"\n"), f"{where}, line {number}")


def decode(content: bytes, where: str) -> str:
    """UTF-8 text; UserError where it is another encoding."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 at byte {error.start} ({error.reason}); convert the file to UTF-8"
        ) from error
