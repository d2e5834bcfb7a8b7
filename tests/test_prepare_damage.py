"""What is not the corpus, or is a damaged or dangerous archive of it, is one line and no file."""

import gzip
import shutil
import tarfile

import pytest
from published import NOVEL, TEXT8, corpus, run, tar, zipped  # noqa: F401


def break_text(old, new):
    def change(source):
        files = [p for p in sorted(source.rglob("*")) if p.is_file()]
        path = next(p for p in files if old in p.read_bytes())
        path.write_bytes(path.read_bytes().replace(old, new))

    return change


def put(name, content):
    return lambda source: (source / name).write_bytes(content)


def drop(name):
    return lambda source: next(source.rglob(name)).unlink()


def twice(name):
    return lambda source: (source / f"{name}.gz").write_bytes(
        gzip.compress(next(source.rglob(name)).read_bytes())
    )


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("ptb", break_text(b"naive", b"native"), None),
        ("ptb", break_text("naïve".encode(), b"native"), "its test split is not that of ptb"),
        ("wikitext2", break_text("naïve".encode(), b"na\xefve"), "tokens, line 1: not UTF-8"),
        ("ptb", drop("ptb.valid.txt"), "ptb.valid.txt of the valid split is missing"),
        ("ptb", twice("ptb.test.txt"), "ptb.test.txt of the test split occurs more than once"),
        ("text8", twice("text8"), "more than once"),
        ("lm1b", drop("news.en-000*"), "of the train split is missing"),
        ("lm1b", drop("news.en-00099-of-00100"), "of the valid split is missing"),
        ("lm1b", break_text(b"train news.en-00007", b"train\nnews.en-00007"), "valid have 100"),
        ("lm1b", drop("news.en.heldout-00031-of-00050"), "heldout-00031-of-00050 of the test"),
        ("text8", break_text(b"t", b""), "characters, but text8 has 100; use text8.zip"),
        ("text8", break_text(b"the", b"teh"), "another text of the same length"),
        ("text8", break_text(TEXT8.encode(), b""), "is empty"),
        ("lambada", put("train-novels.tar", tar({"../b.txt": ""})), "leave the archive"),
        (
            "lambada",
            put("train-novels.tar", tar(NOVEL)[:-9000]),
            "train-novels.tar: damaged or cut",
        ),
        ("lambada", drop("lambada_dev*"), "lambada_development_plain_text.txt of the valid"),
        ("ptb", lambda source: shutil.rmtree(source / "ptb"), "none of its files"),
        ("documents", lambda source: None, "none of its files"),
    ],
)
def test_what_is_not_the_corpus_is_one_line_and_no_file(
    name, change, message, corpus, run, tmp_path
):
    source, _ = corpus(name if name != "documents" else "wikitext2")
    if message is None:
        with pytest.raises(StopIteration):  # the changes below do change something
            change(source)
        return
    change(source)
    assert message in run(name, source, code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "packing", ["zip", "tar.gz", "tgz", "tar.xz", ".xz", ".gz", ".bz2", ".zst"]
)
def test_a_file_cut_anywhere_is_one_line_and_no_file(packing, corpus, run, tmp_path):
    source, _ = corpus("ptb", packing)
    path = source if source.is_file() else source / f"ptb/ptb.valid.txt{packing}"
    whole = path.read_bytes()
    for size in (0, 1, 10, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:size])
        message = run("ptb", source, code=2)
        assert "damaged or cut short" in message or (size == 0 and "is empty" in message)
        assert not (tmp_path / "out").exists()
    path.write_bytes(whole)
    run("ptb", source)


@pytest.mark.parametrize("pack", [zipped, tar])
@pytest.mark.parametrize(
    "name", ["../train.txt", "/etc/train.txt", "a/../../train.txt", "C:\\train.txt"]
)
def test_a_member_that_leaves_its_archive_is_rejected(pack, name, run, tmp_path):
    source = tmp_path / f"source.{'zip' if pack is zipped else 'tar'}"
    source.write_bytes(pack({"fine.txt": "fine", name: "not fine"}))
    assert "would leave the archive" in run("documents", source, code=2)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_a_file_that_is_in_an_archive_and_beside_it_is_rejected(corpus, run, tmp_path):
    source, texts = corpus("wikitext2", "zip")
    whole = tmp_path / "whole"
    whole.mkdir()
    source.rename(whole / "wikitext-2-v1.zip")
    run("wikitext2", whole)
    (whole / "wiki.valid.tokens").write_text(texts["valid"])
    message = run("wikitext2", whole, out=tmp_path / "again", code=2)
    assert "wiki.valid.tokens of the valid split occurs more than once" in message


def test_links_in_an_archive_are_not_followed(run, tmp_path):
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(tmp_path / "source.tar", "w") as archive:
        link = tarfile.TarInfo("ptb.train.txt")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(link)
    assert "ptb.train.txt of the train split is missing" in run(
        "ptb", tmp_path / "source.tar", code=2
    )
