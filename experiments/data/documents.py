"""Documents of a text in order: what is known of them, and how they are written so that a preparation
that is killed goes on where it was."""

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.files import write_atomically
from experiments.plain_json import parse
from experiments.streams import complain

_TOKENS, _TABLE, _PROGRESS = "tokens.bin", "documents.bin", "progress.json"
_EVERY = 1 << 20  # tokens between two places from which a killed preparation goes on


@dataclass(frozen=True)
class Documents:
    """Of a text in order: starts (D + 1,), where each begins among the tokens and the last ends; how
    many characters and words each has, (D,) (experiments.data.tokenizers)."""

    starts: np.ndarray
    characters: np.ndarray
    words: np.ndarray

    def within(self, start: int, stop: int) -> "Documents":
        """Those between two tokens at which documents begin or end, counted from the first."""
        first, last = np.searchsorted(self.starts, (start, stop))
        return Documents(
            self.starts[first : last + 1] - start,
            self.characters[first:last],
            self.words[first:last],
        )


class DocumentWriter:
    """The files of a folder to which documents are added; `count` of them, `sizes` in tokens by split,
    are there already."""

    def __init__(self, folder: Path, dtype: str):
        self.folder, self.dtype = folder, np.dtype(dtype)
        self.count, self.sizes = 0, {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            progress = parse((folder / _PROGRESS).read_bytes())
            count, sizes = progress["documents"], dict(progress["sizes"])
            natural = all(
                type(number) is int and number >= 0 for number in (count, *sizes.values())
            )
            if natural and self._table()[:count, 0].sum() == sum(sizes.values()):
                self.count, self.sizes = count, sizes
        self._files = [self._open(_TOKENS, self.total * self.dtype.itemsize)]
        self._files.append(self._open(_TABLE, self.count * 24))
        self._saved, self._logged = self.total, time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for file in self._files:
            file.close()

    @property
    def total(self) -> int:
        """How many tokens there are."""
        return sum(self.sizes.values())

    def add(self, split: str, tokens: np.ndarray, characters: int, words: int) -> None:
        """Nothing; a document of the split stands after those before it."""
        self._files[0].write(tokens.astype(self.dtype).tobytes())
        self._files[1].write(np.array([len(tokens), characters, words], np.int64).tobytes())
        self.count += 1
        self.sizes[split] = self.sizes.get(split, 0) + len(tokens)
        if self.total - self._saved >= _EVERY:
            self.save()

    def save(self) -> None:
        """From here on a killed preparation goes on."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        progress = {"documents": self.count, "sizes": self.sizes}
        write_atomically(self.folder / _PROGRESS, json.dumps(progress))
        self._saved = self.total
        if time.perf_counter() - self._logged > 5:
            self._logged = time.perf_counter()
            complain(f"preparing: {self.count:,} documents, {self.total:,} tokens")

    def finish(self) -> None:
        """Nothing; all that was added is in the files, and documents.npy, (3, D + 1), tells of it."""
        self.save()
        table = self._table()
        documents = np.zeros((3, len(table) + 1), np.int64)
        documents[0, 1:], documents[1:, :-1] = np.cumsum(table[:, 0]), table[:, 1:].T
        np.save(self.folder / "documents.npy", documents, allow_pickle=False)

    def _table(self) -> np.ndarray:
        """Tokens, characters and words (D, 3) of the documents in the file, a row cut short left out."""
        numbers = np.fromfile(self.folder / _TABLE, np.int64)
        return numbers[: len(numbers) // 3 * 3].reshape(-1, 3)

    def _open(self, name: str, size: int):
        path = self.folder / name
        path.touch()
        file = open(path, "r+b")  # noqa: SIM115 (closed at the exit)
        if path.stat().st_size < size:
            raise OSError(f"{path} is cut short; remove {self.folder}")
        file.truncate(size)
        file.seek(size)
        return file


def forget_progress(folder: Path) -> None:
    """Nothing; the folder is finished and needs to go on no more."""
    for name in (_TABLE, _PROGRESS):
        (folder / name).unlink(missing_ok=True)
