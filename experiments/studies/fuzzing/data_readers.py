"""Cases for what reads text: files and archives, prepared tokens, datasets."""

import bz2
import gzip
import io
import json
import lzma
import shutil
import tarfile
import warnings
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import zstandard
from hypothesis import strategies as st

from experiments.data import preparing
from experiments.data.builders import builder_class
from experiments.data.pairs import read_prompts
from experiments.data.reading import files_of, read, sources_of
from experiments.data.rows import Rows
from experiments.data.splits import WORDS
from experiments.data.subwords import Subwords
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Bytes, Characters, Letters27
from experiments.studies.fuzzing.engine import Reader
from experiments.studies.fuzzing.mutations import TEXT, damaged, damaged_folder, json_text, place
from experiments.studies.fuzzing.table_readers import write_wordpiece

_NAMES = (
    "../out.txt", "/out.txt", "//out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt", "a\nb.txt",
    "", ".", "train.txt", "x" * 300 + ".txt", "train.txt/", "\udcff.txt", "~/out.txt", "-rf.txt",
)  # fmt: skip


def _zip(members: list[tuple[str, bytes]], **options) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _tar(members: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content) if info.size else None)
    return made.getvalue()


_SPLIT_NAMES = (
    "train.txt", "valid.txt", "test.txt", "my_test_corpus.{}.txt", "{}/a.txt", "{}/test-driven.txt",
    "train-train.txt", "{}-00000-of-00010.txt", "contest.txt", "a/b/{}.tokens", "dev", "README.md",
    "dataset.json", "eval.txt", "{}.zip/a", "TRAIN/x.TXT", "./val/a", "prétrain.txt",
)  # fmt: skip
_HIDDEN = (".a.txt.swp", "x/.DS_Store", "__MACOSX/._a", "a.txt~", "Thumbs.db", "x/.git/config")
_SPLITS = (
    None, None, None, ("*", "5%", "5%"), ("train*", "5%", "test*"), ("*", "", ""), ("", "*", ""),
    ("[", "!", "**/*"), ("a|b", "50%", "49%"), ("train", "valid/", "test"),
)  # fmt: skip
_ODD_LINES = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh\r\n"


_MEMBERS = [(f"{name}.txt", TEXT.encode()) for name in ("train", "valid", "test")]
_RECORDS = [
    ("text.jsonl", b"".join(json.dumps({"text": TEXT}).encode() + b"\n" for _ in range(20)))
]


def _files() -> st.SearchStrategy[tuple[str, bytes]]:
    """(ending, content) of text files, compressed or not, whole and damaged."""
    plain = TEXT.encode()
    whole = {
        "": plain, ".txt": "Ünïcöde 𝔸 \u2028 text\r\n".encode() * 9, ".gz": gzip.compress(plain),
        ".bz2": bz2.compress(plain), ".xz": lzma.compress(plain), ".zip": _zip(_MEMBERS),
        ".GZ": gzip.compress(_tar(_MEMBERS)), ".tar": _tar(_MEMBERS), "_mark": b"\xef\xbb\xbf" + plain,
        ".zst": zstandard.ZstdCompressor().compress(plain), "_lines": _ODD_LINES.encode() * 9,
        ".lzma": lzma.compress(plain, lzma.FORMAT_ALONE), "_16": TEXT.encode("utf-16"),
        ".tgz": gzip.compress(_tar([("a.gz", gzip.compress(plain))])), "_pdf": b"%PDF-1.7\n" + plain,
        "_twice": _zip([("a.zip", _zip(_MEMBERS))]), "_7z": b"7z\xbc\xaf\x27\x1c" + plain,
    }  # fmt: skip
    one = st.sampled_from(list(whole.items()))
    broken = one.flatmap(lambda item: st.tuples(st.just(item[0]), damaged(item[1])))
    mixed = st.tuples(st.sampled_from(list(whole)), st.sampled_from(list(whole.values())))
    return st.one_of(broken, broken, broken, mixed)


def _read_text(case: tuple[str, bytes], folder: Path) -> None:
    path = folder / f"text{case[0]}"
    path.write_bytes(case[1])
    for tokenizer in (Bytes(), Characters()):
        for _, chunks in read(sources_of(path, files_of(path)), tokenizer):
            for _ in chunks:
                pass
    (folder / "cache").mkdir()
    corpus = prepare(Text(str(path), Bytes(), cache_dir=str(folder / "cache")))
    corpus.tokenizer.decode(corpus.tokens)


