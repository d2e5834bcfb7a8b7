"""Settings as text: config files and `--set`; what the data fills in; what a continuation may change."""

import ast
import contextlib
import dataclasses
import difflib
import importlib
import inspect
import itertools
import pkgutil
import runpy
import typing
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from experiments.config import Experiment
from experiments.data.statistics import STATISTICS, TABLES
from experiments.data.tokenizers import Tokenizer
from experiments.errors import UserError
from experiments.labels import fill_labels
from experiments.overview.configs import config_file, configs
from experiments.serialization import (
    RESUMABLE,
    annotations,
    coerce,
    is_finite,
    is_module_of_settings,
    may_stand,
    namespace,
    own_classes,
)

MOST_NAMED = 6  # settings that a message offers as what was meant


def load(path: str, overrides: typing.Sequence[str] = ()) -> Experiment:
    """The experiment of a config file, with `--set` overrides ("train.num_steps=200") applied."""
    file = config_file(path)
    if file is None:
        near = difflib.get_close_matches(path, [str(config.path) for config in configs()], 3, 0.5)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else "ddlm configs lists those there are"
        )
        raise UserError(f"config file {path} does not exist; {hint}")
    try:
        names = runpy.run_path(str(file))
        get_config = names.get("get_config")
        experiment = get_config() if get_config else None
    except Exception as error:  # whatever the user's Python raises is the user's to put right
        raise UserError(f"config file {path}: {type(error).__name__}: {error}") from error
    if not isinstance(experiment, Experiment):
        raise UserError(f"config file {path} must define get_config() that returns an Experiment")
    for name, value in leaves(experiment).items():
        if not is_finite(value):
            raise UserError(f"config file {path}: {name} = {value}: must be finite")
    return override(experiment, overrides, _defined(names, names["__name__"]))


def reading_options(
    experiment: Experiment, config: str, overrides: typing.Sequence[str]
) -> tuple[str, ...]:
    """What commands that read a run of the experiment are given beside its directory: where settings are
    of the user's own classes, the file that defines them, and the overrides, which the file lacks
    (without evaluation.max_sequences, which is of training)."""
    if not own_classes(experiment):
        return ()
    reading = [item for item in overrides if not item.startswith("evaluation.max_sequences")]
    return "--config", config, *(word for item in reading for word in ("--set", item))


def override(
    experiment: Experiment, overrides: typing.Sequence[str], own: typing.Sequence[type] = ()
) -> Experiment:
    """The experiment with each "path=value" applied, in order; only their result has to be valid. own:
    dataclasses that may be named beside those of this project and of the experiment's own files."""
    items = []
    for item in overrides:
        path, equals, text = item.partition("=")
        if not equals:
            raise OverrideError(item, "expected PATH=VALUE, such as train.num_steps=200")
        items.append(
            _Override(path.strip(), tuple(path.strip().split(".")), text.strip(), tuple(own))
        )
    try:
        return _replace(experiment, items)
    except _Unknown as error:
        known = _as_far(experiment, items)
        hint = _of_another_part(known, error.path) or _near(known, error.path)
        raise OverrideError(error.path, "no such setting", hint) from None


def _of_another_part(config: Any, path: str) -> str:
    """What to choose so that there is such a setting: it may be of a part that is not the one chosen."""
    names, part = path.split("."), ""
    for name, setting in itertools.pairwise(names):
        part = f"{part}.{name}".lstrip(".")
        if name not in annotations(type(config)):
            break
        hint, config = annotations(type(config))[name], getattr(config, name)
        options = [c for c in choices(hint, type(config)) if setting in annotations(c)]
        if not dataclasses.is_dataclass(config) or setting not in annotations(type(config)):
            classes = " or ".join(f"{part}={c.__name__}" for c in options[:3])
            classes += " or others" * (len(options) > 3)
            return classes and f"it is a setting of {classes}"
    return ""


def _near(experiment: Experiment, path: str) -> str:
    """Settings that the path may have meant, or all there are."""
    valid, parent = list(leaves(experiment)), path.rpartition(".")[0]
    parts = list(kinds(experiment))
    beside = [p for p in dict.fromkeys(valid + parts) if parent and p.rpartition(".")[0] == parent]
    near = (
        difflib.get_close_matches(path, valid, 3, 0.8)
        or difflib.get_close_matches(path, parts, 1, 0.9)
        or beside[:MOST_NAMED]
        or difflib.get_close_matches(path, valid, 3, 0.6)
        or [p for p in valid if p.split(".")[-1] == path.split(".")[-1]]
    )
    if len(beside) > MOST_NAMED and near == beside[:MOST_NAMED]:
        return f"settings of {parent}: {', '.join(p.rpartition('.')[2] for p in beside)}"
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(valid)}"


def _as_far(experiment: Experiment, items: list["_Override"]) -> Experiment:
    """The experiment with the overrides that can be applied one by one: what classes were chosen."""
    for item in items:
        with contextlib.suppress(_Unknown, UserError):
            experiment = _replace(experiment, [item])
    return experiment


