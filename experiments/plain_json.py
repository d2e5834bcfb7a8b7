"""JSON of files that anyone may have written or damaged, as values that the rest can rely on; and our
own, which any reader takes (`dumped`).

Beside what json.loads rejects, `parse` rejects what would fail later and elsewhere: nesting that
exhausts the stack, whole numbers that no float or array holds, and halves of surrogate pairs, which no
file and no terminal takes.
"""

import json
import math
import re
from typing import Any

_DEEPEST = 64  # levels of lists and objects; a config has some ten
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse(content: str | bytes, finite: bool = False) -> Any:
    """The value that `content` holds, UTF-8 if bytes; ValueError, of one line, where it is no such JSON.
    finite: NaN and infinities, of which JSON knows nothing, are rejected too."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = json.loads(text, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError(f"nested deeper than {_DEEPEST} levels") from error
    if text.count("[") + text.count("{") > _DEEPEST:
        _check_depth(value)
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("half of a surrogate pair in a text") from error
    if finite and (fault := _not_finite(value)):
        raise ValueError(f"{fault}, no finite number")
    return value


def dumped(value: Any, indent: int | None = None) -> str:
    """JSON of plain data, without a final newline; null stands for what is no finite number."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _whole(text: str) -> int:
    value = int(text) if len(text) <= 20 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"the whole number {text[:20]}... does not fit into 64 bits")
    return value


def _not_finite(value: Any, path: str = "") -> str:
    """ "PATH is NaN" of the first number inside that is not finite; empty where all are."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path or 'it'} is {json.dumps(value)}"
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    faults = (_not_finite(inner, f"{path}.{name}" if path else str(name)) for name, inner in items)
    return next(filter(None, faults), "")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST + 1):
        if not level:
            return
        inner = [
            x.values() if isinstance(x, dict) else x for x in level if isinstance(x, dict | list)
        ]
        level = [x for values in inner for x in values]
    raise ValueError(f"nested deeper than {_DEEPEST} levels")
