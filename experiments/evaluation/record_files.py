"""Evaluation records as files: where they lie, what they must hold (record_schema.json), how they are
written and read, and their one line."""

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import jsonschema
from jsonschema.exceptions import best_match

from experiments.errors import UserError
from experiments.evaluation.agreement import disagreement
from experiments.files import write_atomically
from experiments.plain_json import parse


class NoRecord(UserError):
    """A file can be read, and what is in it is no record, or one that contradicts itself."""


def record_path(workdir: str | Path, split: str, step: int, overrides: Sequence[str] = ()) -> Path:
    """Where a run directory keeps the record of a split at a checkpoint; overrides ("path=value"):
    settings other than the run's, each combination of which has a record of its own."""
    name = "-".join([split, str(step), *overrides])
    return Path(workdir) / "records" / (re.sub("[^A-Za-z0-9._=-]+", "_", name)[:200] + ".json")


def write_record(path: Path, record: dict) -> str:
    """What to print about the record, once it is in the file `path`; ValueError, and no file, for one
    that the schema does not allow."""
    content = json.dumps(record, indent=1, allow_nan=False) + "\n"
    if wrong := _fault(json.loads(content)):  # what a reader will see: tuples are lists
        raise ValueError(f"not an evaluation record: {wrong}")
    write_atomically(path, content)
    given = ", given the labels" if record.get("labels") == "given" else ""
    answers = record["context"].get("protocol") == "pair"
    given += ", of answers given their prompts" if answers else ""
    perplexities = [f"perplexity {_perplexity(record, 'token')}"]
    if record.get("words") and record["tokenizer"] == "Subwords":  # of letters it is astronomical
        perplexities.append(f"{_perplexity(record, 'word')} a word")
    count = f"{record['characters']:,} characters"
    if record.get("bytes_not_text"):
        lost, every = record["bytes_not_text"], record["bytes"]
        count += f" of UTF-8, and {lost:,} of the {every:,} bytes are not text"
    error = number_text(record["standard_error"], ".4f")
    return (
        f"{record['kind']} on {record['split']}{given}: {record['value']:.4f} +- {error} "
        f"{record['unit']} ({record['nats_per_token']:.4f} nats per "
        f"{'answer ' * answers}token, {', '.join(perplexities)}) over {count}, checkpoint "
        f"{record['checkpoint_step']}; {record['estimator']}{_of_sources(record)}\nrecord: {path}"
    )


def _of_sources(record: dict) -> str:
    """A line for each text of a mixture, after a line break; "" for one text."""
    lines = (
        f"\n  {each['source']}, {100 * each['weight']:.4g} %: {each['value']:.4f} +- "
        f"{number_text(each['standard_error'], '.4f')} {each['unit']}"
        for each in record.get("sources", ())
    )
    return "".join(lines)


def _perplexity(record: dict, unit: str) -> str:
    """The perplexity and its standard error, to two digits of the error."""
    value, error = (record[f"perplexity_per_{unit}{end}"] for end in ("", "_standard_error"))
    if value is None:
        return "beyond 1e308"
    if value > 1e9:
        return f"{value:.3g} +- {number_text(error, '.2g')}"
    digits = 1 - math.floor(math.log10(error)) if error else 3
    form = f",.{min(max(digits, 0), 4)}f"
    return f"{value:{form}} +- {number_text(error, form)}"


def number_text(value: float | None, form: str) -> str:
    """The number of a record in a format such as ".4f", or that it is unknown."""
    return "unknown" if value is None else f"{value:{form}}"


def read_record(path: Path) -> dict:
    """The record in the file `path`; UserError where it cannot be read, and NoRecord where it is
    not a whole one, or contradicts itself."""
    try:
        record = parse(Path(path).read_bytes(), finite=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); give a record that ddlm evaluate wrote"
        ) from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise NoRecord(f"{path}: is not JSON ({reason}); ddlm evaluate writes it anew") from error
    if wrong := _fault(record):
        raise NoRecord(f"{path}: not an evaluation record: {wrong}; ddlm evaluate writes it anew")
    return record


def stored_record(path: Path) -> dict:
    """The record in the file `path`; empty where there is none that can be used."""
    try:
        return read_record(path)
    except UserError:
        return {}


@cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = (
        resources.files("experiments.evaluation").joinpath("record_schema.json").read_text("utf-8")
    )
    return jsonschema.Draft202012Validator(json.loads(schema))


def _fault(record) -> str:
    """What is wrong with a record, in one line that names the field: what the schema does not allow, or
    what contradicts the rest; empty if nothing."""
    error = best_match(_validator().iter_errors(record))
    if error is None:
        return disagreement(record)
    if error.validator == "required":
        (missing, *_) = [n for n in error.validator_value if n not in error.instance]
        return f"the field {'.'.join([*map(str, error.path), missing])} is missing"
    field = ".".join(map(str, error.path))
    value = json.dumps(error.instance)
    value = value if len(value) <= 40 else value[:40] + "..."
    allowed = error.validator_value
    allowed = " or ".join(map(str, allowed)) if isinstance(allowed, list) else str(allowed)
    say = {"type": "must be of type", "enum": "must be", "minimum": "must be at least"}
    what = f"the field {field}" if field else "the content"
    return f"{what} is {value} and {say[error.validator]} {allowed}"
