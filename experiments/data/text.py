"""A text corpus: files read once, as a stream, into token numbers on disk that are memory-mapped.

The prepared tokens live in a cache, in a folder named after what they depend on (source files,
tokenizer, splits). It is written under a temporary name and renamed when complete. What comes through a
pipe is kept there too, as it is needed again.
"""

import contextlib
import hashlib
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal

from experiments.data.corpus import EMBEDDED, Corpus, open_corpus, read_documents, write_corpus
from experiments.data.labels import PERIODS, folder_names
from experiments.data.limited import with_train_tokens
from experiments.data.mixture import check_sources, mixed, texts_of
from experiments.data.reading import Source, files_of, sources_of
from experiments.data.remote import local_copy
from experiments.data.splits import DATASET, WORDS, Plan, check_splits, plan_splits, share_of
from experiments.data.tokenizers import Letters27, SubwordTokenizer, Tokenizer
from experiments.errors import UserError
from experiments.files import is_url
from experiments.locks import held
from experiments.plain_json import parse
from experiments.program_cache import cache_folder

_VERSION = 4  # of what a text is read as; another makes the cache anew


@dataclass(frozen=True)
class Text:
    """Where the text is and how it becomes sequences of `length` tokens.

    path: a file of UTF-8, compressed (gzip, xz, bzip2, Zstandard) or not, an archive of such (zip, tar),
    a pipe, or a directory, known by their content, hidden files left out, or a URL of such a file or
    directory (experiments.data.remote); None is the embedded corpus.
    Files or folders named after train, valid(ation) and test are those splits (experiments.data.splits).
    What `experiments.prepare` wrote is known by its dataset.json. tokenizer: how text becomes tokens.
    length: tokens of a sequence. cache_dir: where prepared tokens are kept; None is $DDLM_CACHE,
    $XDG_CACHE_HOME/ddlm or ~/.cache/ddlm.

    split_points: the ends of train, validation and test in tokens, where names tell no splits; None cuts
    the text into 90, 5 and 5 %. splits: the files of train, validation and test where their names do not
    tell, or tell otherwise: ("a.txt|b.txt", "dev/*", "") has patterns as of a shell, of files or
    folders; "" is none. "5%" takes so much from the end of train's text: ("*", "5%", "5%") cuts all of
    it, ("train.txt", "5%", "test.txt") takes validation out of train. What no pattern names is left out.

    rows: what a sequence is. "wrap": `length` tokens of the text as it goes on, which random crops are
    trained and chunks evaluated on. "sentence": a document, padded. "pack": as many whole documents as
    fit, padded, each seen alone. Padding counts as nothing. "pair": a prompt, which is known, and its
    answer, which is learned, of a line {"prompt": "...", "answer": "..."} (experiments.data.pairs).
    "piece": of a document cut into pieces of 1 to `length` tokens at random, padded: text of any length,
    for processes that model it (`diffusion.flex_mdm`).
    Splits by share are then cut between documents, or pairs. document: what a document is, a "file" or
    a "line" of one. begin, end: tokens of the vocabulary put around each document, such as "[CLS]" and
    "[SEP]", which count as tokens; "" is none. Of pairs, they stand before the prompt and after the
    answer, where `end` fills up the row, and may be a character of an alphabet.

    sources, weights: several texts in place of `path`, each a path, or None for the embedded corpus, and
    how much of the rows of a batch each is, in any unit; () is in proportion to their training tokens
    (experiments.data.mixture). Each has its own splits and its own passes; all else is the same for all.

    train_tokens: how many of the training tokens, of each of the sources, from their beginning; None is
    all.

    labels: what sequences are labelled by, a condition of the network (experiments.data.labels); None is
    nothing. "period" is for the embedded corpus: the quarter of its addresses, in order of date.
    "folder" is for a directory: the folder below `path` that a file is in, whatever is below that;
    without splits of its own, and without split_points, the text of each label is then cut into 90, 5
    and 5 %. label_names: the names of the labels; () takes the data's, in alphabetical order or that of
    time.
    """

    path: str | None = None
    tokenizer: Tokenizer = Letters27()
    length: int = 256
    split_points: tuple[int, int, int] | None = None
    cache_dir: str | None = None
    labels: Literal["period", "folder"] | None = None
    label_names: tuple[str, ...] = ()
    rows: Literal["wrap", "sentence", "pack", "pair", "piece"] = "wrap"
    document: Literal["file", "line"] = "file"
    begin: str = ""
    end: str = ""
    splits: tuple[str, str, str] | None = None
    sources: tuple[str | None, ...] = ()
    weights: tuple[float, ...] = ()
    train_tokens: int | None = None

    @property
    def by_documents(self) -> bool:
        """Whether the text is kept document by document."""
        subwords = isinstance(self.tokenizer, SubwordTokenizer)
        return subwords or self.rows != "wrap" or self.document != "file"

    @property
    def given(self) -> tuple[str, ...]:
        """What is given of each position of a row: "segments" where rows have padding, and which tokens
        are "known" of pairs."""
        padded = self.rows in ("sentence", "pack", "piece") or (
            self.rows == "pair" and not self.end
        )
        return ("segments",) * padded + ("known",) * (self.rows == "pair")

    def __post_init__(self):
        if self.length < 1:
            raise ValueError(f"Text.length = {self.length} must be at least 1")
        if self.train_tokens is not None and self.train_tokens < self.length:
            raise ValueError(
                f"Text.train_tokens = {self.train_tokens} is less than one sequence of length = "
                f"{self.length}; raise it, or leave it out"
            )
        check_sources(self)
        if self.sources:
            return  # each is checked by itself
        points = self.split_points
        if points is not None and not 0 < points[0] < points[1] < points[2]:
            raise ValueError(f"Text.split_points = {points} must be positive and increasing")
        if self.splits is not None:
            check_splits(self.splits)
            if points is not None and any(map(share_of, self.splits)):
                raise ValueError(
                    f"Text.split_points = {points}, but Text.splits = {self.splits} has shares "
                    "too; set only one of them"
                )
        if self.labels == "period" and self.path is not None:
            raise ValueError(
                f"Text.labels = period is for the embedded corpus, and Text.path = {self.path}; give a "
                "directory with a folder for each label and data.labels=folder, or data.labels=None"
            )
        if self.labels == "folder" and self.path is None:
            raise ValueError(
                "Text.labels = folder takes a directory with a folder for each label, and Text.path is "
                "None, the embedded corpus; give data.path, or data.labels=period"
            )
        if self.by_documents and (self.labels or points is not None):
            what = "labels" if self.labels else "split_points"
            raise ValueError(
                f"Text.{what} = {getattr(self, what)} needs letters or bytes in rows='wrap' of "
                f"whole files, not {type(self.tokenizer).__name__}, rows = {self.rows!r}, "
                f"document = {self.document!r}; leave it out"
            )
        if self.rows == "pair" and self.path is None:
            raise ValueError(
                "Text.rows = 'pair' takes pairs of prompt and answer, and Text.path = None is the "
                "embedded corpus; give a file of JSON lines with data.path"
            )
        named = isinstance(self.tokenizer, SubwordTokenizer) or self.rows == "pair"
        if (self.begin or self.end) and not named:
            raise ValueError(
                f"Text.begin = {self.begin!r}, Text.end = {self.end!r}: "
                f"{type(self.tokenizer).__name__} has no such tokens; leave them out, or use "
                "data.tokenizer=Subwords"
            )


