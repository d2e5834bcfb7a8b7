"""Settings as plain data: dicts, lists, numbers and strings, as a run stores its config (`encode`).

A "_type" names each dataclass; `decode` constructs dataclasses of this project's packages and nothing
else, so a checkpoint cannot name code to run.
"""

import dataclasses
import importlib
import types
import typing
from typing import Any, Literal

from experiments.errors import UserError

PACKAGES = ("diffusion", "models", "samplers", "experiments")


def fit(value, hint):
    """The value as an instance of the annotation `hint`, or TypeError. Lists become tuples."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return fit(value, option)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        if value in args:
            return value
        raise TypeError
    if origin is tuple:
        if not isinstance(value, list | tuple) or (args[-1] is not ... and len(args) != len(value)):
            raise TypeError
        kinds = [args[0]] * len(value) if args[-1] is ... else args
        return tuple(fit(v, kind) for v, kind in zip(value, kinds, strict=True))
    if hint is float and type(value) is int:
        return float(value)
    if hint is int and type(value) is float and value.is_integer():
        return int(value)  # 1e6
    if hint is type(None) and value is None:
        return None
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise TypeError


def describe(hint) -> str:
    """The annotation `hint` in words, for a message."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, options))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in options)
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) and not options else str(hint)


def encode(config: Any) -> Any:
    """Plain data (dicts, lists, numbers, strings) that `decode` turns back into an equal object."""
    if dataclasses.is_dataclass(config):
        cls = type(config)
        values = {f.name: encode(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"_type": f"{cls.__module__}.{cls.__qualname__}"} | values
    return [encode(v) for v in config] if isinstance(config, tuple) else config


def decode(data: Any, where: str = "config") -> Any:
    """The object that `encode` made plain; UserError for anything but dataclasses of this project."""
    if not isinstance(data, dict):
        return data
    name = data.get("_type")
    module_name, _, class_name = str(name).rpartition(".")
    cls = None
    if module_name.split(".")[0] in PACKAGES and class_name.isidentifier():
        try:
            cls = getattr(importlib.import_module(module_name), class_name, None)
        except ImportError:
            cls = None
    if not (
        isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module_name
    ):
        raise UserError(
            f"{where}: {name} is not a setting of this version of ddlm; where it is your own class, "
            "pass the config file that defines it with --config"
        )
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    values = {}
    for key, value in data.items():
        if key == "_type":
            continue
        if key not in known:
            raise UserError(
                f"{where}.{key}: {name} has no such setting (known: {', '.join(known)})"
            )
        try:
            nested = isinstance(value, dict)
            values[key] = decode(value, f"{where}.{key}") if nested else fit(value, hints[key])
        except TypeError:
            raise UserError(f"{where}.{key} = {value!r}: expected {describe(hints[key])}") from None
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error
