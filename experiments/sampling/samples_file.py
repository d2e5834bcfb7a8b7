"""The samples that `ddlm sample --out` writes, read back: a JSON object on each line of a file."""

from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.plain_json import parse

_BEGIN = b'{"number": '  # of every line that `ddlm sample` writes


def is_cut_short(line: bytes) -> bool:
    """Whether a line without its end may be one of `ddlm sample` that is being written, or was when the
    process was killed."""
    return line.startswith(_BEGIN) or _BEGIN.startswith(line)


def read_samples(path: Path) -> dict[str, dict]:
    """The objects of the file by where they stand ("FILE:LINE"), each with a "text" that is not empty;
    UserError names the line that is none. Blank lines are passed over, and a last line that is only
    begun, since `ddlm sample` may be writing it."""
    try:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole and is_cut_short(content[whole:]) and not _is_json(content[whole:]):
            content = content[:whole]
        lines = content.decode().split("\n")  # text may hold what splitlines cuts at
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(
            f"--samples {path}: cannot be read ({reason}); give a .jsonl file that ddlm sample "
            "--out wrote"
        ) from error
    numbered = {f"{path}:{n}": line for n, line in enumerate(lines, 1) if line.strip()}
    samples = {where: _sample(line, where) for where, line in numbered.items()}
    if not samples:
        raise UserError(f"--samples {path}: holds no samples")
    return samples


def _is_json(line: bytes) -> bool:
    try:
        parse(line)
    except ValueError:
        return False
    return True


def _sample(line: str, where: str) -> dict:
    try:
        sample = parse(line, finite=True)
    except ValueError as error:
        reason = getattr(error, "msg", error)
        raise UserError(f"{where}: not a line of JSON ({reason})") from error
    if not isinstance(sample, dict) or not isinstance(sample.get("text"), str):
        raise UserError(f'{where}: has no "text"; each line is an object such as {{"text": "..."}}')
    if not sample["text"]:
        raise UserError(f"{where}: its text is empty, so nothing can be measured")
    return sample


def common(samples: list[dict], name: str) -> Any:
    """The value that the samples have under `name`: the list of them where they differ, None where no
    sample says."""
    values = []
    for sample in samples:
        if sample.get(name) not in values:
            values.append(sample.get(name))
    return values[0] if len(values) == 1 else values


def network_calls(samples: list[dict]) -> float | None:
    """Evaluations of the network a sample, the mean; None where not every line has a number of them."""
    said = (sample.get("network_calls") for sample in samples)
    calls = [call for call in said if type(call) is int or type(call) is float]
    if len(calls) < len(samples) or not all(call >= 0 for call in calls):
        return None
    return sum(calls) / len(calls)
