"""Cases for what reads a trained run, and text that was compressed with one."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from diffusion.mdlm import MDLM
from experiments.compression.archive import MAGIC, Header, pack, sha256, unpack
from experiments.compression.coding import Distributions, decode
from experiments.config import Experiment, Train
from experiments.data.text import Text
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_constant import WarmupConstant
from experiments.run import load_run
from experiments.studies.fuzzing.engine import Reader
from experiments.studies.fuzzing.mutations import (
    TEXT,
    changed,
    damaged,
    damaged_folder,
    dumped,
    place,
)
from experiments.studies.fuzzing.settings_readers import SMALL
from experiments.training.checkpoint_record import RECORD, record_hash
from experiments.training.checkpoints import Checkpoints
from experiments.training.trainer import train


def make_run(folder: Path) -> Path:
    """A run of one small model with a checkpoint, as it begins."""
    (folder / "text.txt").parent.mkdir(parents=True)
    (folder / "text.txt").write_text(TEXT.replace("\n", " ") * 20)
    data = Text(str(folder / "text.txt"), length=16, cache_dir=str(folder / "cache"))
    experiment = Experiment(
        MDLM(),
        SMALL,
        data,
        optimizer=AdamW(WarmupConstant(warmup_steps=0)),
        train=Train(num_steps=0, batch_size=2),
    )
    train(experiment, folder / "run", log=lambda line: None)
    return folder / "run"


def _rewritten(run: Path) -> st.SearchStrategy[tuple[str, bytes]]:
    """The run's record of its checkpoint with other contents, whose hash is right: made on purpose."""
    (path,) = run.glob(f"checkpoints/*/{RECORD}")
    whole = json.loads(path.read_text())
    record = {k: v for k, v in whole["custom_metadata"].items() if k != "sha256"}

    def rewrite(changed_record) -> tuple[str, bytes]:
        if isinstance(changed_record, dict):
            changed_record = changed_record | {"sha256": record_hash(changed_record)}
        return str(path.relative_to(run)), dumped(whole | {"custom_metadata": changed_record})

    return changed(record).map(rewrite)


def _checkpoints(folder: Path) -> list[Reader]:
    run = make_run(folder / "trained")

    def load(case, folder):
        place(run, folder, case)
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoints.best()
        load_run(folder)

    return [
        Reader("checkpoints, damaged", 120, damaged_folder(run, "checkpoints/**/*"), load),
        Reader("checkpoints, with a right hash", 80, _rewritten(run), load),
    ]


class ThreeLetters(Distributions):
    """The distributions of a source of three letters that stand alone."""

    rows, length, calls = 2, 4, 4

    def begin(self, first):
        pass

    def positions(self, number):
        return np.full((self.rows, 1), number)

    def distribution(self, number):
        return np.tile(np.array([0.5, 0.25, 0.25], np.float32), (self.rows, 1, 1))

    def tell(self, number, tokens, real):
        pass


def _archives() -> st.SearchStrategy[bytes]:
    words = np.arange(5, dtype=np.uint32) * 123_456_789
    body = words.astype("<u4").tobytes()
    digest = sha256(body)
    header = Header("0.1.0", "0.10", "cpu", "a" * 16, 5, 40, 2, 1, 0, "b" * 64, "c" * 64, digest)
    whole = pack(header, words)

    def with_header(fields) -> bytes:
        return MAGIC + dumped(fields) + b"\n" + body

    def other(content: bytes) -> bytes:
        return MAGIC + dumped(asdict(header) | {"words_sha256": sha256(content)}) + b"\n" + content

    return st.one_of(
        damaged(whole), changed(asdict(header)).map(with_header), damaged(body).map(other)
    )


def _unpack(content: bytes, folder: Path) -> None:
    header, words = unpack(content, folder / "text.ddlm")
    if header.tokens < 1000:  # more takes as long as it takes, and says how far it is
        decode(ThreeLetters(), words, header.tokens, lambda done, total: None)


def readers(folder: Path) -> list[Reader]:
    """The readers of this file, each with its cases; folder: where they may write."""
    return [Reader("compressed text", 600, _archives(), _unpack), *_checkpoints(folder)]
