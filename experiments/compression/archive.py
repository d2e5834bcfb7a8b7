"""The file that `compress` writes: a line of JSON that says what it needs, then the coded words.

Reading it executes nothing. What does not fit (another checkpoint, version, a damaged file, a machine
whose arithmetic gives other probabilities) is rejected, since it would decode to something else.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np

from experiments.errors import UserError
from experiments.plain_json import parse

MAGIC = b"ddlm compressed text 1\n"
_LONGEST = 1 << 16  # of the line of JSON, in bytes


@dataclass(frozen=True)
class Header:
    """What decompression needs, and what it checks.

    version, jax, device: with which and on what the file was made. checkpoint: its fingerprint; step:
    its number. tokens: of the text. rows, group, seed: as of `make_distributions`. first_distribution:
    sha256 of the probabilities of the first call. text_sha256, words_sha256: of the text, and of the
    coded words.
    """

    version: str
    jax: str
    device: str
    checkpoint: str
    step: int
    tokens: int
    rows: int
    group: int
    seed: int
    first_distribution: str
    text_sha256: str
    words_sha256: str


def sha256(content: bytes | np.ndarray) -> str:
    """The hash of the bytes of `content`."""
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()


def pack(header: Header, words: np.ndarray) -> bytes:
    """The content of the file."""
    line = json.dumps(asdict(header), sort_keys=True).encode()
    return MAGIC + line + b"\n" + words.astype("<u4").tobytes()


def unpack(content: bytes, path: Path) -> tuple[Header, np.ndarray]:
    """(header, words, uint32) of a file; UserError where it is not one of ours, or damaged."""
    if not content.startswith(MAGIC):
        raise UserError(f"{path}: not a file that this version of `ddlm compress` wrote")
    line, _, body = content[len(MAGIC) :].partition(b"\n")
    try:
        stored = parse(line[:_LONGEST])
        kinds = {f.name: f.type for f in fields(Header)}
        if set(stored) != set(kinds):
            raise ValueError("other fields")
        if any(type(stored[name]) is not kind for name, kind in kinds.items()):
            raise ValueError("a field of another type")
        header = Header(**stored)
        natural = (header.tokens, header.step, header.seed, header.rows - 1, header.group - 1)
        if min(natural) < 0 or max(natural) >= 2**48:
            raise ValueError("a number out of range")
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: its header is damaged ({error}); compress the text again"
        ) from error
    if len(body) % 4 or sha256(body) != header.words_sha256:
        raise UserError(f"{path}: damaged or cut short, its checksum differs; use another copy")
    return header, np.frombuffer(body, "<u4").astype(np.uint32)


def check_fits(header: Header, path: Path, workdir: str, checkpoint: str) -> None:
    """UserError where the file was made by another version, or with another checkpoint."""
    if header.version != version("ddlm"):
        raise UserError(
            f"{path}: made by ddlm {header.version}, but this is {version('ddlm')}, whose numbers "
            "may differ; decompress it with that version"
        )
    if header.checkpoint != checkpoint:
        raise UserError(
            f"{path}: made with another checkpoint (step {header.step}, {header.checkpoint[:12]}) than "
            f"that of workdir {workdir} ({checkpoint[:12]}); give the run it was made with"
        )
