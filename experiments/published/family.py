"""A family of published checkpoints: how its files are known, and what they are to this project."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
from jax import Array

from diffusion.process import Objective
from experiments.config import Experiment
from experiments.errors import UserError
from experiments.published.parts import Shape, flat
from models.backbone import Backbone
from samplers.logits_processor import LogitsProcessor
from samplers.sampler import Sampler

EVERYWHERE = ("_orig_mod.", "module.")  # prefixes that a compiled or wrapped network leaves


@dataclass(frozen=True)
class Options:
    """What the user can give where the files do not say. mask: the number of the mask token; start: that
    of the token which a text begins with; length: tokens of a sequence; block_size: of a block."""

    mask: int | None = None
    start: int | None = None
    length: int | None = None
    block_size: int | None = None


@dataclass(frozen=True)
class Architecture:
    """What the files of one checkpoint are to this project.

    model, process, sampler, length: settings of the run. options: with what the family or config.json
    told filled in. repeated: keys of tensors that are stored a second time, and the keys that they
    repeat. fresh: paths of arrays, or of whole modules, that the files lack and that begin as `init`
    draws them. notes: what was taken from the family's table or from an option, in sentences.
    experiment: the whole config, where config.json has it.
    """

    model: Backbone
    process: Objective
    sampler: Sampler
    length: int
    options: Options
    repeated: tuple[tuple[str, str], ...] = ()
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    experiment: Experiment | None = None

    @property
    def network(self) -> "Backbone | Whole":
        """What the files hold the parameters of: the model, or all that an experiment trains."""
        return self.model if self.experiment is None else Whole(self.experiment)

    @property
    def forms(self) -> dict:
        """The parameters that the files hold, and those of the process, with shapes alone."""
        key = jax.random.key(0)
        own = {} if self.experiment else jax.eval_shape(self.process.init, key)
        return jax.eval_shape(self.network.init, key) | ({"process": own} if own else {})


@dataclass(frozen=True)
class Whole:
    """All networks of an experiment, and the parameters of its process, as one."""

    experiment: Experiment

    def init(self, key: Array) -> dict:
        """All that is trained."""
        return self.experiment.init_params(key)


class Family(ABC):
    """How the checkpoints of one family are known and read. An implementation is a frozen dataclass."""

    name: str
    prefixes: ClassVar[tuple[str, ...]] = ()
    """What keys may begin with, taken off one after another."""
    buffers: ClassVar[str] = r"$^"
    """A pattern of keys that hold nothing trained."""
    takes: ClassVar[frozenset[str]] = frozenset({"length"})
    """The options that mean something for it."""

    @abstractmethod
    def matches(self, keys: Collection[str], config: Mapping) -> bool:
        """Whether these keys, less their prefixes, and this config.json are of the family."""

    @abstractmethod
    def read(self, shapes: Mapping[str, Shape], config: Mapping, options: Options) -> Architecture:
        """What the checkpoint is, from the shapes of its tensors; UserError where it is not of the
        family, or config.json says otherwise."""

    @abstractmethod
    def layout(self, model: Any, options: Options) -> dict:
        """A nested dict of `parts.Part` like the parameters of a network that `read` made: how a file
        holds them."""

    @abstractmethod
    def config(self, experiment: Experiment, model: Any, options: Options) -> dict:
        """A config.json from which `read` makes a run with such a network; what it does not hold, an
        export finds by reading it again."""

    def key_in_file(self, key: str) -> str:
        """The key as the family's own files write it, with its prefix."""
        return key

    def renamed(self, key: str) -> str:
        """The key, less its prefixes, by the name that newer files give it."""
        return key

    def stripped(self, keys: Collection[str]) -> dict[str, str]:
        """The keys of the file by themselves without prefixes; UserError where two become one."""
        known = (*EVERYWHERE, *self.prefixes)
        names: dict[str, str] = {}
        for key in keys:
            name = key
            while prefix := next((p for p in known if name.startswith(p)), None):
                name = name[len(prefix) :]
            name = self.renamed(name)
            if name in names:
                raise UserError(
                    f"tensors {names[name]} and {key} are both {name}; remove one of them"
                )
            names[name] = key
        return names

    def is_buffer(self, key: str) -> bool:
        """Whether the tensor holds nothing trained."""
        return re.search(self.buffers, key) is not None


