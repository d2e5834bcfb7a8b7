"""Settings as plain data: dicts, lists, numbers and strings, as a run stores its config (`encode`).

A "_type" names each dataclass; `decode` constructs settings, dataclasses of the modules below, each
where its annotation allows it, and nothing else, so a checkpoint cannot name code to run.
"""

import dataclasses
import importlib
import math
import re
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from experiments.errors import UserError
from experiments.plain_json import parse
from experiments.renames import renamed

# Where settings are defined: each file of these packages, and these of experiments.
_MODULES = re.compile(
    r"(diffusion|models|samplers)\.[a-z0-9_]+"
    r"|experiments\.(config|data\.text|data\.tokenizers|data\.subwords)"
    r"|experiments\.(optimization|time_weights|token_losses|token_weights|trackers)\.[a-z0-9_]+"
)
# What may differ between a run and its continuation: it changes how long, how often and where, not what.
RESUMABLE = (
    "train.num_steps", "train.log_every", "train.eval_every", "train.checkpoint_every",
    "train.keep_last", "train.keep_best", "train.accumulation", "train.max_rollbacks", "train.tracker",
    "evaluation", "sampler", "mesh",
    "data.cache_dir", "data.path", "data.sources", "data.splits", "data.tokenizer.path",
    "teacher.workdir",
)  # fmt: skip


def coerce(value: Any, hint: Any) -> Any:
    """The value as an instance of the annotation `hint`; TypeError says what is expected. Lists become
    tuples."""
    if not is_finite(value):
        raise TypeError("must be finite")
    try:
        return _fit(value, hint)
    except TypeError:
        raise TypeError(f"expected {describe(hint)}") from None


def is_finite(value: Any) -> bool:
    """Whether no number of the value, or within its tuples and lists, is NaN or infinite."""
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _fit(value, hint):
    """As `coerce`, of a finite value; TypeError without a message."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in options:
            with suppress(TypeError):
                return _fit(value, option)
    if origin is Literal and value in options:
        return value
    if origin is tuple:
        return _fit_tuple(value, options)
    if hint is float and type(value) is int:
        with suppress(OverflowError):
            return float(value)
    if hint is int and type(value) is float and value.is_integer():
        return int(value)  # 1e6
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise TypeError


def _fit_tuple(value, kinds: tuple) -> tuple:
    """As `_fit`, of entries of these kinds, or of any number of kinds[0] where ... follows it."""
    if not isinstance(value, list | tuple):
        raise TypeError
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise TypeError
    return tuple(_fit(v, kind) for v, kind in zip(value, kinds, strict=True))


def describe(hint: Any) -> str:
    """The annotation `hint` in words, for a message."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, options))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in options)
    if hint is type(None):
        return "None"
    if typing.get_origin(hint) is tuple:
        kinds = [describe(option) for option in options if option is not Ellipsis]
        count = 2 if Ellipsis in options else len(kinds)
        form = ", ".join(f'"{n}"' if "str" in kinds[0] else str(n) for n in range(1, count + 1))
        return f"a tuple of {', '.join(kinds)}, in the form ({form})"
    return hint.__name__ if isinstance(hint, type) and not options else str(hint)


def encode(config: Any) -> Any:
    """Plain data (dicts, lists, numbers, strings) that `decode` turns back into an equal object."""
    if dataclasses.is_dataclass(config):
        cls = type(config)
        values = {f.name: encode(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"_type": _name(cls)} | values
    return [encode(v) for v in config] if isinstance(config, tuple) else config


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def read_stored(path: Path) -> Any:
    """The plain data in the config.json of a run; UserError where it is not whole."""
    try:
        return parse(path.read_bytes(), finite=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore or remove it") from error


def namespace(cls: type) -> dict[str, Any]:
    """The names of the module that a dataclass is defined in, which may be a config file: one that was
    run is no module any more."""
    return getattr(vars(cls).get("__init__"), "__globals__", {})


def annotations(cls: type) -> dict[str, Any]:
    """The annotation of each field of a dataclass, names in it resolved where they were written."""
    hints = {}
    for base in reversed(cls.__mro__):
        if "__dataclass_params__" in vars(base):
            written = types.SimpleNamespace(__annotations__=vars(base).get("__annotations__", {}))
            try:
                hints |= typing.get_type_hints(written, namespace(base))
            except NameError as error:
                raise UserError(
                    f"class {base.__name__}: annotations of its fields: {error}"
                ) from error
    return hints


def is_module_of_settings(name: str) -> bool:
    """Whether the module is one of those of this project that define settings."""
    return _MODULES.fullmatch(name) is not None


def own_classes(config: Any) -> set[str]:
    """The names of the dataclasses among the settings that this project does not define, which `decode`
    cannot construct."""
    names = set() if is_module_of_settings(type(config).__module__) else {type(config).__name__}
    inner = [getattr(config, f.name) for f in dataclasses.fields(config)]
    return names.union(*(own_classes(value) for value in inner if dataclasses.is_dataclass(value)))


def may_stand(cls: type, hint: Any) -> bool:
    """Whether an instance of the dataclass `cls` is one of the annotation `hint`."""
    options = typing.get_args(hint) or (hint,)
    return any(isinstance(option, type) and issubclass(cls, option) for option in options)


def classes(config: Any) -> dict[str, type]:
    """The classes of all settings of a dataclass by the names that `encode` gives them."""
    by_name = {_name(type(config)): type(config)}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            by_name |= classes(value)
    return by_name


def decode(
    data: Any,
    where: str = "config",
    hint: Any = None,
    own: Mapping[str, type] = types.MappingProxyType({}),
) -> Any:
    """The object that `encode` made plain, of the annotation `hint` if one is given; UserError for
    anything but settings of this project, each where it may stand. own: `classes` of a config that the
    user gave, which may be named too."""
    if not isinstance(data, dict):
        raise UserError(f"{where} = {data!r}: expected settings, an object with a _type")
    data = renamed(data)
    name = data.get("_type")
    cls = own.get(name) if isinstance(name, str) and name in own else _setting(name)
    if cls is None:
        raise UserError(
            f"{where}: {name} is not a setting of this version of ddlm; where it is your own class, "
            "pass the config file that defines it with --config, to a command that takes one"
        )
    if hint is not None and not may_stand(cls, hint):
        raise UserError(f"{where}: {name} cannot be used there; expected {describe(hint)}")
    hints = annotations(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    values = {}
    for key, value in data.items():
        if key == "_type":
            continue
        if key not in known:
            raise UserError(
                f"{where}.{key}: {name} has no such setting (known: {', '.join(known) or 'none'})"
            )
        try:
            nested = isinstance(value, dict)
            inner = f"{where}.{key}", hints[key]
            values[key] = decode(value, *inner, own) if nested else coerce(value, hints[key])
        except TypeError as error:
            raise UserError(f"{where}.{key} = {value!r}: {error}") from None
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def _setting(name: Any) -> type | None:
    """The dataclass of settings that has the name, such as "diffusion.mdlm.MDLM"; None for another."""
    module_name, _, class_name = str(name).rpartition(".")
    if not is_module_of_settings(module_name):
        return None
    try:
        cls = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError:
        return None
    defined = isinstance(cls, type) and dataclasses.is_dataclass(cls)
    return cls if defined and cls.__module__ == module_name else None
