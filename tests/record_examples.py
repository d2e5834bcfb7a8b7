"""Records as `evaluate` writes them, and what the tests of records do with them."""

import copy
import json
import math
from pathlib import Path

import pytest

from experiments import cli
from experiments.errors import UserError
from experiments.evaluation.record_files import read_record

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "experiments/evaluation/record_schema.json").read_text())
# A record of the published text8 protocol, as `evaluate` wrote them before the optional fields.
TEXT8 = {
    "process": "MDLM", "process_settings": {"vocab_size": 27}, "kind": "bound", "value": 1.4,
    "unit": "bits per character", "standard_error": 0.01, "standard_error_over_times": 0.005,
    "nats_per_token": 0.0, "nats_per_token_standard_error": 0.0, "perplexity_per_token": 0.0,
    "perplexity_per_token_standard_error": 0.0, "terms_nats_per_token": {"diffusion": 0.0},
    "estimator": "mean over 2 stratified times per sequence", "num_times": 2, "seed": 0,
    "sequences": 19532, "tokens": 5_000_000, "characters": 5_000_000,
    "context": {"length": 256, "chunks": "fixed", "packed": True, "bos_or_eos_counted": False},
    "tokenizer": "Letters27", "tokenizer_sha256": "a" * 64, "source": "text8", "split": "test",
    "split_points": [90_000_000, 95_000_000, 100_000_000], "split_sha256": "b" * 64, "ema": True,
    "precision": "float32", "checkpoint_step": 1000, "checkpoint_fingerprint": "c" * 16,
    "device": "1 x cpu", "seconds": 1.0, "version": "0.1.0", "time": "2026-01-01T00:00:00Z",
    "sequences_in_split": 19532,
}  # fmt: skip
LM1B = {
    "dataset": "lm1b", "source": "lm1b", "tokenizer": "Subwords", "split_points": None,
    "words": 4_000_000, "characters": 17_000_000,
    "process_settings": {"base": {"vocab_size": 30522}},
    "context.length": 128, "context.protocol": "lm1b-sentence128", "context.length_given": True,
    "context.added_tokens": ["[CLS]", "[SEP]"],
}  # fmt: skip


def agreeing(record):
    """The record with all numbers that follow from its value, standard error and counts."""
    bits = record["tokens"] / math.log(2) / record["characters"]
    nats, error = record["value"] / bits, record["standard_error"] / bits
    found = {"nats_per_token": nats, "nats_per_token_standard_error": error}
    found |= {"terms_nats_per_token": {"prior": nats / 4, "diffusion": nats * 3 / 4}}
    units = {"token": 1.0}
    if record.get("words"):
        units["word"] = record["tokens"] / record["words"]
        found["nats_per_word"] = nats * units["word"]
    for unit, share in units.items():
        known = nats * share < 700
        perplexity = math.exp(nats * share) if known else None
        found[f"perplexity_per_{unit}"] = perplexity
        found[f"perplexity_per_{unit}_standard_error"] = (
            perplexity * error * share if known else None
        )
    return record | found


TEXT8 = agreeing(TEXT8)


def changed(changes, record=TEXT8):
    """The record with fields, dotted within others, set to other values, and what follows from them."""
    record = edited(changes, record)
    measured = {"value", "standard_error", "tokens", "characters", "words"} & changes.keys()
    return agreeing(record) if measured else record


def edited(changes, record=TEXT8):
    """The record with fields, dotted within others, set to other values."""
    record = copy.deepcopy(record)
    for name, value in changes.items():
        *path, last = name.split(".")
        inner = record
        for part in path:
            inner = inner[part]
        inner[last] = value
    return record


def without(name):
    record = copy.deepcopy(TEXT8)
    *path, last = name.split(".")
    del (record[path[0]] if path else record)[last]
    return record


def save(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return str(path)


def mistake(path):
    with pytest.raises(UserError) as error:
        read_record(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def cells(text):
    """The rows of each Markdown table in a text, the header first, without the line below it."""
    tables = []
    for block in text.split("\n\n"):
        if block.startswith("|"):
            rows = [[c.strip() for c in row.strip("|").split("|")] for row in block.splitlines()]
            tables.append([rows[0], *rows[2:]])
    return tables


UNKNOWN = {"sequences": 1} | {
    f"{name}standard_error": None for name in ("", "nats_per_token_", "perplexity_per_token_")
}


def run(tmp_path, paths, plot="p.png"):
    """The table that the command writes."""
    out = ["--table", str(tmp_path / "o" / "t.md"), "--plot", str(tmp_path / "o" / plot)]
    assert cli.guarded("compare", [*paths, *out]) == 0
    return (tmp_path / "o" / "t.md").read_text()
