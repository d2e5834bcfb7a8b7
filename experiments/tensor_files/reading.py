"""The files of a published checkpoint, recognised by their first bytes, alone or in a folder."""

from pathlib import Path

from experiments.errors import UserError
from experiments.tensor_files.safetensors import LONGEST_HEADER, read_json, read_safetensors
from experiments.tensor_files.stored import DAMAGED, StoredTensor, TensorFiles, Unsupported
from experiments.tensor_files.torch_files import read_torch

_SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")
_INDEX = ".safetensors.index.json"
_PLAID = ("model.pt", "noise_schedule.pt", "gamma_bounds.pt", "embedding_matrix.pt")
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
_CONVERT = (
    "convert it where torch is installed: torch.load(FILE, weights_only=True), then "
    "safetensors.torch.save_file with its tensors"
)
_KINDS = f"supported are safetensors and zip files of torch ({', '.join(_SUFFIXES)})"


def read_tensors(path: str | Path) -> TensorFiles:
    """The tensors of a file, or of the one checkpoint in a folder: a file, shards with their index, or
    the four files of Plaid, whose tensors then begin with the name of the file (`noise_schedule.W1`).

    Nothing is read but what tells where the tensors stand. UserError says which file is wrong, and why.
    """
    path = Path(path)
    try:
        paths = _choose(path) if path.is_dir() else (path,)
        if len(paths) == 1:
            return _read(paths[0])
        parts = {part.stem: _read(part) for part in paths}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    named = {
        f"{stem}.{name}": t for stem, part in parts.items() for name, t in part.tensors.items()
    }
    return TensorFiles(named, None, paths)


def _choose(folder: Path) -> tuple[Path, ...]:
    """The files of the one checkpoint in a folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    indices = [path for path in files if path.name.endswith(_INDEX)]
    shards = {name for index in indices for name in _weight_map(index).values()}
    found = [p for p in files if p.suffix in _SUFFIXES and p.name not in shards]
    plaid = tuple(folder / name for name in _PLAID)
    choices: list[tuple[Path, ...]] = [(path,) for path in indices]
    choices += [(path,) for path in found if path.suffix == ".safetensors"]
    if not choices:  # the same in older files often lies beside them
        absent = [part.name for part in plaid if part not in found]
        if not absent:
            choices.append(plaid)
            found = [path for path in found if path not in plaid]
        elif set(plaid[1:]) & set(found):  # other models have a model.pt as well
            raise UserError(
                f"{folder}: holds a part of Plaid's files; {' and '.join(absent)} is missing",
                f"give all of {', '.join(_PLAID)}",
            )
        choices += [(path,) for path in found]
    if not choices:
        raise UserError(f"{folder}: holds no checkpoint", f"{_KINDS}, and {'*' + _INDEX}")
    if len(choices) > 1:
        names = ", ".join(path.name for paths in choices for path in paths)
        raise UserError(f"{folder}: holds several checkpoints: {names}", "give one of these files")
    return choices[0]


def _read(path: Path) -> TensorFiles:
    """The tensors of one file, or of the shards of an index."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    if not path.is_file():
        raise UserError(f"{path}: is no regular file", "give a file of weights, or its folder")
    with open(path, "rb") as file:
        first = file.read(len(_LEGACY))
    if first.startswith(_LEGACY):
        raise UserError(
            f"{path}: is in the legacy format of torch (before 1.6), which is unsupported",
            _CONVERT,
        )
    try:
        if first.startswith(b"PK\3\4"):
            return TensorFiles(*read_torch(path), (path,))
        if first.startswith(b"{") and 0 not in first:
            return _read_shards(path)
        if first[8:9] == b"{":
            return TensorFiles(read_safetensors(path), None, (path,))
    except ValueError as error:
        advice = _CONVERT if isinstance(error, Unsupported) else DAMAGED
        raise UserError(f"{path}: {error}", advice) from error
    raise UserError(f"{path}: {_unknown(first)}", _KINDS)


def _unknown(first: bytes) -> str:
    if first.startswith(b"version http"):
        return "is a pointer of Git LFS instead of the file (git lfs pull)"
    if first.startswith(b"\x80"):
        return "is a pickle without the archive of torch"
    return "is empty" if not first else f"has an unknown format; it begins with {first[:9]!r}"


def _weight_map(index: Path) -> dict[str, str]:
    """{tensor: name of the file beside the index that holds it}; UserError for other contents."""
    try:
        if index.stat().st_size > LONGEST_HEADER:
            raise ValueError(f"it has more than {LONGEST_HEADER:,} bytes")
        names = read_json(index.read_bytes(), "content").get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ValueError("it has no weight_map")
        for tensor, name in names.items():
            if not isinstance(name, str) or not _is_plain(name):
                raise ValueError(
                    f"weight_map of {tensor} is not the name of a .safetensors file beside it"
                )
    except ValueError as error:
        raise UserError(f"{index}: {error}", DAMAGED) from error
    return names


def _is_plain(name: str) -> bool:
    return name.endswith(".safetensors") and not set(name) & set("/\\\0")


def _read_shards(index: Path) -> TensorFiles:
    """The tensors of all shards, in the order of the index."""
    names = _weight_map(index)
    found: dict[str, StoredTensor] = {}
    paths = [index.parent / name for name in dict.fromkeys(names.values())]
    for path in paths:
        shard = _read(path).tensors
        promised = {tensor for tensor, name in names.items() if name == path.name}
        if missing := sorted(promised - set(shard)):
            raise UserError(
                f"{path}: lacks {missing[0]}, which {index.name} says is there", DAMAGED
            )
        if more := sorted(set(shard) - promised):
            raise UserError(f"{path}: holds {more[0]}, which {index.name} does not say", DAMAGED)
        found |= shard
    return TensorFiles({tensor: found[tensor] for tensor in names}, None, (index, *paths))