@dataclass(frozen=True)
class Sizes:
    """What the tensors of a checkpoint say, to be compared with what its config.json says."""

    family: str
    shapes: Mapping[str, Shape]
    config: Mapping
    notes: list[str] = field(default_factory=list)

    def of(self, key: str) -> Shape:
        """The shape of a tensor that the family needs; UserError where there is none."""
        if key not in self.shapes:
            raise UserError(
                f"no tensor {key}, which checkpoints of the family {self.family} have; choose "
                "another family with --family (ddlm import --list)"
            )
        return self.shapes[key]

    def count(self, pattern: str) -> int:
        """How many layers there are, by a pattern whose group is their number; UserError for gaps."""
        numbers = {int(m[1]) for key in self.shapes if (m := re.match(pattern, key))}
        if numbers != set(range(len(numbers))) or not numbers:
            raise UserError(
                f"the layers of the file are {sorted(numbers) or 'missing'}, not 0, 1, 2 ... as in "
                f"checkpoints of the family {self.family}; choose another with --family"
            )
        return len(numbers)

    def needed(self, key: str) -> int:
        """A number of config.json that no tensor tells; UserError where it is missing."""
        if self.config.get(key) is None:
            raise UserError(
                f"neither the tensors nor a config.json give {key}; put the checkpoint's "
                "config.json beside it"
            )
        return int(self.given(key, 0))

    def forms(self, **forms: object) -> None:
        """Nothing; UserError where config.json says another form of the network than ours."""
        for key, only in forms.items():
            if self.config.get(key, only) != only:
                said = self.config[key]
                raise UserError(f"config.json: {key} = {said!r} is unsupported; {only!r} is")

    def rotary_base(self, key: str, default: float, kind: str | None = None) -> float:
        """The base of rotary positions, by its key, or in the table of newer configs, which may have one
        for each kind of layers. UserError for angles that are stretched."""
        told = self.config.get("rope_parameters") or self.config.get("rope_scaling")
        if isinstance(told, dict) and kind is not None:
            told = told.get(kind)
        if isinstance(told, dict):
            stretched = told.get("rope_type", told.get("type", "default"))
            if stretched != "default":
                raise UserError(
                    f"config.json: rotary positions of type {stretched} are unsupported"
                )
            if "rope_theta" in told:
                return float(Sizes(self.family, {}, told).given("rope_theta", default))
        if self.config.get(key) is None:
            self.notes.append(f"config.json does not tell {key}: {default:g}")
        return float(self.given(key, default))

    def agree(self, **sizes: int) -> None:
        """Nothing; UserError where config.json gives another number for one of these keys."""
        for key, size in sizes.items():
            said = self.config.get(key)
            if said is not None and said != size:
                raise UserError(
                    f"config.json says {key} = {said}, but the tensors say {size}; give the "
                    "config.json that belongs to the file"
                )

    def given(self, key: str, default: int | float) -> int | float:
        """A number of config.json; UserError where it is none."""
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"config.json: {key} = {value!r} is not a number; correct it")
        return value

    def divided(self, whole: int, part: int, what: str) -> int:
        """whole / part; UserError where that is no whole number."""
        if part < 1 or whole % part:
            raise UserError(
                f"{what}: {whole} is not a multiple of {part}; give the config.json of this file"
            )
        return whole // part


def check_layout(layout: dict, shapes: Mapping[str, Shape], forms: dict) -> None:
    """Nothing; UserError where tensors are missing or do not have the shapes that the network needs.
    forms: the parameters of the network, with shapes."""
    needed = [key for _, part in flat(layout) for key in part.keys]
    if missing := sorted(set(needed) - set(shapes)):
        raise UserError(
            f"tensors are missing: {some(missing)}; give the whole checkpoint, or another --family"
        )
    for path, part in flat(layout):
        where: Any = forms
        for name in path:
            where = where[name]
        try:
            shape = part.shape(shapes)
        except (ValueError, IndexError) as error:
            raise UserError(f"tensor {part.keys[0]}: {error}") from error
        if shape != where.shape:
            raise UserError(
                f"tensor {part.keys[0]} has the shape {shapes[part.keys[0]]}, which makes {shape} where "
                f"the network has {where.shape}; the file, or its config.json, is of another model"
            )


def some(names: list[str]) -> str:
    """At most four of the names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def without(*tokens: int) -> LogitsProcessor:
    """A logits processor that never draws these tokens."""
    return LogitsProcessor(banned=tuple(tokens))