def prepare(data: Text) -> Corpus:
    """The corpus of `data`, from the cache or prepared now; of several sources their mixture."""
    return mixed(data, _prepare) if data.sources else _prepare(data)


def _prepare(data: Text) -> Corpus:
    data = _here(replace(data, tokenizer=data.tokenizer.read()))
    root, files, source = _files(data)
    identity = [(name, *_stamp(name, path)) for name, path in files]
    names = _label_names(data, root, files)
    more = (data.labels, data.splits)
    if data.by_documents:
        # Whether documents are joined into one text, or each stands alone.
        more += (
            data.tokenizer.sha256 or None,
            "pair" if data.rows == "pair" else data.rows == "wrap",
            data.document,
            data.begin,
            data.end,
        )

    def kept(tokenizer: Tokenizer) -> Path:
        key = repr((_VERSION, identity, tokenizer, data.split_points, *more))
        name = f"{Path(source).stem[:40]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        return _cache(data) / re.sub("[^A-Za-z0-9._-]+", "_", name)

    folder = kept(data.tokenizer)
    corpus = _opened(folder, data, source)
    if corpus is None:
        try:
            with _workplace(folder, data.by_documents) as work:
                corpus = _opened(folder, data, source)  # another process was first
                if corpus is None:
                    write_corpus(work, data, _plan(data, root, files), source, names)
                    _remove(folder)  # it did not open: broken, or of another version
                    with contextlib.suppress(FileExistsError):
                        work.rename(folder)
                    corpus = open_corpus(folder, data, source)
        except OSError as error:
            raise UserError(
                f"data.cache_dir {folder.parent}: {error.strerror or error}; free space there or "
                "choose another with --set data.cache_dir=DIR"
            ) from error
    _link(kept(corpus.tokenizer), folder)
    limited = with_train_tokens(corpus, data.train_tokens, 2 if data.rows == "pair" else 1)
    return replace(limited, dataset=_dataset(data))


def _link(other: Path, folder: Path) -> None:
    """Nothing; `other` is the same folder: a run that was trained on a text knows its symbols, and asks
    for it by them. Where there is no link the text is prepared again."""
    with contextlib.suppress(OSError):
        if not other.exists():
            other.unlink(missing_ok=True)  # to a folder that is gone
            other.symlink_to(folder.name, target_is_directory=True)


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _opened(folder: Path, data: Text, source: str) -> Corpus | None:
    """The corpus in the folder, None where there is none that is whole."""
    with contextlib.suppress(OSError, ValueError):
        return open_corpus(folder, data, source)


