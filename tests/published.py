"""Small corpora, packed as the large ones are published, and the command that prepares them."""

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from experiments import cli
from experiments.data.builders import builder_class

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "valid", "test")
PACK = {
    "": bytes,
    ".xz": lzma.compress,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
TEXT8 = ("the state of the union is what the people make of it " * 4)[:100]
NOVEL = {"train-novels/Fantasy/b.txt": " a novel . \n its end \n", "train-novels/readme": "no"}


def lines_of(split, count=5):
    return [f" the {split} sentence \u00a0 number {n} — naïve \u2028 <unk> " for n in range(count)]


def text_of(lines):
    return "".join(f"{line}\n" for line in lines)


def tar(contents):
    """The bytes of a .tar of {name: text or bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in contents.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(contents):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def as_published(name):
    """{name in the archive or folder: content} of a small corpus, and the text of its splits."""
    texts = {split: text_of(lines_of(split)) for split in SPLITS}
    kind = builder_class(name)
    if name == "text8":
        return {"text8": TEXT8}, dict(
            zip(SPLITS, (TEXT8[:90], TEXT8[90:95], TEXT8[95:]), strict=True)
        )
    if name == "lambada":
        contents = {kind.NAMES[split][0]: texts[split] for split in ("valid", "test")}
        return contents | {"train-novels.tar": tar(NOVEL)}, texts | {
            "train": " a novel . \n its end \n"
        }
    if name == "lm1b":
        of = {s: {n: f"{s} {n} .\n" for n in names} for s, names in kind.NAMES.items()}
        folder = {"train": "training", "valid": "training", "test": "heldout"}
        contents = {
            f"{folder[s]}/{n}": text for s, all_of in of.items() for n, text in all_of.items()
        }
        return contents | {"training/.svn": "no"}, {s: "".join(of[s].values()) for s in SPLITS}
    contents = {f"{name}/{kind.NAMES[split][0]}": texts[split] for split in SPLITS}
    others = (".copy/{}", "__MACOSX/._{}", "{}.old")  # a folder and archives have more in them
    return contents | {o.format(kind.NAMES["train"][0]): "no" for o in others}, texts


@pytest.fixture
def corpus(monkeypatch, tmp_path):
    """make(name, packing) -> (source, {split: text}); its texts are the published ones from then on."""

    def make(name, packing="folder"):
        kind, (contents, texts) = builder_class(name), as_published(name)
        monkeypatch.setattr(kind, "url_infos", {})
        if kind.DIGESTS:
            digests = {s: f"sha1:{hashlib.sha1(t.encode()).hexdigest()}" for s, t in texts.items()}
            monkeypatch.setattr(kind, "DIGESTS", digests)
        counts = {names: sum(texts[s].count("\n") for s in names) for names in kind.LINES}
        monkeypatch.setattr(kind, "LINES", counts)
        if name == "text8":
            monkeypatch.setattr(kind, "ENDS", (90, 95, 100))
            monkeypatch.setattr(kind, "SHA256", hashlib.sha256(TEXT8.encode()).hexdigest())
        source = tmp_path / "source"
        if packing in ("zip", "tar.gz", "tgz", "tar.xz", "tar"):
            pack = zipped if packing == "zip" else tar
            source = source.with_suffix(f".{packing}")
            compress = {"tar.gz": ".gz", "tgz": ".gz", "tar.xz": ".xz"}.get(packing, "")
            source.write_bytes(PACK[compress](pack(contents)))
            return source, texts
        for path, content in contents.items():
            content = content.encode() if isinstance(content, str) else content
            file = source / f"{path}{'' if packing == 'folder' else packing}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(PACK["" if packing == "folder" else packing](content))
        return source, texts

    return make


@pytest.fixture
def run(capsys, tmp_path):
    """prepare(name, source, ...) -> what it prints; the folder is tmp_path/out."""

    def prepare(name, source=None, *options, out=tmp_path / "out", code=0):
        capsys.readouterr()
        given = ["--source", str(source)] if source else []
        arguments = ["--dataset", name, *given, "--out", str(out), *options]
        assert cli.guarded("prepare", arguments) == code
        printed, err = capsys.readouterr()
        if code == 2:
            assert err.startswith("error: ") and err.count("\n") == 1, err
        return err if code else printed

    return prepare


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
