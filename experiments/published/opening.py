"""A published checkpoint as files have it: what family it is of, what it is here, its parameters."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from experiments.errors import UserError
from experiments.plain_json import parse
from experiments.published.families import bert, ddit, gated, gpt2, modernbert, own, plaid
from experiments.published.family import Architecture, Family, Options, check_layout, some
from experiments.published.parts import Shape, flat
from experiments.tensor_files import StoredTensor, read_tensors

FAMILIES: tuple[Family, ...] = (
    *ddit.FAMILIES,
    *gated.FAMILIES,
    *gpt2.FAMILIES,
    *bert.FAMILIES,
    *modernbert.FAMILIES,
    *plaid.FAMILIES,
    own.OWN,
)
_MOST_JSON = 10_000_000  # bytes of a config.json


def _in_memory(shape: Shape) -> np.ndarray:
    return np.empty(shape, np.float32)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is open. paths: its files. config: its config.json. layout: how its tensors hold
    the parameters. names: what the keys of `tensors` are in the file, with their prefixes. averaged:
    whether the average that the file keeps was taken instead of the parameters. unknown: keys that the
    family does not know. fits: whether the family would have been found without being given."""

    paths: tuple[Path, ...]
    family: Family
    config: dict
    architecture: Architecture
    layout: dict
    tensors: dict[str, StoredTensor]
    names: dict[str, str]
    averaged: bool
    unknown: tuple[str, ...]
    fits: bool = True

    def params(self, room: Callable[[Shape], np.ndarray] = _in_memory) -> dict:
        """All parameters, a nested dict of float32 arrays; those that the file lacks are left out. room:
        the array of a shape that a parameter is written into, tensor by tensor."""
        shapes = {key: tensor.shape for key, tensor in self.tensors.items()}
        params: dict = {}
        for path, part in flat(self.layout):
            where = params
            for name in path[:-1]:
                where = where.setdefault(name, {})
            where[path[-1]] = array = room(part.shape(shapes))
            part.fill(self._read, array)
        return params

    def rest(self) -> dict[str, np.ndarray]:
        """What the network has no place for, by the keys of the file, so that an export has it again."""
        parts = [part for _, part in flat(self.layout)]
        rest = {key: value for part in parts for key, value in part.rest(self._read).items()}
        placed = {key for part in parts for key in part.keys}
        rest |= {key: self._read(key) for key in self.tensors if key not in placed}
        return {self.names[key]: value for key, value in rest.items()}

    def _read(self, key: str) -> np.ndarray:
        return self.tensors[key].read()

    @cached_property
    def sha256(self) -> dict[str, str]:
        """The digest of each file, by its name."""
        digests = {}
        for path in self.paths:
            with open(path, "rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        return digests


def open_checkpoint(
    source: Path,
    family: str | None = None,
    options: Options | None = None,
    average: bool = True,
) -> Checkpoint:
    """The checkpoint in a folder or a file, of the family that it is of, or of the one given. Nothing of
    the parameters is read yet. average: whether that of the parameters is taken where the file keeps one
    (EMA), of which published numbers are. UserError where it is damaged, of no known family, or not what
    its config.json says."""
    if (source / "config.json").is_file() and (source / "checkpoints").is_dir():
        raise UserError(f"{source} is already a run; use it as --workdir, or as init_from")
    files = read_tensors(source)
    config = _config(source)
    chosen = _family(files.tensors, config, family, source)
    try:
        names = chosen.stripped(files.tensors)
        tensors = {key: files.tensors[name] for key, name in names.items()}
        shapes = {key: tensor.shape for key, tensor in tensors.items()}
        options = options or Options()
        _check_options(chosen, options)
        architecture = _read(chosen, shapes, config, options)
        layout = chosen.layout(architecture.network, architecture.options)
        layout = _without(layout, architecture.fresh)
        check_layout(layout, shapes, architecture.forms)
        _check_repeated(architecture.repeated, tensors)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    placed = {key for _, part in flat(layout) for key in part.keys}
    averaged = average and files.average is not None
    if averaged:
        tensors |= _averaged(
            files.average, [key for key in tensors if key in placed], tensors, source
        )
    known = placed | {key for key, _ in architecture.repeated}
    unknown = tuple(names[k] for k in tensors if k not in known and not chosen.is_buffer(k))
    return Checkpoint(
        files.paths,
        chosen,
        config,
        architecture,
        layout,
        tensors,
        names,
        averaged,
        unknown,
        not config or _matches(chosen, files.tensors, config),
    )


def _without(layout: dict, paths: tuple[str, ...], at: str = "") -> dict:
    """The layout without the parts, or whole modules, at these paths, such as "ends/dense"."""
    return {
        name: _without(value, paths, f"{at}{name}/") if isinstance(value, dict) else value
        for name, value in layout.items()
        if f"{at}{name}" not in paths
    }


def _check_repeated(repeated, tensors: Mapping[str, StoredTensor]) -> None:
    for key, of in repeated:
        if key in tensors and not np.array_equal(tensors[key].read(), tensors[of].read()):
            raise UserError(
                f"tensors {key} and {of} differ, but are the same in this family; use the right "
                "file"
            )


def _check_options(family: Family, options: Options) -> None:
    given = {name for name, value in vars(options).items() if value is not None}
    if wrong := sorted(given - family.takes):
        flags = {"mask": "--mask-token", "start": "--start-token", "block_size": "--block-size"}
        raise UserError(
            f"{flags[wrong[0]]} does not apply to checkpoints of the family {family.name}; leave "
            "it out"
        )


def _read(family: Family, shapes, config: Mapping, options: Options) -> Architecture:
    try:
        return family.read(shapes, config, options)
    except (ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError) as error:
        # A tensor of another rank, or sizes that make no network.
        raise UserError(
            f"its tensors and config.json make no network of the family {family.name} ({error}); give "
            "the config.json that belongs to the file, or another --family"
        ) from error


def _config(source: Path) -> dict:
    """The config.json of a folder, or beside a file; {} where there is none."""
    path = (source if source.is_dir() else source.parent) / "config.json"
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ValueError(f"it has more than {_MOST_JSON:,} bytes")
        config = parse(path.read_bytes(), finite=True)
        if not isinstance(config, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); correct or remove it") from error
    return config


def _family(tensors: Mapping, config: Mapping, name: str | None, source: Path) -> Family:
    if name is not None:
        return family_of_name(name)
    fitting = [family for family in FAMILIES if _matches(family, tensors, config)]
    if len(fitting) == 1:
        return fitting[0]
    kind = config.get("model_type")
    said = f"config.json with model_type {kind!r}" if kind else "what config.json says"
    said = said if config else "no config.json beside them"
    what = "no known family" if not fitting else " or ".join(family.name for family in fitting)
    raise UserError(
        f"{source}: its tensors ({some(list(tensors))}) and {said} are of {what}; give --family (ddlm "
        "import --list)"
    )


def _matches(family: Family, tensors: Mapping, config: Mapping) -> bool:
    with suppress(UserError):  # keys that are one without the prefixes of a family are not of it
        return family.matches(family.stripped(tensors), config)
    return False


def family_of_name(name: str) -> Family:
    """The family; UserError where there is none of the name."""
    for family in FAMILIES:
        if family.name == name:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise UserError(f"--family {name} is not known; choose one of {known}")


def _averaged(average, keys: list[str], tensors: Mapping, source: Path) -> dict[str, StoredTensor]:
    """The tensors of the average by their keys: it is a list in the order of the parameters."""
    if len(average) != len(keys):
        raise UserError(
            f"{source}: its average has {len(average)} tensors, and the network {len(keys)}; export the "
            "averaged parameters where it was trained"
        )
    for key, tensor in zip(keys, average, strict=True):
        if tensor.shape != tensors[key].shape:
            raise UserError(
                f"{source}: its average has {tensor.shape} where {key} has {tensors[key].shape}; export "
                "the averaged parameters where it was trained"
            )
    return dict(zip(keys, average, strict=True))
