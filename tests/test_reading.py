"""What is a text, an archive of texts, or neither, by content; its characters and lines, in every place
that reads text."""

import bz2
import gzip
import io
import json
import lzma
import os
import stat
import tarfile
import threading
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import zstandard

from experiments import cli
from experiments.data.builders import builder_class
from experiments.data.preparing import prepare as prepare_dataset
from experiments.data.streams import hidden
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Bytes, Characters
from experiments.errors import UserError

TEXT = "of the people by the people\nfor the people\n" * 30
PACK = {
    "": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    "zst": zstandard.ZstdCompressor().compress,
    "zst of small frames": lambda content: b"".join(
        zstandard.ZstdCompressor().compress(content[i : i + 99]) for i in range(0, len(content), 99)
    ),
}


def tar(files, form=tarfile.PAX_FORMAT):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def old_tar(files):
    """As before 1988, without a magic number."""
    block = bytearray(tar(files, tarfile.USTAR_FORMAT))
    block[257:265] = bytes(8)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def zipped(files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


@pytest.fixture
def text(tmp_path):
    """text(content, name, **settings): the characters that are read of it."""

    def read(content, name="corpus", **settings):
        path = tmp_path / name
        path.write_bytes(content)
        settings = {"tokenizer": Characters(), "cache_dir": str(tmp_path / "cache")} | settings
        corpus = prepare(Text(str(path), **settings))
        return corpus.tokenizer.decode(np.array(corpus.tokens))

    return read


@pytest.mark.parametrize("name", ["corpus", "corpus.GZ", "corpus.txt"])
@pytest.mark.parametrize("how", PACK)
@pytest.mark.parametrize(
    "archive", [None, tar, lambda f: tar(f, tarfile.GNU_FORMAT), old_tar, zipped]
)
def test_compressed_files_and_archives_are_known_by_their_content(archive, how, name, text):
    content = archive({"./folder/c.txt": TEXT.encode()}) if archive else TEXT.encode()
    if archive is zipped and how:
        with pytest.raises(UserError, match=r"a zip inside another archive or compressed file"):
            text(PACK[how](content), name)
    else:
        assert text(PACK[how](content), name) == TEXT
        assert text(PACK[how](content), name, tokenizer=Bytes()) == TEXT


@pytest.mark.parametrize("how", PACK)
@pytest.mark.parametrize("archive", [tar, zipped])
def test_members_of_an_archive_may_be_compressed_and_are_read_in_order(archive, how, text):
    members = {"b.txt": "b" * 700, "a.txt": "a" * 700, "c/d.txt": "d" * 700}
    content = archive({name: PACK[how](text.encode()) for name, text in members.items()})
    expected = ["b", "a", "d"] if archive is tar else ["a", "b", "d"]
    assert text(content) == "\n".join(letter * 700 for letter in expected)


def once(files):
    (content,) = files.values()
    return gzip.compress(content)


def twice(files):
    return gzip.compress(once(files))


@pytest.mark.parametrize(
    "outer, inner",
    [
        *[(tar, inner) for inner in (tar, zipped, twice)],
        *[(zipped, inner) for inner in (tar, zipped, twice)],
        *[(once, inner) for inner in (zipped, twice)],
    ],
)
@pytest.mark.parametrize("tokenizer", [Bytes(), Characters()])
def test_what_is_packed_twice_is_one_line(outer, inner, tokenizer, text):
    content = outer({"x": inner({"y": TEXT.encode()})})
    kind = {tar: "a tar", zipped: "a zip", twice: "a gzip file"}[inner]
    member = "" if outer is once else "x: "
    with pytest.raises(UserError, match=f"corpus: {member}{kind} inside another archive"):
        text(content, tokenizer=tokenizer)


BINARY = {
    b"%PDF-1.7\nobj": "a PDF", b"PAR1\x15\x04": "a Parquet", b"SQLite format 3\0": "a SQLite",
    b"\x80\x04\x95": "a Python pickle", b"\x93NUMPY\x01": "a numpy array", b"\x89PNG\r\n": "an image",
    "people".encode("utf-16"): "UTF-16", "people".encode("utf-16-le"): "a NUL at byte 1",
    b"\xd0\xcf\x11\xe0": "an old Office", b"abc\0": "a NUL at byte 3", b"\x89HDF": "an HDF5",
}  # fmt: skip
UNREAD = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07\x01": "RAR", b"\x04\x22\x4d\x18": "LZ4"}


@pytest.mark.parametrize("begins, what", BINARY.items())
@pytest.mark.parametrize("how", ["", "gz", "tar"])
def test_binary_files_are_no_text_but_have_bytes(begins, what, how, text):
    content = begins + b" of the people" * 9
    packed = tar({"a": content}) if how == "tar" else PACK[how](content)
    member = "corpus: a: " if how == "tar" else "corpus: "
    with pytest.raises(UserError, match=f"{member}(looks like )?{what}.*tokenizer=Bytes"):
        text(packed)
    read = text(packed, tokenizer=Bytes())
    assert read == content.decode("utf-8", "replace")


@pytest.mark.parametrize("begins, what", UNREAD.items())
@pytest.mark.parametrize("tokenizer", [Bytes(), Characters()])
def test_what_is_compressed_is_never_trained_on(begins, what, tokenizer, text):
    with pytest.raises(UserError, match=f"looks like an? {what}.*unpack it"):
        text(begins + b"\x01\x02" * 50, tokenizer=tokenizer)
    office = zipped({"[Content_Types].xml": "<x/>", "word/document.xml": "<x/>"})
    with pytest.raises(UserError, match="looks like an Office document"):
        text(office, tokenizer=tokenizer)


HIDDEN = [
    ".a.txt", "sub/.a.txt.swp", "sub/a.txt~", ".DS_Store", "x/.DS_Store", "__MACOSX/sub/a.txt",
    "Thumbs.db", "x/desktop.ini", ".git/config", "sub/#a.txt#", "a.swp", "./.b", "x/y/.z/a",
]  # fmt: skip


@pytest.mark.parametrize("how", ["folder", "zip", "tar"])
def test_hidden_files_are_left_out_at_any_depth(how, tmp_path):
    files = dict.fromkeys(HIDDEN, b"\xff\0 no") | {"sub/a.txt": TEXT.encode()}
    source = tmp_path / f"corpus.{how}"
    if how == "folder":
        for name, content in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
    else:
        source.write_bytes((zipped if how == "zip" else tar)(files))
    corpus = prepare(Text(str(source), Bytes(), cache_dir=str(tmp_path / "cache")))
    assert bytes(corpus.tokens) == TEXT.encode()
    told = prepare_dataset(builder_class("documents"), str(source), tmp_path / "out", True, print)
    assert told["splits"]["train"]["words"] == len(TEXT.split())
    assert all(map(hidden, HIDDEN)) and not any(
        map(hidden, ("a.b", "a~b/c", "../a", "./a", "a.swap"))
    )


def test_links_in_archives_are_no_text(text):
    made = io.BytesIO(zipped({"a.txt": TEXT}))
    with zipfile.ZipFile(made, "a") as archive:
        link = zipfile.ZipInfo("b.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "a.txt")
    assert text(made.getvalue()) == TEXT


def test_errors_of_a_member_name_it(text):
    for pack in (tar, zipped):
        files = {"a.txt": TEXT.encode(), "sub/b.txt": b"abc\xff" + TEXT.encode()}
        with pytest.raises(UserError, match=r"corpus: sub/b\.txt: not UTF-8 at byte 3 "):
            text(pack(files))
    broken = bytearray(zipped({"a.txt": bytes(range(32, 127)) * 9, "b.txt": TEXT}))
    broken[60] ^= 255
    with pytest.raises(UserError, match=r"corpus: a\.txt: damaged or cut short"):
        text(bytes(broken))
    with (
        pytest.raises(UserError, match=r"a\.txt is in the archive 2 times"),
        pytest.warns(UserWarning),
    ):
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("a.txt", "one")
            archive.writestr("a.txt", "two")
        text(made.getvalue())


@pytest.mark.parametrize("before", [0, 3, 5_000_000, (1 << 22) - 1, (1 << 22) - 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_bad_byte_is_named_by_its_offset(before, mark, text):
    bad = mark + b"a" * before + "é".encode() + b"\xe2\x82" + b"rest"
    message = rf"corpus: not UTF-8 at byte {len(mark) + before + 2} \(invalid"
    with pytest.raises(UserError, match=message):
        text(bad)
    with pytest.raises(UserError, match=rf"byte {len(mark) + before} \(unexpected end"):
        text(mark + b"a" * before + b"\xe2\x82")


@pytest.mark.parametrize("tokenizer", [Bytes(), Characters()])
def test_a_byte_order_mark_is_no_character(tokenizer, text, tmp_path):
    marked = b"\xef\xbb\xbf" + "naïve \ufeff café".encode()
    assert text(marked, tokenizer=tokenizer) == "naïve \ufeff café"
    assert text(zipped({"a": marked, "b": marked}), tokenizer=tokenizer).count("\ufeff") == 2
    assert (
        text(marked, tokenizer=tokenizer, document="line", rows="sentence") == "naïve \ufeff café"
    )
    with pytest.raises(UserError, match="contains no text"):
        text(b"\xef\xbb\xbf", tokenizer=tokenizer)
    for name, content, kind in (
        ("a.txt", marked, "lines"),
        ("a.txt", marked, "documents"),
        (
            "a.jsonl",
            b"\xef\xbb\xbf" + json.dumps({"text": "naïve \ufeff café"}).encode(),
            "documents",
        ),
    ):
        out = tmp_path / f"{kind}-{name}"
        (tmp_path / name).write_bytes(content)
        prepare_dataset(builder_class(kind), str(tmp_path / name), out, True, lambda line: None)
        assert (out / "train.txt").read_text() == "naïve \ufeff café\n"


ODD = [
    "a\u2028b",
    "a\u2029b",
    "a\x85b",
    "a\x0bb",
    "a\x0cb",
    "a\x1cb",
    "a\x1db",
    "a\x1eb",
    "a\rb",
    "end",
]


def test_only_the_line_feed_cuts_lines_wherever_text_is_read(text, tmp_path):
    content = "\ufeff" + "".join(f"{line}\r\n" for line in ODD)
    path = tmp_path / "odd.txt"
    path.write_bytes(content.encode())
    settings = dict(tokenizer=Characters(), document="line", cache_dir=str(tmp_path / "c"))
    corpus = prepare(Text(str(path), rows="sentence", **settings))
    starts = corpus.documents.starts
    read = [corpus.tokenizer.decode(corpus.tokens[a:b]) for a, b in pairwise(starts)]
    assert read == ODD
    prepare_dataset(builder_class("lines"), str(path), tmp_path / "out", True, lambda line: None)
    written = (tmp_path / "out" / "train.txt").read_bytes().decode().split("\n")
    assert written == [*(line.replace("\r", " ") for line in ODD[:9]), ""]  # the tenth is in valid


@pytest.mark.parametrize("record, message", [
    ('[1, "text"]', "it is a list"), ('{"body": "x", "id": 3}', "it has 'body', 'id'"),
    ('{"text": 3}', 'its "text" is a number'), ('{"text": null}', 'its "text" is null'),
    ('{"text": ["a"]}', 'its "text" is a list'), ("3", "it is a number"), ("{}", "it has nothing"),
    ("true", "it is true or false"), ('"x"', "it is a text"),
])  # fmt: skip
def test_records_without_text_are_told_in_plain_words(record, message, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + record + "\n")
    with pytest.raises(
        UserError, match=f"a.jsonl, line 2: not a JSON record with its.*: {message}$"
    ):
        prepare_dataset(
            builder_class("documents"), str(tmp_path / "a.jsonl"), tmp_path / "out", True, print
        )


def test_one_file_of_documents_is_told_of_lines(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(TEXT)
    command = ["--source", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out"), "--dataset"]
    assert cli.guarded("prepare", [*command, "documents"]) == 2
    error = capsys.readouterr().err
    assert "a .txt file is one document; --dataset lines takes each of its lines" in error
    assert cli.guarded("prepare", [*command, "lines"]) == 0


def through_pipe(content, use):
    """What use(path of a pipe that gives the content) returns."""
    out, into = os.pipe()

    def write():
        with open(into, "wb") as pipe:
            pipe.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return use(f"/dev/fd/{out}")
    finally:
        os.close(out)
        writer.join()


def test_a_pipe_is_read_like_a_file_and_known_again(tmp_path):
    def tokens(path):
        return prepare(Text(path, cache_dir=str(tmp_path), tokenizer=Bytes()))

    for content in (TEXT.encode() * 400, gzip.compress(TEXT.encode() * 400)):
        corpus = through_pipe(content, tokens)
        assert bytes(corpus.tokens) == TEXT.encode() * 400 and corpus.one
    count = len(list(tmp_path.iterdir()))
    through_pipe(content, tokens)
    assert len(list(tmp_path.iterdir())) == count == 4  # two texts and their tokens
    with pytest.raises(UserError, match="the pipe is empty"):
        through_pipe(b"", tokens)
    with pytest.raises(UserError, match="/dev/zero is a device"):
        tokens("/dev/zero")


def test_a_pipe_to_prepare_is_told(tmp_path):
    with pytest.raises(UserError, match="a pipe can be read only once"):
        through_pipe(
            b"", lambda p: prepare_dataset(builder_class("lines"), p, tmp_path / "out", True, print)
        )
