"""JSON of files that anyone may have written or damaged, as values that the rest can rely on.

Beside what json.loads refuses, `parse` refuses what would fail later and elsewhere: nesting that
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
    finite: NaN and infinities are refused too."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = json.loads(
            text, parse_int=_whole, parse_float=_finite if finite else float,
            parse_constant=_finite if finite else None,
        )  # fmt: skip
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
    return value


def _whole(text: str) -> int:
    value = int(text) if len(text) <= 20 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"the whole number {text[:20]}... does not fit into 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:20]}")
    return value


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
