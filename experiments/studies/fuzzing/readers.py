"""All readers that are fuzzed."""

from pathlib import Path

from experiments.studies.fuzzing import (
    data_readers,
    record_readers,
    run_readers,
    settings_readers,
    table_readers,
    tensor_readers,
)
from experiments.studies.fuzzing.engine import Reader


def make_readers(folder: Path) -> list[Reader]:
    """The readers with their cases, made of valid files below the folder; 10,000 cases in all."""
    parts = (
        settings_readers, record_readers, data_readers, table_readers, tensor_readers, run_readers,
    )  # fmt: skip
    return [reader for part in parts for reader in part.readers(folder)]
