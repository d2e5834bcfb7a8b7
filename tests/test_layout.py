"""Who imports whom, that every config builds, what is public is annotated and explained, and pages name
what exists."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import textwrap
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion.mdlm import MDLM
from diffusion.process import Process
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


def test_no_file_of_tests_is_long():
    """One is cut by subject before it is longer; workers share the suite better so, too."""
    lengths = {p.name: len(p.read_text().splitlines()) for p in (ROOT / "tests").rglob("*.py")}
    assert {name: n for name, n in lengths.items() if n > 390} == {}


def test_flax_stays_inside_models():
    for package in OURS - {"models"}:
        for path in (ROOT / package).rglob("*.py"):
            assert "flax" not in set(imports(path)), path


def test_only_commands_know_the_command_line():
    for path in (ROOT / "experiments").rglob("*.py"):
        if path.parent.name not in ("experiments", "studies"):
            assert "argparse" not in set(imports(path)), path
            functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.arg)]
            assert not [argument.lineno for argument in functions if argument.arg == "args"], path


def asked_classes(path):
    """The classes of this project that a file asks isinstance for."""
    tree = ast.parse(path.read_text())
    modules = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OURS
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            names = [n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)]
            for name in set(names) & set(modules):
                yield getattr(importlib.import_module(modules[name]), name)


def test_programs_ask_what_a_setting_can_do_by_its_interface_alone():
    for path in (ROOT / "experiments").rglob("*.py"):
        for cls in asked_classes(path) if "studies" not in path.parts else ():
            interfaces = [base for base in cls.__mro__ if inspect.isabstract(base)]
            assert not interfaces or cls in interfaces, f"{path}: {cls.__name__}"


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
    tables = [
        array.shape
        for path, array in jax.tree_util.tree_leaves_with_path(shapes)
        if [key.key for key in path[-2:]] == ["ends", "embedding"]
    ]
    assert tables and {rows for rows, _ in tables} == {full.process.vocab_size + 1}


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
    definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    body = definition.body
    written = ast.get_docstring(definition) or ""  # __doc__ may be the signature, by dataclass
    entries = re.findall(r"(\w+(?:, \w+)*):\s", written)
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


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/**/*.md")]
SOURCES = [path for package in sorted(OURS) for path in sorted((ROOT / package).rglob("*.py"))]
PACKAGES = "diffusion|models|samplers|configs|experiments"


def name_of(path):
    return str(path.relative_to(ROOT))


def docstrings(path):
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    return "\n".join(ast.get_docstring(node) or "" for node in nodes)


@pytest.mark.parametrize("path", PAGES + SOURCES, ids=name_of)
def test_paths_that_are_named_exist(path):
    found = re.finditer(
        rf"(?<![\w./])(?:{PACKAGES}|tests|docs)/[\w./-]*\w(?![\w*{{$])", path.read_text()
    )
    missing = {match[0] for match in found if not (ROOT / match[0]).exists()}
    assert not missing, f"{name_of(path)} names {sorted(missing)}"


def exists(dotted):
    """Whether "package.module.Class.attribute" is there."""
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("path", PAGES + SOURCES, ids=name_of)
def test_modules_that_are_named_exist(path):
    if path.name == "CHANGELOG.md":
        return  # it names what was
    text = path.read_text() if path.suffix == ".md" else docstrings(path)
    found = re.findall(rf"(?<![\w./])(?:{PACKAGES})(?:\.(?!md\b|NAME\b)\w+)+", text)
    missing = {dotted for dotted in found if not exists(dotted)}
    assert not missing, f"{name_of(path)} names {sorted(missing)}"


def anchors(page):
    """What a link may end in after #."""
    text = page.read_text()
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made_of_docstrings = re.findall(r"^::: (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}.union(
        made_of_docstrings
    )


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text()):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists() and (not anchor or anchor in anchors(target)), link


def test_the_tree_of_the_architecture_names_files_that_exist():
    block = (ROOT / "docs/architecture.md").read_text().partition("## The tree")[2].split("```")[1]
    there = {p.name for p in [*PAGES, *SOURCES, *ROOT.glob("*.py"), *ROOT.glob("docs/*.py")]}
    assert set(re.findall(r"\w+\.(?:py|md)", block)) <= there


def test_decisions_have_numbers_of_their_own_and_stand_in_the_index():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    files = re.findall(r"^## \[.*\]\((.*)\)$", index, re.MULTILINE)
    assert set(files) == {path.name for path in folder.glob("*.md")} - {"README.md"}
    found = []
    for name in files:
        titles = re.findall(r"^## (D\d{3}\. .*)$", (folder / name).read_text(), re.MULTILINE)
        assert titles == sorted(titles)
        found += titles
    assert re.findall(r"^- (D\d{3}\. .*)$", index, re.MULTILINE) == found
    assert len({title[:4] for title in found}) == len(found) > 0


def modules(packages):
    for package in packages:
        yield package
        for path in sorted((ROOT / package).rglob("*.py")):
            if not path.name.startswith("__"):
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


def function_of(member):
    """The function under a method, property or cached property; None for what is none."""
    for attribute in ("fget", "func", "__func__", "__wrapped__"):
        member = getattr(member, attribute, member)
    return member if inspect.isfunction(member) else None


@functools.cache
def public_functions():
    """{name: the function and those that it overrides} of every function of a module and every method
    of a class that a user can name."""
    found = {}
    for module in map(importlib.import_module, modules([*sorted(OURS - {"configs"}), "ddlm"])):
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if function_of(value):
                found[f"{module.__name__}.{name}"] = [function_of(value)]
            for method in dir(value) if inspect.isclass(value) else ():
                versions = [vars(c)[method] for c in value.__mro__ if method in vars(c)]
                versions = [f for f in map(function_of, versions) if f]
                ours = versions and versions[0].__module__.split(".")[0] in {*OURS, "ddlm"}
                if ours and (method in ("__init__", "__call__") or not method.startswith("_")):
                    found[f"{module.__name__}.{name}.{method}"] = versions
    return found


def test_public_signatures_are_annotated_or_override_one_that_is():
    lacking = {}
    for name, versions in public_functions().items():
        wanted = set(inspect.signature(versions[0]).parameters) - {"self", "cls"}
        wanted |= set() if name.endswith("__init__") else {"return"}
        missing = wanted.difference(*(f.__annotations__ for f in versions))
        lacking |= {name: missing} if missing else {}
    assert not lacking


def test_public_functions_have_a_docstring_or_override_one_that_has():
    assert not [
        name
        for name, versions in public_functions().items()
        if not name.endswith("__init__") and not any(f.__doc__ for f in versions)
    ]


def test_help_shows_the_contract_of_what_a_method_overrides():
    assert MDLM.bridge.__doc__ is None
    assert inspect.getdoc(MDLM.bridge) == "z_s ~ q(z_s | z_t, x0), 0 <= s <= t."
    assert inspect.getdoc(MDLM.bridge) == inspect.getdoc(Process.bridge)
