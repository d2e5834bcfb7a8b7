"""A corpus written as plain text: a file a split, each complete or absent, and dataset.json at the end.

The files depend on the source's bytes alone. A finished split leaves `.SPLIT.json`, what it is and what
it was made of, so that a killed preparation goes on at the next one; dataset.json takes their place.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import tensorflow_datasets as tfds

from experiments.data.builders.corpus import SPLITS, Corpus
from experiments.data.remote import local_copy
from experiments.errors import UserError
from experiments.files import check_here, is_url, write_atomically
from experiments.locks import held
from experiments.plain_json import parse
from experiments.program_cache import cache_folder
from experiments.progress import duration

_BLOCK = 1 << 20  # characters, counted and written at a time
_OFTEN = 5  # seconds between lines of progress
_LOCK, _DOWNLOADS, _DATASET = ".lock", ".downloads", "dataset.json"
Log = Callable[[str], None]


def prepare(
    kind: type[Corpus], source: str | None, out: Path, partial: bool, log: Log, column: str = "text"
) -> dict:
    """What dataset.json holds, after the files are there. UserError leaves nothing behind."""
    if source is None and not kind.URLS:
        raise UserError(
            f"--dataset {kind.name} is for your own files; give --source FILE_OR_FOLDER"
        )
    check_here(out, "--out")
    if source is not None and is_url(source):
        source = str(local_copy(source, cache_folder(), "--source"))
    if source is not None and out.resolve().is_relative_to(Path(source).expanduser().resolve()):
        raise UserError(f"--out {out} is inside --source {source}; choose a folder outside")
    new = not out.exists()
    try:
        with _held(out, log):
            _check_own(out)
            return _prepare(kind, source, out, partial, log, column)
    except BaseException:
        if new:
            for folder in (out / _DOWNLOADS / "extracted", out / _DOWNLOADS, out):
                with suppress(OSError):
                    folder.rmdir()  # where nothing is in it
        raise


def _prepare(kind, source, out, partial, log, column) -> dict:
    # tfds looks for prepared records in data_dir, and there are none
    of_tfds = {"data_dir": out / _DOWNLOADS, "file_format": "array_record"}
    builder = kind(source=source, partial=partial, column=column, **of_tfds)
    log(f"{builder.name}: checking {source or 'what is downloaded from ' + ', '.join(kind.URLS)}")
    generators = builder._split_generators(None if source else _download_manager(builder, out))
    about = {
        "name": builder.name,
        "version": str(builder.version),
        "partial": partial,
        "homepage": builder.HOMEPAGE,
        "licence": builder.LICENCE,
        "sources": builder.sources,
    } | ({} if column == "text" else {"column": column})
    finished = _finished(out, about)
    splits = {}
    try:
        for split, examples in generators.items():
            record = _still_there(out, split, finished)
            if record:
                log(f"{split}: already finished, {_counts(record)}")
            else:
                record = _write(builder, split, examples, out, about, log)
            if record:
                splits[split] = record
        _check_lines(builder, splits)
    except UserError:
        _remove(out, [_DATASET, *(f"{split}.txt" for split in SPLITS)])
        raise
    described = about | {"splits": splits}
    write_atomically(out / _DATASET, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    _remove(out, [])
    log(f"{out / _DATASET}: {builder.name} {builder.version} from {len(builder.sources)} files")
    return described


def _download_manager(builder: Corpus, out: Path) -> tfds.download.DownloadManager:
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return tfds.download.DownloadManager(
        download_dir=out / _DOWNLOADS, url_infos=builder.url_infos, dataset_name=builder.name
    )


def _write(
    builder, split: str, examples: Iterator, out: Path, about: dict, log: Log
) -> dict | None:
    """The record of a split, written now; None where it is empty and may be."""
    temporary, path = out / f".{split}.txt", out / f"{split}.txt"
    algorithm, _, published = builder.DIGESTS.get(split, "sha256:").partition(":")
    digest = hashlib.new(algorithm)
    blocks = _blocks((example["text"] for _, example in examples), builder.ENDING)
    try:
        record = {
            "file": path.name,
            **_counted(blocks, temporary, digest, split, builder.share, log),
        }
        if not record["characters"]:
            if builder.partial:
                temporary.unlink()
                return None
            raise UserError(
                f"--source {builder.source}: the {split} split has no text; {builder.name} needs more"
                f"{builder.ADVICE}"
            )
        if published and published != digest.hexdigest():
            raise UserError(
                f"--source {builder.source}: its {split} split is not that of {builder.name}: "
                f"{algorithm} {digest.hexdigest()[:16]}..., published {published[:16]}...; "
                f"download it again from {builder.HOMEPAGE}"
            )
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    write_atomically(out / f".{split}.json", json.dumps({"about": about, "record": record}))
    temporary.replace(path)
    log(f"{split}: {_counts(record)}")
    return record


def _counted(
    blocks: Iterator[str],
    path: Path,
    digest,
    split: str,
    share: Callable[[], float],
    log: Log,
) -> dict:
    """The sha256 and the counts of blocks of text, after they are in the file; digest is updated too.
    Words are what white space separates, as `wc` counts them."""
    sha256, in_word, last = hashlib.sha256(), False, time.monotonic()
    began = last
    count = {"characters": 0, "bytes": 0, "lines": 0, "words": 0}
    with open(path, "wb") as file:
        for block in blocks:
            content = block.encode()
            file.write(content)
            sha256.update(content)
            digest.update(content)
            count["characters"] += len(block)
            count["bytes"] += len(content)
            count["lines"] += content.count(b"\n")
            count["words"] += len(content.split()) - (in_word and not content[:1].isspace())
            in_word = not content[-1:].isspace()
            if time.monotonic() - last > _OFTEN:
                last = time.monotonic()
                far = _far(share(), last - began)
                log(f"{split}: {count['lines']:,} lines, {count['bytes'] / 1e6:,.0f} MB{far}")
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": sha256.hexdigest(), **count}


def _far(share: float, seconds: float) -> str:
    """What was read of the source, and how long the rest takes."""
    if not share:
        return " so far"
    return f", {share:.0%} of the source is read, {duration(seconds / share * (1 - share))} left"


def _blocks(texts: Iterator[str], ending: str) -> Iterator[str]:
    """The texts, each with the ending, joined to blocks."""
    waiting, size = [], 0
    for text in texts:
        waiting += (text, ending)
        size += len(text) + len(ending)
        if size >= _BLOCK:
            yield "".join(waiting)
            waiting, size = [], 0
    if size:
        yield "".join(waiting)


def _counts(record: dict) -> str:
    return (
        f"{record['lines']:,} lines, {record['words']:,} words, {record['characters']:,} characters, "
        f"{record['bytes']:,} bytes"
    )


def _check_lines(builder: Corpus, splits: dict) -> None:
    for names, published in builder.LINES.items():
        lines = sum(splits[name]["lines"] for name in names if name in splits)
        if lines != published and not builder.partial:
            raise UserError(
                f"--source {builder.source}: {' and '.join(names)} have {lines:,} lines, but "
                f"those of {builder.name} have {published:,}; download it again from "
                f"{builder.HOMEPAGE}"
            )


def _finished(out: Path, about: dict) -> dict:
    """The records of splits that were finished before; UserError where they are of something else."""
    records = {}
    try:
        for split in SPLITS:
            if (out / f".{split}.json").exists():
                state = parse((out / f".{split}.json").read_bytes())
                if state["about"] == about:
                    records[split] = state["record"]
        if (out / _DATASET).exists():
            described = parse((out / _DATASET).read_bytes())
            records |= described.pop("splits")
            if described != about:
                differs = [k for k in described | about if described.get(k) != about.get(k)]
                raise UserError(
                    f"--out {out} holds a dataset prepared from something else (other "
                    f"{', '.join(differs)}); choose another folder, or delete it"
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--out {out}: its dataset.json is damaged; choose another folder"
        ) from error
    return records


def _still_there(out: Path, split: str, finished: dict) -> dict | None:
    """The record of a finished split whose file is what the record says."""
    path = out / f"{split}.txt"
    if split not in finished or not path.is_file():
        return None
    with open(path, "rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == finished[split].get("sha256")
    return finished[split] if same else None


def _check_own(out: Path) -> None:
    """UserError where the folder has files that no preparation wrote."""
    own = {_LOCK, _DOWNLOADS, _DATASET}
    for split in SPLITS:
        own |= {f".{split}.json", f".{split}.txt"}
        if (out / f".{split}.json").exists() or (out / _DATASET).exists():
            own.add(f"{split}.txt")
    others = sorted({path.name for path in out.iterdir()} - own)
    if others:
        raise UserError(
            f"--out {out} holds other files ({others[0]}); choose an empty folder, since training "
            "uses all text in a folder"
        )


def _remove(out: Path, names: list[str]) -> None:
    for name in [*names, *(f".{split}.{end}" for split in SPLITS for end in ("json", "txt"))]:
        (out / name).unlink(missing_ok=True)


@contextmanager
def _held(out: Path, log: Log) -> Iterator[None]:
    """Holds the folder, so that one process at a time prepares it."""
    try:
        with held(out / _LOCK, f"--out {out}", "wait, or choose another folder", log):
            yield
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}; choose another folder") from error
