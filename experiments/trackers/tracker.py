"""Where the metrics of a training go besides its files: a frozen dataclass of settings in a file of its
own, chosen by `--set train.tracker=NAME`.

metrics.jsonl and TensorBoard are always written (`experiments.training.metrics`), and nothing is read
back from a tracker: a run is continued from its own files.
"""

from abc import ABC, abstractmethod
from dataclasses import Field
from pathlib import Path
from typing import Any, ClassVar


class TrackedRun(ABC):
    """A run of a tracker that is open.

    id: by which the tracker knows it, when the training is continued.
    """

    id: str

    @abstractmethod
    def log(self, step: int, values: dict[str, float]) -> None:
        """Nothing; the run has the values, by name, of the step. Any exception ends tracking, and the
        training goes on. A step that a training comes back to is logged again."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """Nothing; the run is ended, for now. failed: whether an error ended it."""


class Tracker(ABC):
    """A tracker of experiments."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings

    def check(self) -> None:
        """Nothing; UserError where a package that it needs is not installed."""
        return

    @abstractmethod
    def begin(
        self, workdir: Path, settings: dict[str, Any], known: str | None
    ) -> TrackedRun | None:
        """A run that is open, of the training in `workdir`; None tracks nothing.

        settings: those of the experiment, by their dotted paths: numbers, texts, booleans and None.
        known: the id of the run that the training in `workdir` had before, which goes on then. Only the
        first of several processes calls it. Any exception is a line of the log, and the training goes
        on without.
        """