def _pair_files() -> st.SearchStrategy[bytes]:
    """Files of pairs of prompt and answer, some lines of which are damaged."""
    whole = {"prompt": "12 + 7 = ", "answer": "né"}
    lines = st.lists(st.one_of(st.just(json.dumps(whole).encode()), json_text(whole)), max_size=4)
    before = json.dumps({"prompt": "", "answer": "b"}).encode() + b"\n"
    return lines.map(lambda some: before * 30 + b"\n".join(some))


def _read_pairs(case: bytes, folder: Path) -> None:
    path = folder / "pairs.jsonl"
    path.write_bytes(case)
    read_prompts(str(path), "--prompts")
    cache = str(folder / "cache")
    data = Text(str(path), Bytes(), 24, rows="pair", end="|", cache_dir=cache)
    for name in ("train", "validation", "test"):
        rows = prepare(data).sequences(name, 24, "pair")
        assert isinstance(rows, Rows)
        rows.batch(np.arange(len(rows)))


def _splits() -> st.SearchStrategy[tuple]:
    """(how, names and contents, data.splits) of folders and archives with names that tell splits, or
    seem to."""
    name = st.builds(str.format, st.sampled_from(_SPLIT_NAMES), st.sampled_from(list(WORDS)))
    content = st.sampled_from((TEXT, TEXT[:40], "", "\ufeff" + TEXT, _ODD_LINES, "a\0b", "é"))
    file = st.tuples(st.one_of(name, name, name, st.sampled_from(_HIDDEN)), content)
    files = st.lists(file, min_size=1, max_size=6, unique_by=lambda item: item[0])
    return st.tuples(st.sampled_from(("folder", "zip", "tar")), files, st.sampled_from(_SPLITS))


def _read_splits(case: tuple, folder: Path) -> None:
    how, files, splits = case
    path = folder / "data"
    if how == "folder":
        for name, content in files:
            if not any(part.is_file() for part in (path / name).parents):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                if not (path / name).is_dir():
                    (path / name).write_text(content)
    else:
        pack = _zip if how == "zip" else _tar
        path.write_bytes(pack([(name, content.encode()) for name, content in files]))
    data = Text(str(path), Characters(), cache_dir=str(folder / "cache"), splits=splits)
    corpus = prepare(data)
    again = prepare(data)
    if (corpus.bounds, corpus.files) != (again.bounds, again.files):
        raise AssertionError("the cache tells other splits")
    prepare(replace(data, rows="sentence", document="line"))


def _archives() -> st.SearchStrategy[tuple[str, str, bytes]]:
    """(dataset, file name, content): archives of documents, with names that lead out of them, links, and
    damage."""
    name = st.one_of(st.sampled_from(_NAMES), st.text(max_size=20))
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
    link = st.sampled_from(("/etc/passwd", "../../etc/passwd", "train.txt", ""))
    tars = st.one_of(
        name.map(lambda n: [*_MEMBERS, (n, TEXT.encode())]).map(_built(_tar)),
        st.builds(
            lambda k, l: _tar([("train.txt", b""), ("valid.txt", b"")], k, l),
            st.sampled_from(kinds),
            link,
        ),
        damaged(_tar(_MEMBERS)),
        damaged(_tar(_RECORDS)),
    )
    zips = st.one_of(
        name.map(lambda n: [*_MEMBERS, (n, TEXT.encode())]).map(_built(_zip)),
        damaged(_zip(_MEMBERS)),
        damaged(_zip(_RECORDS)),
    )
    packed = {
        "a.tar": lambda c: c,
        "a.tar.gz": gzip.compress,
        "a.tar.xz": lzma.compress,
        "a.tar.zst": zstandard.ZstdCompressor().compress,
    }
    shut = st.builds(
        lambda content, how: ("documents", how, packed[how](content)),
        tars,
        st.sampled_from(list(packed)),
    )
    broken = shut.flatmap(lambda case: damaged(case[2]).map(lambda c: (*case[:2], c)))
    records = st.tuples(
        st.just("documents"),
        st.just("text.jsonl"),
        json_text({"text": TEXT}).map(lambda line: _RECORDS[0][1] + line),
    )
    lines = st.tuples(st.just("lines"), st.just("a.txt"), damaged(TEXT.encode()))
    text8 = st.tuples(
        st.just("text8"), st.just("text8.zip"), damaged(_zip([("text8", TEXT.encode())]))
    )
    return st.one_of(
        shut, zips.map(lambda c: ("documents", "a.zip", c)), broken, records, lines, text8
    )


