"""Samples, written to a file as they are drawn; the same command continues what was interrupted."""

import fcntl
import json
import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import BinaryIO

from experiments.errors import UserError, shortened
from experiments.files import open_stream, writing
from experiments.plain_json import parse
from experiments.sampling.samples_file import is_cut_short

_OF_ONE = (
    "number",
    "text",
    "network_calls",
    "given",
    "answer",
    "ended",
)  # what a line says of its sample alone
_LONGEST = 1 << 26  # bytes of a line, at most


class SamplesWriter(AbstractContextManager):
    """Appends samples to the file `path`, which no other process writes; to nothing where it is None.

    start: the number of samples that the file holds already, from number 0 on. UserError where another
    process writes to it; where it holds anything but samples of this description, unless `force` says
    that they are to be replaced; and where a line cannot be written.
    """

    def __init__(self, path: str | None, description: dict, force: bool):
        self.start, self._path, self._description = 0, path or "", description
        self._file = self._end = self._made = None
        if path:
            with writing(path):
                self._file = open_stream(path) or self._open(Path(os.path.realpath(path)), force)

    def _open(self, place: Path, force: bool) -> BinaryIO:
        place.parent.mkdir(parents=True, exist_ok=True)
        self._made = None if place.exists() else place
        file = open(place, "a+b")  # noqa: SIM115, closed in __exit__
        try:
            _lock(file, self._path)
            file.seek(0)
            self.start, self._end = (0, 0) if force else _held(file, self._path, self._description)
        except BaseException:
            file.close()  # and with it the lock
            raise
        return file

    def write(self, number: int, text: str, network_calls: int, **more: str | bool) -> None:
        """Nothing; the line of a sample is in the file, unless it was there. more: `given`, its prompt,
        where each has its own; `answer`, its text after that; `ended`, whether a stop token ended it."""
        if self._file is None or number < self.start:
            return
        line = {"number": number, "text": text, "network_calls": network_calls}
        line |= more | self._description
        with writing(self._path):
            if self._end is not None:  # what follows is half a line, or to be replaced
                self._file.truncate(self._end)
                self._end = None
            self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self._file.flush()

    def __exit__(self, *error):
        if self._file is None:
            return
        with suppress(OSError):  # of what could not be written, which `writing` reported
            if self._made and not os.fstat(self._file.fileno()).st_size:
                self._made.unlink()
            self._file.close()


def _lock(file: BinaryIO, path: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"{path}: another process writes its samples there; wait for it, or name another file"
        ) from error
    except OSError:  # a file system without locks
        pass


def _held(file: BinaryIO, path: str, description: dict) -> tuple[int, int]:
    """(how many samples of this description the file holds, from number 0 on; where the last one ends);
    what follows is at most a line that a kill cut short. UserError for a file of anything else."""
    expected, count, end = json.loads(json.dumps(description)), 0, 0
    advice = "write to another --out, or replace it with --force"
    for line in iter(lambda: file.readline(_LONGEST), b""):
        if not line.endswith(b"\n"):
            if is_cut_short(line):
                break
            raise UserError(f"{path} exists and does not end with a sample; {advice}")
        sample = None
        with suppress(ValueError):
            sample = parse(line)
        if not isinstance(sample, dict) or not isinstance(sample.get("text"), str):
            raise UserError(f"{path} exists, and its line {count + 1} is no sample; {advice}")
        stored = {name: value for name, value in sample.items() if name not in _OF_ONE}
        if stored != expected:
            raise UserError(
                f"{path} exists and holds other samples ({_other(stored, expected)}); {advice}"
            )
        if sample.get("number") != count:
            raise UserError(
                f"{path} exists, and its line {count + 1} is not sample {count}; {advice}"
            )
        count, end = count + 1, end + len(line)
    return count, end


def _other(stored: dict, expected: dict) -> str:
    """The first of the values that differ."""
    names = [name for name in {**expected, **stored} if stored.get(name) != expected.get(name)]
    name = names[0] if names else "order"
    return shortened(f"{name}: {stored.get(name, 'none')} there, {expected.get(name, 'none')} now")
