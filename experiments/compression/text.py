"""What `compress` and `decompress` share: files as tokens and back, progress, other compressors."""

import gzip
import lzma
from pathlib import Path

import numpy as np

from experiments.compression.archive import sha256
from experiments.compression.coding import Distributions
from experiments.config import Experiment
from experiments.data.tokenizers import OutsideAlphabet, Tokenizer, count
from experiments.devices.memory import device_memory
from experiments.errors import UserError


def read_bytes(path: Path) -> bytes:
    """The content of a file; UserError where it cannot be read or holds nothing."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not content:
        raise UserError(f"{path} is empty")
    return content


def to_tokens(tokenizer: Tokenizer, content: bytes, path: Path) -> np.ndarray:
    """The tokens (N,) of a text; UserError for one that they could not give back."""
    if tokenizer.binary:
        return np.frombuffer(content, np.uint8)
    only = "a run compresses text of its own alphabet only, byte for byte"
    try:
        encoded = tokenizer.without_normalizing().encode([content.decode()], str(path))
        tokens = np.concatenate(list(encoded))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; {only}") from error
    except OutsideAlphabet as error:
        raise UserError(error.what, only) from error
    if to_bytes(tokenizer, tokens) != content:
        raise UserError(
            f"{path}: its tokens do not reproduce it exactly (case, spaces, unknown words); {only}"
        )
    return tokens


def to_bytes(tokenizer: Tokenizer, tokens: np.ndarray) -> bytes:
    """The text of the tokens."""
    if tokenizer.binary:
        return tokens.astype(np.uint8).tobytes()
    return tokenizer.decode(tokens).encode()


def check_rows(rows: int, experiment: Experiment, path: Path) -> None:
    """UserError where the probabilities of so many sequences at a time do not fit into memory."""
    needed = 4 * rows * experiment.data.length * experiment.process.num_tokens
    if needed > device_memory():
        raise UserError(
            f"{path}: it asks for {rows:,} sequences at a time, {needed / 1e9:,.0f} GB; compress "
            "it again with a smaller --batch-size"
        )


def first_distribution(distributions: Distributions) -> str:
    """A hash of the probabilities of the first call, which tells machines of other arithmetic."""
    distributions.begin(0)
    return sha256(distributions.distribution(0))


def compressors(content: bytes) -> dict[str, int]:
    """The sizes, in bytes, that general compressors make of a content, each at its best."""
    import zstandard

    return {
        "gzip -9": len(gzip.compress(content, 9)),
        "xz -9e": len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
        "zstd -19": len(zstandard.ZstdCompressor(19).compress(content)),
    }


def report(sizes: dict[str, float], content: bytes) -> str:
    """A table of sizes in bytes, for what a content was; per byte where not all of it is text."""
    text = content.decode("utf-8", "surrogateescape")
    per, unit = count(text)[0], "character"
    if per < len(text):
        per, unit = len(content), "byte"
    width = max(map(len, sizes))
    return "\n".join(
        f"  {name:<{width}}  {size:>12,.0f} bytes  {8 * size / per:.3f} bits per {unit}"
        for name, size in sizes.items()
    )