def _built(make):
    def build(members: list[tuple[str, bytes]]) -> bytes:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a name that is there twice
                return make(members)
        except (ValueError, UnicodeError):  # a name that the format has no place for
            return make(_MEMBERS)

    return build


def _prepare_dataset(case: tuple[str, str, bytes], folder: Path) -> None:
    dataset, name, content = case
    (folder / "in").mkdir()
    (folder / "in" / name).write_bytes(content)
    preparing.prepare(
        builder_class(dataset), str(folder / "in"), folder / "out", True, lambda line: None
    )


def _corpora(folder: Path) -> list[Reader]:
    """Prepared tokens, of letters, of labelled text and of documents, of which a file was changed."""
    vocabulary = folder / "vocab.txt"
    folder.mkdir()
    write_wordpiece(vocabulary)
    for name in ("labels/a", "labels/b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "text.txt").write_text(TEXT)
    (folder / "text.txt").write_text(TEXT * 5)
    settings = {
        "letters": Text(str(folder / "text.txt"), Characters()),
        "labels": Text(str(folder / "labels"), Bytes(), labels="folder"),
        "documents": Text(
            str(folder / "text.txt"),
            Subwords(str(vocabulary)),
            rows="pack",
            document="line",
            length=8,
        ),
    }
    made = []
    for name, data in settings.items():
        cache = folder / f"cache-{name}"
        prepare(replace(data, cache_dir=str(cache)))

        def open_it(case, folder, data=data, cache=cache):
            place(cache, folder, case)
            corpus = prepare(replace(data, cache_dir=str(folder)))
            for split in corpus.bounds:
                rows = corpus.sequences(split, 4, data.rows)
                if isinstance(rows, Rows):
                    rows.read(np.arange(len(rows)))
                    continue
                corpus.tokenizer.decode(rows)
                if labels := corpus.split_labels(split):
                    labels.of(np.arange(len(rows) - 4), 4)

        made.append(Reader(f"prepared tokens, {name}", 200, damaged_folder(cache), open_it))
    _interrupt(cache, folder / "begun")
    begun = damaged_folder(folder / "begun", ".preparing*/*")
    return [
        *made,
        Reader(
            "a preparation that was killed", 200, begun, partial(open_it, cache=folder / "begun")
        ),
    ]


def _interrupt(cache: Path, begun: Path) -> None:
    """Makes of a finished cache what a preparation leaves that was killed near its end."""
    (done,) = cache.iterdir()
    work = begun / f".preparing-{done.name}"
    work.mkdir(parents=True)
    starts, characters, words = np.load(done / "documents.npy")
    shutil.copy(done / "tokens.bin", work)
    np.stack([np.diff(starts), characters[:-1], words[:-1]], axis=1).tofile(work / "documents.bin")
    progress = {"documents": len(starts) - 1, "sizes": {"train": int(starts[-1])}}
    (work / "progress.json").write_text(json.dumps(progress))


def _notes(folder: Path) -> Reader:
    """What a preparation notes of a dataset that is whole, or of a split of one that is not."""
    source, whole = folder / "source", folder / "whole"
    source.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (source / f"{split}.txt").write_text(TEXT)

    def make(out: Path) -> None:
        preparing.prepare(builder_class("lines"), str(source), out, True, lambda line: None)

    def read(case: tuple[str, bytes], folder: Path) -> None:
        out = folder / "out"
        shutil.copytree(whole, out)
        if case[0] != "dataset.json":
            (out / "dataset.json").unlink()
        (out / case[0]).write_bytes(case[1])
        data = Text(str(out), Letters27(normalize=True), cache_dir=str(folder / "cache"))
        try:
            prepare(data)
        finally:
            make(out)

    make(whole)
    known = json.loads((whole / "dataset.json").read_text())
    about = {name: value for name, value in known.items() if name != "splits"}
    state = {"about": about, "record": known["splits"]["train"]}
    cases = st.one_of(
        json_text(known).map(lambda c: ("dataset.json", c)),
        json_text(state).map(lambda c: (".train.json", c)),
    )
    return Reader("dataset.json", 200, cases, read)


def readers(folder: Path) -> list[Reader]:
    """The readers of this file, each with its cases; folder: where they may write."""
    return [
        Reader("text files, compressed or not", 400, _files(), _read_text),
        Reader("pairs and prompts", 200, _pair_files(), _read_pairs),
        Reader("names that tell splits", 300, _splits(), _read_splits),
        *_corpora(folder / "corpora"),
        Reader("datasets and their archives", 400, _archives(), _prepare_dataset),
        _notes(folder / "notes"),
    ]
