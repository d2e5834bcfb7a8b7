"""The record of a checkpoint: its meta, its metric and a digest of every array, with a hash over them.

It is {"meta": dict, "metric": a number or None, "arrays": {path: [dtype, shape, digest]}}.
"""

import hashlib
import json
import math
from pathlib import Path

from experiments.files import write_atomically
from experiments.plain_json import parse
from experiments.training.digests import digest, leaves

RECORD = "_CHECKPOINT_METADATA"  # orbax's JSON file; our record is its custom_metadata


def make_record(state: dict, meta: dict, metric: float | None) -> dict:
    """The record of a state; ValueError for meta that is not JSON."""
    arrays = {
        name: [str(x.dtype), list(x.shape), bits]
        for (name, x), bits in zip(leaves(state).items(), digest(state).values(), strict=True)
    }
    metric = None if metric is None or not math.isfinite(metric) else float(metric)
    record = {"meta": meta, "metric": metric, "arrays": arrays}
    try:
        faithful = json.loads(json.dumps(record, allow_nan=False)) == record
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta is not JSON ({error})") from error
    if not faithful:
        raise ValueError(
            "meta changes through JSON: use only dicts with string keys, lists, strings, numbers, "
            "bools and None"
        )
    return record


def record_hash(record: dict) -> str:
    """The SHA-256 of a record, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def sealed(record: dict) -> dict:
    """The record with its hash, as it is stored."""
    return {**record, "sha256": record_hash(record)}


def read_record(folder: Path) -> dict:
    """The record in a checkpoint's folder; OSError where there is none, and where it is damaged
    ValueError, KeyError, TypeError or AttributeError."""
    record = parse((folder / RECORD).read_bytes(), finite=True)["custom_metadata"]
    if record.pop("sha256") != record_hash(record):
        raise ValueError("its hash differs")
    if not _is_record(record):
        raise ValueError("it is of another form")
    return record


def rewrite_record(folder: Path, record: dict) -> None:
    """Nothing; a checkpoint's folder has this record from now on."""
    whole = parse((folder / RECORD).read_bytes()) | {"custom_metadata": sealed(record)}
    write_atomically(folder / RECORD, json.dumps(whole))


def _is_record(record):
    """Whether it has the form of what `make_record` gives, of which a right hash is no proof."""
    kinds = {"meta": dict, "metric": (float, int, type(None)), "arrays": dict}
    if not all(name in record and isinstance(record[name], kind) for name, kind in kinds.items()):
        return False
    return all(
        isinstance(array, list)
        and [type(part) for part in array] == [str, list, str]
        and all(type(size) is int and size >= 0 for size in array[1])
        for array in record["arrays"].values()
    )
