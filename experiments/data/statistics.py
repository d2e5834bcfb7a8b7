"""What processes take from the training text: counts of tokens, and where tokens stand.

`STATISTICS` maps the name of a setting that may be None to the function that fills it in.
"""

import numpy as np

from experiments.data.arrays import map_array
from experiments.errors import UserError

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
TABLES = ("embeddings", "matrix")


def read_table(path: str, setting: str) -> tuple[tuple[float, ...], ...]:
    """The rows of a .npy file with a matrix of numbers; UserError naming the `setting`."""
    if not path:
        raise UserError(f"{setting} is missing; give a .npy file: --set {setting}=FILE")
    try:
        table = map_array(path)
        if table.ndim != 2 or not table.size:
            raise ValueError(f"it has shape {table.shape}, which is not a matrix")
        if table.dtype.kind not in "fiub":
            raise ValueError(f"its values are {table.dtype}, not real numbers")
        return tuple(map(tuple, table.astype(np.float64).tolist()))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{setting} = {path}: cannot be read as a .npy file of numbers, rows x columns ({error})"
        ) from error
