"""page(record): an HTML page that plays how samples were denoised, and loads nothing; pages(traces):
several of them side by side.

    record = {
      "title": str,
      "symbols": [str, ...],      the text of token v, whatever characters it has
      "mask": int | None,         the state that stands for "masked", no index of symbols
      "given": [bool] * L,        positions that were given and never change
      "samples": [{
        "number": int,
        "times": [float] * (n+1),             t of each frame; frame 0 is the start
        "tokens": [[int] * L] * (n+1),        the state of each frame
        "probability": [[float] * L] * (n+1), the model's, of the token that stands in the frame, at the
                                              step that led to it; None or NaN where it is not known
        "calls": int }, ...]                  evaluations of the network for the sample
    }

The arrays may be lists or NumPy's; samples may differ in n. The page holds the first frame of a sample
and then only the changes, the symbols that occur, and each probability as one byte, p rounded to 1/254
and 255 for unknown, in base64: 1.4 bytes for a token of a frame where few tokens change.
"""

import base64
import html
import itertools
import json
from collections.abc import Sequence
from importlib import resources

import numpy as np

UNKNOWN = 255
_RECORD = '<script type="application/json" id="record">'  # what a page has and no other file


def page(record: dict) -> str:
    """The page, in ASCII. ValueError names what does not fit in `record`."""
    symbols, mask, known = record["symbols"], record["mask"], np.asarray(record["given"], bool)
    if known.ndim != 1 or not known.size:
        raise ValueError(f"given has the shape {known.shape}; it needs one truth value a position")
    if mask is not None and 0 <= mask < len(symbols):
        raise ValueError(
            f"mask {mask} is a symbol as well; it must not be in 0..{len(symbols) - 1}"
        )
    if not record["samples"]:
        raise ValueError("samples is empty; a page needs one or more")
    samples, used = [], set()
    for sample in record["samples"]:
        packed, tokens = _pack(sample, len(symbols), mask, known)
        samples.append(packed)
        used.update(np.unique(tokens).tolist())
    content = {
        "title": record["title"],
        "symbols": {v: symbols[v] for v in sorted(used - {mask})},
        "mask": None if mask is None else int(mask),
        "given": known.astype(int).tolist(),
        "samples": samples,
    }
    return _rendered(content)


def rendered_anew(text: str) -> str:
    """The page, in ASCII, of the record alone that another one holds, whatever else is in its text, such
    as scripts of others. ValueError where it is none."""
    start, _, rest = text.partition(_RECORD)
    try:
        content = json.loads(rest.partition("</script>")[0])
        if not start.startswith("<!DOCTYPE html>") or not isinstance(content, dict):
            raise ValueError("it holds no record")
        return _rendered(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _rendered(content: dict) -> str:
    # JSON in a script element ends at the first "</script", and "<!--" changes how the rest is read.
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return _template("trace_page").replace("@RECORD@", text)


def pages(traces: Sequence[str]) -> str:
    """The page, in ASCII, with such pages side by side, which play together."""
    frames = [f'<iframe srcdoc="{html.escape(trace)}"></iframe>' for trace in traces]
    return _template("trace_pages").replace("@PAGES@", "\n".join(frames))


def _template(name: str) -> str:
    return resources.files("experiments.sampling").joinpath(f"{name}.html").read_text("utf-8")


def _pack(sample: dict, size: int, mask: int | None, known: np.ndarray) -> tuple[dict, np.ndarray]:
    """(the sample as the page holds it, its tokens [n+1, L])"""
    name = f"sample {sample['number']}"
    times = _array(f"{name}: times", sample["times"], float)
    if times.ndim != 1 or not times.size or not np.isfinite(times).all():
        raise ValueError(f"{name}: times must be one finite number a frame, got {times.tolist()}")
    shape = (len(times), len(known))
    tokens = _array(f"{name}: tokens", sample["tokens"])
    probability = _array(f"{name}: probability", sample["probability"], float)
    for what, array in (("tokens", tokens), ("probability", probability)):
        if array.shape != shape:
            raise ValueError(
                f"{name}: {what} has the shape {array.shape}; {shape[0]} times and {shape[1]} given "
                f"positions need {shape}"
            )
    if tokens.dtype.kind not in "iu":
        raise ValueError(f"{name}: tokens must be integers, not {tokens.dtype}")
    strange = np.setdiff1d(tokens, [*range(size), *([] if mask is None else [mask])])
    if strange.size:
        raise ValueError(
            f"{name}: token {strange[0]} is neither the mask nor one of {size} symbols"
        )
    moved = np.flatnonzero((tokens != tokens[0]).any(0) & known)
    if moved.size:
        raise ValueError(f"{name}: position {moved[0]} is given, yet its token changes")
    if ((probability < 0) | (probability > 1 + 1e-4)).any():  # rounding may exceed 1
        raise ValueError(f"{name}: probability must lie between 0 and 1")
    level = np.where(
        np.isnan(probability), UNKNOWN, np.rint(probability.clip(0, 1) * (UNKNOWN - 1))
    )
    packed = {
        "number": int(sample["number"]),
        "times": [round(t, 6) for t in times.tolist()],
        "start": tokens[0].tolist(),
        "changes": [_changes(old, new) for old, new in itertools.pairwise(tokens)],
        "probability": base64.b64encode(level.astype(np.uint8).tobytes()).decode(),
        "calls": int(sample["calls"]),
    }
    return packed, tokens


def _array(name: str, values: Sequence, dtype: type | None = None) -> np.ndarray:
    """`values` as an array; ValueError where their rows differ in length."""
    try:
        return np.asarray(values, dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: not a table of numbers ({error})") from error


def _changes(old: np.ndarray, new: np.ndarray) -> list[int]:
    """[position, token, position, token, ...] where new differs from old, both [L]"""
    where = np.flatnonzero(old != new)
    return np.stack([where, new[where]], axis=1).ravel().tolist()
