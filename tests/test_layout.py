"""Who imports whom, that every config builds, and that every setting is explained."""

import ast
import importlib
import inspect
import re
import textwrap
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.overrides import load, resolve
from experiments.serialization import decode, encode, is_module_of_settings

ROOT = Path(__file__).parent.parent
OURS = {"diffusion", "models", "samplers", "configs", "experiments"}
TABLE = {  # package: (ours, others beside the standard library; None allows all)
    "diffusion": (set(), {"jax", "numpy"}),
    "models": (set(), {"jax", "flax", "einops", "numpy"}),
    "samplers": ({"diffusion"}, {"jax", "numpy"}),
    "configs": ({"diffusion", "models", "samplers", "experiments"}, set()),
    "experiments": ({"diffusion", "models", "samplers", "experiments"}, None),
}
STANDARD = {"abc", "copy", "dataclasses", "typing", "collections", "functools", "math"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", TABLE)
def test_imports_follow_the_table(package):
    ours, others = TABLE[package]
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        found = set(imports(path)) - {package}
        assert found & OURS <= ours, f"{path}: {found & OURS - ours}"
        if others is not None:
            assert found - OURS <= others | STANDARD, f"{path}: {found - OURS - others}"


def test_flax_stays_inside_models():
    for package in OURS - {"models"}:
        for path in (ROOT / package).rglob("*.py"):
            assert "flax" not in set(imports(path)), path


CONFIGS = [p for p in sorted((ROOT / "configs").rglob("*.py")) if p.name != "__init__.py"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_config_builds_round_trips_and_says_how_to_run_it(path):
    experiment = load(str(path))
    assert decode(encode(experiment)) == experiment
    assert "python -m experiments." in path.read_text().split('"""')[1]
    text = np.random.default_rng(0).integers(0, 27, 1000)
    tokenizer = experiment.data.tokenizer
    if tokenizer.vocab_size is None:  # told by a file that is not here
        tokenizer = replace(tokenizer, vocab_size=27)
    names = ("one", "other") if experiment.data.labels else ()
    full = resolve(experiment, tokenizer, lambda: text, names)
    shapes = jax.eval_shape(full.model.init, jax.random.key(0))
    assert shapes["ends"]["embedding"].shape[0] == full.process.vocab_size + 1


def settings():
    """Every dataclass that a stored config may name."""
    for path in sorted(p for package in OURS for p in (ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if is_module_of_settings(name) and path.name != "__init__.py":
            found = vars(importlib.import_module(name)).values()
            yield from (c for c in found if is_dataclass(c) and c.__module__ == name)


def explained(cls):
    """The names that a class explains: "name: what it is" or "name, name: ..." in its docstring, or a
    string below the field."""
    entries = re.findall(r"(\w+(?:, \w+)*):\s", vars(cls).get("__doc__") or "")
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    below = [
        field.target.id
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and ast.unparse(text)[:1] in ("'", '"')
    ]
    return {name for entry in entries for name in entry.split(", ")}.union(below)


@pytest.mark.parametrize("cls", list(settings()), ids=lambda c: f"{c.__module__}.{c.__name__}")
def test_every_setting_is_explained(cls):
    ours = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in OURS]
    names = {f.name for f in fields(cls)} - set().union(*map(explained, ours))
    assert not names, f"{cls.__name__}: say what these are in its docstring: {sorted(names)}"
