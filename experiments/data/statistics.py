"""What processes take from the training text: counts of tokens, and where tokens stand.

`STATISTICS` maps the name of a setting that may be None to the function that fills it in, `TABLES` that
of one that may be a file to the function that reads it.
"""

from pathlib import Path

import numpy as np

from experiments.data.arrays import map_array
from experiments.errors import UserError
from experiments.plain_json import parse

_CHUNK = 1 << 24
_MOST_TOKENS = 4096  # for tables of pairs


def unigram(tokens: np.ndarray, vocab_size: int) -> tuple[float, ...]:
    """How often each token occurs, (V,)."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(tokens), _CHUNK):
        counts += np.bincount(tokens[start : start + _CHUNK], minlength=vocab_size)
    return tuple(counts.astype(float).tolist())


def context_embeddings(tokens: np.ndarray, vocab_size: int) -> tuple[tuple[float, ...], ...]:
    """Embeddings of the tokens, (V, 2V): the positive pointwise mutual information of a token with what
    stands right of it, and left (Levy and Goldberg 2014)."""
    if vocab_size > _MOST_TOKENS:
        raise UserError(
            f"embeddings are computed from data with up to {_MOST_TOKENS} tokens, but this data "
            f"has {vocab_size}; give your own as a .npy file: --set process.kernel.embeddings=FILE"
        )
    pairs = np.zeros(vocab_size**2, np.int64)
    for start in range(0, len(tokens) - 1, _CHUNK):
        chunk = tokens[start : start + _CHUNK + 1].astype(np.int64)
        pairs += np.bincount(chunk[:-1] * vocab_size + chunk[1:], minlength=vocab_size**2)
    joint = pairs.reshape(vocab_size, vocab_size) / max(pairs.sum(), 1)
    independent = joint.sum(1)[:, None] * joint.sum(0)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(joint / independent)
    positive = np.maximum(np.where(joint > 0, information, 0), 0)
    rows = np.concatenate([positive, positive.T], axis=1)
    return tuple(map(tuple, rows.round(6).tolist()))


STATISTICS = {"unigram": unigram, "embeddings": context_embeddings}


def read_table(path: str, setting: str) -> tuple[tuple[float, ...], ...]:
    """The rows of a .npy file with a matrix of numbers; UserError naming the `setting`."""
    return tuple(map(tuple, _numbers(path, setting, 2).tolist()))


def read_numbers(path: str, setting: str) -> tuple[float, ...]:
    """The numbers of a .npy file with one axis, or the list in a .json file; UserError naming the
    `setting`."""
    return tuple(_numbers(path, setting, 1).tolist())


def _numbers(path: str, setting: str, axes: int) -> np.ndarray:
    """The array of a file, float64, of 1 or 2 `axes`; a list in a .json file has one."""
    kinds = {1: "a .npy or .json file", 2: "a .npy file"}[axes]
    if not path:
        raise UserError(f"{setting} is missing; give {kinds}: --set {setting}=FILE")
    try:
        if axes == 1 and path.endswith(".json"):
            array = np.array(parse(Path(path).read_bytes(), finite=True))
        else:
            array = map_array(path)
        if array.ndim != axes or not array.size:
            raise ValueError(
                f"it has shape {array.shape}, which is not a {'matrix' if axes == 2 else 'list'}"
            )
        if array.dtype.kind not in "fiub":
            raise ValueError(f"its values are {array.dtype}, not real numbers")
        return array.astype(np.float64)
    except OSError as error:
        raise UserError(
            f"{setting} = {path}: cannot be read ({error.strerror or error}); give {kinds}"
        ) from error
    except ValueError as error:
        form = "of numbers, rows x columns" if axes == 2 else "with a list of numbers"
        raise UserError(
            f"{setting} = {path}: cannot be read as {kinds} {form} ({error})"
        ) from error


TABLES = {"embeddings": read_table, "matrix": read_table, "probabilities": read_numbers}