def named(hint: Any, like: Any, text: str, path: str) -> Any:
    """What "NAME setting=value ..." says, a dataclass of those that may stand where `like` does; `path`
    is for messages."""
    name, *settings = text.split() or [""]
    items = []
    for setting in settings:
        inner, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"{path} {text}: expected SETTING=VALUE instead of {setting}")
        items.append(_Override(f"{name}.{inner}", tuple(inner.split(".")), value))
    config = _sibling(hint, type(like), path, name)
    try:
        return _replace(config, items) if items else config
    except _Unknown as error:
        known = ", ".join(leaves(config)) or "none"
        raise UserError(f"{path} {text}: no setting {error.path}; known: {known}") from None


@dataclasses.dataclass(frozen=True)
class _Override:
    """A value for the setting at `path`, of which `names` are left from where it is looked at; own: as
    `override` has it."""

    path: str
    names: tuple[str, ...]
    text: str
    own: tuple[type, ...] = ()


class OverrideError(UserError):
    """A mistake in an override; setting: "path=value", or its path alone."""

    def __init__(self, setting: str, what: str, advice: str = ""):
        super().__init__(what, advice, f"--set {setting}")
        self.setting = setting


class _Unknown(Exception):
    """No setting has the path."""

    def __init__(self, path: str):
        super().__init__(path)
        self.path = path


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted path, dataclasses opened."""
    settings = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            settings |= leaves(value, f"{prefix}{f.name}.")
        else:
            settings[prefix + f.name] = value
    return settings


def _replace(config, items: list[_Override]):
    """The dataclass with the overrides, whose names begin at it, applied; checked as a whole."""
    try:
        return _applied(config, items)
    except ValueError as error:
        at_fault = _at_fault(config, items, error)
        settings = ", ".join(f"{item.path}={item.text}" for item in at_fault)
        raise OverrideError(settings, str(error)) from error


def _at_fault(config, items: list[_Override], error: ValueError) -> list[_Override]:
    """Those of the overrides without which the error would not be raised."""
    for item in items:
        rest = [other for other in items if other is not item]
        try:
            _applied(config, rest)
        except ValueError as without_item:
            if without_item.args == error.args:
                items = rest
        except (_Unknown, UserError):
            pass
    return items


def _applied(config, items: list[_Override]):
    """As `_replace`, with ValueError as the dataclass raises it."""
    hints = annotations(type(config))
    by_name: dict[str, list[_Override]] = {}
    for item in items:
        if item.names[0] not in [f.name for f in dataclasses.fields(config)]:
            raise _Unknown(item.path)
        by_name.setdefault(item.names[0], []).append(item)
    changes = {}
    for name, of_name in by_name.items():
        value, inner = getattr(config, name), []
        for item in of_name:
            if len(item.names) > 1:
                inner.append(dataclasses.replace(item, names=item.names[1:]))
            elif _is_kind(value, hints[name], item.text):
                own = (*item.own, *_own(type(config)))
                value, inner = _sibling(hints[name], type(value), item.path, item.text, own), []
            else:
                value = _parse(item.text, hints[name], item.path)
        if inner and not dataclasses.is_dataclass(value):
            raise _Unknown(inner[0].path)
        changes[name] = _replace(value, inner) if inner else value
    return dataclasses.replace(config, **changes)


def _is_kind(value: Any, hint, text: str) -> bool:
    """Whether `text` is to name a dataclass, for a setting declared as `hint` that is `value` now."""
    options = typing.get_args(hint)
    if text.lower() in ("none", "null") and type(None) in options:
        return False
    return dataclasses.is_dataclass(value) or any(map(dataclasses.is_dataclass, options))


def _sibling(hint, cls: type, path: str, text: str, own: typing.Sequence[type] = ()):
    """An instance, with its defaults, of the dataclass `text`: one of those that may stand there."""
    own = [c for c in (*own, *_own(cls)) if c is cls or may_stand(c, hint)]
    known = {c.__name__: c for c in (*choices(hint, cls), *own)}
    if text not in known:
        near = difflib.get_close_matches(text.lower(), [name.lower() for name in known], 1, 0.7)
        meant = [f" (did you mean {name}?)" for name in known if name.lower() in near]
        raise OverrideError(
            f"{path}={text}",
            f"expected one of {', '.join(sorted(known))}, or {path}.SETTING=" + "".join(meant),
        )
    missing = [
        f.name
        for f in dataclasses.fields(known[text])
        if f.init and f.default is f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise OverrideError(
            f"{path}={text}",
            f"{text} has no default for {', '.join(missing)}",
            "construct it in a config file",
        )
    return known[text]()


def choices(hint: Any, cls: type) -> list[type]:
    """The dataclasses of this project for a setting declared as `hint` that is a `cls` now: those of a
    union, or for an interface those that inherit from it, in its folder and in that of `cls`."""
    options = typing.get_args(hint) or (hint,)
    if not any(inspect.isabstract(option) for option in options):
        return [c for c in options if isinstance(c, type) and dataclasses.is_dataclass(c)]
    names = [o.__module__ for o in (*options, cls) if is_module_of_settings(o.__module__)]
    return [
        c
        for package in dict.fromkeys(name.rpartition(".")[0] for name in names)
        for m in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}.")
        for c in _defined(vars(importlib.import_module(m.name)), m.name)
        if may_stand(c, hint)
    ]


def _own(cls: type) -> list[type]:
    """The dataclasses of the file that defines `cls`, where that is the user's own."""
    is_own = not is_module_of_settings(cls.__module__) and dataclasses.is_dataclass(cls)
    return _defined(namespace(cls), cls.__module__) if is_own else []


