"""Evaluation records as files: where they lie, how they are written and read, and their one line."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from experiments.files import write_atomically


def record_path(workdir: str | Path, split: str, step: int, overrides: Sequence[str] = ()) -> Path:
    """Where a run directory keeps the record of a split at a checkpoint; overrides ("path=value"):
    settings other than the run's, each combination of which has a record of its own."""
    name = "-".join([split, str(step), *overrides])
    return Path(workdir) / "records" / (re.sub("[^A-Za-z0-9._=-]+", "_", name)[:200] + ".json")


def write_record(path: Path, record: dict) -> str:
    """What to print about the record, once it is in the file `path`."""
    write_atomically(path, json.dumps(record, indent=1) + "\n")
    given = ", given the labels" if record["labels"] == "given" else ""
    return (
        f"{record['kind']} on {record['split']}{given}: {record['value']:.4f} +- "
        f"{record['standard_error']:.4f} bits per character ({record['nats_per_token']:.4f} nats per "
        f"token, perplexity {record['perplexity_per_token']:.3f} +- "
        f"{record['perplexity_per_token_standard_error']:.3f}) over {record['characters']:,} "
        f"characters, checkpoint {record['checkpoint_step']}; {record['estimator']}\nrecord: {path}"
    )


def read_record(path: Path) -> dict:
    """The record in the file `path`; empty where there is none that can be read."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