@contextlib.contextmanager
def _workplace(folder: Path, stays: bool) -> Iterator[Path]:
    """A path for what becomes `folder`, the same for all processes, which wait for each other. If it
    `stays`, it keeps what an interrupted one has done, but nothing after a UserError."""
    work = folder.with_name(f".preparing-{folder.name}")
    lock = work.with_name(f"{work.name}.lock")
    with held(lock, f"the prepared text {folder}", log=_say, wait=True):
        try:
            if not stays:
                shutil.rmtree(work, ignore_errors=True)
            yield work
        except UserError:
            stays = False
            raise
        finally:
            if not stays:
                shutil.rmtree(work, ignore_errors=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _dataset(data: Text) -> str | None:
    """The name of the published corpus that `data.path` was prepared of; None where it does not say."""
    file = Path(data.path).expanduser() / DATASET if data.path else None
    if file is None or not file.is_file():
        return None
    try:
        return str(parse(file.read_bytes())["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"data.path {data.path}: {DATASET} is damaged ({error}); prepare the folder again"
        ) from error


def training_lines(data: Text) -> Iterator[str]:
    """The lines that are not empty of the files of the training split, or of all where none is."""
    for text in map(_here, texts_of(data)):
        root, files, _ = _files(text)
        plan = _plan(text, root, files, lacking=True)
        lines = replace(text, document="line", rows="sentence")
        for _, texts, _ in read_documents(lines, {"train": plan.parts.get("train", [])}):
            yield from texts


def _here(data: Text) -> Text:
    """The same, with a copy on this machine of what is elsewhere."""
    if data.path is None or not is_url(data.path):
        return data
    return replace(data, path=str(local_copy(data.path, _cache(data), "data.path")))


def _cache(data: Text) -> Path:
    return Path(data.cache_dir).expanduser() if data.cache_dir else cache_folder()


def _files(data: Text) -> tuple[Path, list[tuple[str, Path]], str]:
    """Where the text is, the names and paths of its files in order, and the source's name."""
    if data.path is None:
        # An installed package may be inside an archive; this one is not (setup.py: package_data).
        file = Path(str(resources.files("experiments.data") / "corpora" / "sotu27.txt.xz"))
        return file, [(file.name, file)], EMBEDDED
    path = Path(data.path).expanduser()
    if not path.exists():
        raise UserError(
            f"data.path {data.path} does not exist; give a text file or a directory (in data.path, or "
            "each in data.sources)"
        )
    name = path.resolve().name if path.is_dir() else path.name
    root = path if path.is_dir() or path.is_file() else _from_pipe(data, path)
    files = files_of(root)
    if root.is_dir() and not any(name != DATASET for name, _ in files):
        raise UserError(f"data.path {data.path} is a directory without files (hidden ones aside)")
    return root, files, name


def _from_pipe(data: Text, path: Path) -> Path:
    """A file with what the pipe `path` gives, which is named after that."""
    if not stat.S_ISFIFO(path.stat().st_mode):
        raise UserError(
            f"data.path {path} is a device, not text; give a file, a directory or a pipe"
        )
    cache, digest = _cache(data), hashlib.sha256()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pipe-", dir=cache) as folder:
            piped = Path(folder) / "text"
            with open(path, "rb") as pipe, open(piped, "wb") as file:
                while block := pipe.read(1 << 20):
                    digest.update(block)
                    file.write(block)
            if not piped.stat().st_size:
                raise UserError(
                    f"data.path {path}: the pipe is empty; a pipe can be read only once, so write "
                    "the text to a file"
                )
            stored = cache / f"pipe-{digest.hexdigest()[:16]}"
            if not stored.exists():  # else it keeps its time, by which its tokens are known
                piped.rename(stored)
    except OSError as error:
        raise UserError(
            f"data.path {path} is kept in data.cache_dir {cache}: {error.strerror or error}; choose "
            "another with --set data.cache_dir=DIR"
        ) from error
    return stored


def _plan(data: Text, root: Path, files: list[tuple[str, Path]], lacking: bool = False) -> Plan:
    """Which texts are in which split, once archives were looked into."""
    sources = sources_of(root, files)
    if data.path is None:
        description = "every twentieth address is in validation, and every twentieth in test"
        return Plan({"embedded": [Source(files[0][1], EMBEDDED)]}, description)
    cut = "at data.split_points" if data.split_points else "into 90, 5 and 5 %"
    below = data.labels == "folder"
    return plan_splits(root, sources, data.splits, below=below, lacking=lacking, cut=cut)


def _label_names(data: Text, root: Path, files: list[tuple[str, Path]]) -> tuple[str, ...]:
    """The names of the labels that `data` asks for; UserError where its files do not tell them."""
    if data.labels != "folder":
        return PERIODS if data.labels else ()
    paths = [path for name, path in files if name != DATASET]
    least = 1 if data.label_names else 2  # text of one label can be evaluated
    return folder_names(root, paths, set(WORDS), least)


def _stamp(name: str, path: Path) -> tuple:
    """What a change of the file changes; what prepare says of a folder has to be there, no more."""
    if name.split("/")[-1] == DATASET:
        return ()
    about = path.stat()
    return str(path.resolve()), about.st_size, about.st_mtime_ns