def _defined(names: dict[str, Any], module: str) -> list[type]:
    """The dataclasses among the names of a module that are defined in it, but for abstract ones."""
    return [
        c
        for c in names.values()
        if isinstance(c, type)
        and dataclasses.is_dataclass(c)
        and c.__module__ == module
        and not inspect.isabstract(c)
    ]


def _parse(text: str, hint, path: str):
    options = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    if hint is str or text in options:
        return text
    try:
        value = ast.literal_eval(_Named().visit(ast.parse(text, mode="eval")))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text  # the last three are of literals that are nested too deeply, or no values
    try:
        return coerce(value, hint)
    except TypeError as error:
        with contextlib.suppress(TypeError):
            return coerce(text, hint)  # "nan" and "12" are texts too
        raise OverrideError(f"{path}={text}", str(error)) from None


class _Named(ast.NodeTransformer):
    """Puts values in the place of their names, which no literal of Python's is."""

    values: typing.ClassVar = {
        "true": True,
        "false": False,
        "none": None,
        "null": None,
        "nan": float("nan"),
        "inf": float("inf"),
        "infinity": float("inf"),
    }

    def visit_Name(self, node):
        name = node.id.lower()
        return ast.Constant(self.values[name]) if name in self.values else node


def _no_tokens():
    raise UserError(
        "this process needs statistics of the training text, which is not available here"
    )


def resolve(
    experiment: Experiment,
    tokenizer: Tokenizer,
    train_tokens: Callable[[], np.ndarray] = _no_tokens,
    label_names: tuple[str, ...] = (),
) -> Experiment:
    """The experiment with what depends on the data filled in everywhere: the tokenizer that it was read
    with, its size, the names of its labels and their number, statistics of the train_tokens() (N,),
    tables that are given as files; and the attention that the process asks for."""

    def fill(config, path):
        changes = {}
        for f in dataclasses.fields(config):
            value, where = getattr(config, f.name), f"{path}{f.name}"
            if f.name == "vocab_size" and f.init:
                if value not in (None, tokenizer.vocab_size):
                    raise UserError(
                        f"{type(config).__name__}.vocab_size = {value}, but the data has "
                        f"{tokenizer.vocab_size} tokens; leave it out to use the data's"
                    )
                changes[f.name] = tokenizer.vocab_size
            elif f.name in STATISTICS and value is None:
                changes[f.name] = STATISTICS[f.name](train_tokens(), tokenizer.vocab_size)
            elif f.name in TABLES and isinstance(value, str):
                changes[f.name] = TABLES[f.name](value, where)
            elif dataclasses.is_dataclass(value):
                changes[f.name] = fill(value, f"{where}.")
        try:
            return dataclasses.replace(config, **changes) if changes else config
        except ValueError as error:
            raise UserError(f"{path.rstrip('.') or 'experiment'}: {error}") from error

    data = dataclasses.replace(experiment.data, tokenizer=tokenizer)
    filled = fill(dataclasses.replace(experiment, data=data), "")
    filled = fill_labels(filled, label_names)
    traits = filled.process.traits
    try:
        model = filled.model.for_process(traits.attention_block, traits.vector_width)
    except ValueError as error:
        raise UserError(f"model: {error}") from error
    return dataclasses.replace(filled, model=model)


def differences(old: Any, new: Any) -> dict[str, str]:
    """What forbids continuing a run of `old`, a dataclass of settings, as `new`: by the
    path of a setting "old -> new"."""
    a, b = leaves(old), leaves(new)
    kinds_a, kinds_b = kinds(old), kinds(new)
    changed = {
        p: f"{kinds_a.get(p)} -> {kinds_b.get(p)}"
        for p in kinds_a | kinds_b
        if kinds_a.get(p) != kinds_b.get(p)
    }
    changed |= {p: f"{_short(a[p])} -> {_short(b[p])}" for p in a if p in b and a[p] != b[p]}
    return {
        path: values
        for path, values in changed.items()
        if not any(f"{path}.".startswith(f"{p}.") for p in RESUMABLE)
    }


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def kinds(config: Any, prefix: str = "") -> dict[str, str]:
    """The class of every dataclass among the settings, by its dotted path."""
    classes = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            classes[prefix + f.name] = type(value).__name__
            classes |= kinds(value, f"{prefix}{f.name}.")
    return classes
