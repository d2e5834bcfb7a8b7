"""The cases of tests/golden/checkpoints, or of another folder of the same, and what they promise."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from conftest import GOLDEN

from experiments.published.family import Options
from experiments.published.opening import Checkpoint, open_checkpoint

FOLDER = Path(os.environ.get("DDLM_CHECKPOINTS", GOLDEN / "checkpoints"))


@dataclass(frozen=True)
class Case:
    """A folder with a checkpoint."""

    name: str

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @cached_property
    def about(self) -> dict:
        return json.loads((self.folder / "about.json").read_text())

    @cached_property
    def config(self) -> dict:
        path = self.folder / "config.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "expected.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    @property
    def family(self) -> str | None:
        """What has to be said with --family: only of files without a config.json."""
        return None if self.config else self.about["family"]

    @property
    def mask(self) -> int | None:
        """The mask where it is a token within the file's own, which our networks have a copy of."""
        return self.config.get("mask_token_id", self.about.get("mask_token_id"))

    def open(self, average: bool = True, **options) -> Checkpoint:
        given = {"mask": self.about.get("mask_token_id")} | options
        return open_checkpoint(self.folder, self.family, Options(**given), average)


CASES = [Case(path.name) for path in sorted(FOLDER.iterdir()) if path.is_dir()]
LOADED = [case for case in CASES if case.about["expect"] == "load"]
