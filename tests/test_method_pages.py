"""The pages of docs/methods/ against the code, the page of samplers and the measurements."""

import importlib
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [path for path in sorted((DOCS / "methods").glob("*.md")) if path.name != "README.md"]
PARTS = ["Mathematics", "Settings", "Samplers", "What the number means", "Measured"]


def section(path, title):
    return path.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def classes(path):
    """The settings of the module of diffusion/ that a page is called after, by their names."""
    module = importlib.import_module(f"diffusion.{path.stem}")
    own = [c for c in vars(module).values() if isinstance(c, type) and is_dataclass(c)]
    return {c.__name__: c for c in own if c.__module__ == module.__name__}


def stem(path):
    return path.stem


@pytest.mark.parametrize("path", PAGES, ids=stem)
def test_a_page_has_the_parts_of_all(path):
    titles = re.findall(r"^## (.*)$", path.read_text(), re.MULTILINE)
    assert [title for title in titles if title in PARTS] == PARTS


def written(value):
    """A default as the pages have it; of a part its class."""
    if is_dataclass(value):
        return type(value).__name__
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))})"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


@pytest.mark.parametrize("path", PAGES, ids=stem)
def test_defaults_are_those_of_the_code(path):
    known = {f.name: f.default for c in classes(path).values() for f in fields(c)}
    table = section(path, "Settings")
    for name, said in re.findall(r"^\| `process\.([\w.]+)` \| (.*?) \|", table, re.MULTILINE):
        value = known[name.rpartition(".")[2]]
        default = said.strip("`").partition("(")[0] if is_dataclass(value) else said.strip("`")
        assert default == written(value), name


def rows(name):
    """(exact, approximate): the samplers that docs/samplers.md has for a process, by their classes."""
    table = (DOCS / "samplers.md").read_text().partition("## By process")[2].partition("\n## ")[0]
    cells = [row.split(" | ") for row in re.findall(r"^\| `(.*) \|$", table, re.MULTILINE)]
    own = [row for row in cells if re.search(rf"\b{name}\b", row[0])]
    own = [row for row in own if not re.search(rf"\([^`]*\b{name}\b", row[0])]  # not as a base
    return [set().union(*(re.findall(r"`(\w+)", row[k]) for row in own)) for k in (1, 2)]


@pytest.mark.parametrize("path", [p for p in PAGES if p.stem != "any_order"], ids=stem)
def test_samplers_are_those_of_their_page(path):
    text = section(path, "Samplers").partition("nown token")[0]  # what they do with them comes last
    exact, _, approximate = text.partition("Approximate: ")
    (name, *_) = [name for name in classes(path) if any(rows(name))]
    in_table = rows(name)
    assert set(re.findall(r"`([A-Z]\w+)", exact)) == in_table[0]
    assert set(re.findall(r"`([A-Z]\w+)", approximate)) <= in_table[1]


@pytest.mark.parametrize("path", [*PAGES, DOCS / "methods/README.md"], ids=stem)
def test_figures_have_been_measured(path):
    pages = [DOCS.parent / "README.md", DOCS / "measurements.md"]
    measured = set(re.findall(r"\d+\.\d{3,4}", "".join(page.read_text() for page in pages)))
    measured |= {f"{float(value):.3f}" for value in measured}
    figures = re.findall(r"(\d\.\d{3}) ± (\d\.\d{3})", path.read_text())
    assert [figure for figure in figures if not set(figure) <= measured] == []
