"""The notebooks of docs/notebooks/: each script runs at a tiny size, its assertions included, and its
.ipynb is that script with outputs; the site has a page of each."""

import base64
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).parent.parent / "docs"
SCRIPTS = sorted((DOCS / "notebooks").glob("*.py"))
PAGES = SimpleNamespace(**runpy.run_path(str(DOCS / "notebook_pages.py")))


def name_of(path):
    return path.stem


@pytest.mark.representatives("quickstart")
@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_a_notebook_runs_at_a_tiny_size(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDLM_NOTEBOOK_STEPS", "12")
    monkeypatch.setattr(plt, "show", lambda: None)
    matplotlib.use("agg")
    runpy.run_path(str(script), run_name="__main__")
    figures = [plt.figure(number) for number in plt.get_fignums()]
    assert figures
    for axes in (axes for figure in figures for axes in figure.axes):
        assert axes.get_xlabel() or axes.get_ylabel(), "an axis has no label"
        axes.figure.canvas.draw()
    plt.close("all")


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_the_notebook_is_the_script_with_outputs(script):
    """If not: make notebooks."""
    path = script.with_suffix(".ipynb")
    notebook = json.loads(path.read_text())
    made = [(cell.cell_type, cell.source) for cell in PAGES.of_script(script).cells]
    assert made == [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert path.stat().st_size < 300_000
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert {"id", "cell_type", "metadata", "source"} <= set(notebook["cells"][0])


def test_a_page_has_text_code_output_and_figures():
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": ["print(1)"],
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["1\n", "2\n"]},
                {"data": {"image/png": base64.b64encode(b"png").decode(), "text/plain": ["<F>"]}},
                {"data": {"text/plain": ["3"]}},
            ],
        },
    ]
    text, images = PAGES.page("a", {"cells": cells})
    assert images == {"a-1.png": b"png"}
    assert text.split("\n\n") == [
        "# Title\ntext",
        "*Made of the notebook [a.ipynb](a.ipynb).*",
        "```python\nprint(1)\n```",
        "```text\n1\n2\n```",
        "![Figure 1](a-1.png)",
        "```text\n3\n```\n",
    ]
    links = "[b](b.ipynb), [c](../c.ipynb), [a.ipynb](a.ipynb), [d](d.md)"
    assert PAGES.linked_to_pages(links) == "[b](b.md), [c](../c.md), [a.ipynb](a.ipynb), [d](d.md)"
