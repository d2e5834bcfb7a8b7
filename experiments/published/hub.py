"""Checkpoints by their names on the Hugging Face hub, where huggingface_hub is installed."""

import re
from collections.abc import Callable
from pathlib import Path

from experiments.errors import UserError, shortened

# Weights that execute nothing, settings, cards, and the files of tokenizers.
PATTERNS = (
    "*.safetensors",
    "*.json",
    "README.md",
    "vocab.txt",
    "merges.txt",
    "vocab.bpe",
    "*.model",
)


def fetch(name: str, revision: str | None, log: Callable[[str], None]) -> tuple[Path, str]:
    """(the folder of a checkpoint that the hub knows by its name, the commit that it is of). UserError
    where `name` is none, or cannot be had."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        raise UserError(
            f"{name} does not exist; give a folder, a file, or a name such as org/model"
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"{name} does not exist, and huggingface_hub, which downloads checkpoints by name, is "
            'not installed: pip install -e ".[hub]"'
        ) from error
    log(f"downloading {name} ...")
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(PATTERNS)
        )
    except Exception as error:  # of many kinds: no network, no such name, no access
        raise UserError(
            f"{name} cannot be downloaded ({shortened(str(error))}); check the name and the "
            "network, or give a folder"
        ) from error
    return Path(folder), Path(folder).name  # the hub's cache names it after the commit
