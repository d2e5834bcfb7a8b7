"""Notebooks from their scripts, and pages of the site from the notebooks.

A script of docs/notebooks/ is the source, in the percent format of jupytext. As a program, `make
notebooks` or `python docs/notebook_pages.py NAME ...`, this file executes scripts and writes NAME.ipynb
beside them, with outputs: without dates, times and versions. As a
hook of mkdocs it makes a page of each notebook: text as it is, code and output as blocks, figures as
images.
"""

import base64
import json
import os
import re
import shutil
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "notebooks"


def of_script(script):
    """The notebook of a script, without outputs."""
    import jupytext

    notebook = jupytext.read(script, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell["id"], cell.metadata = f"{script.stem}-{number}", {}
        cell.source = cell.source.strip("\n")  # empty lines between classes are the formatter's
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return notebook


def execute(script, folder):
    """Writes the notebook of a script with its outputs; it runs in `folder`."""
    import nbformat
    from nbclient import NotebookClient

    notebook = of_script(script)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata = of_script(script).metadata  # without the version of Python
    for cell in notebook.cells:
        cell.metadata = {}  # when it ran
    nbformat.write(notebook, script.with_suffix(".ipynb"))


def page(name, notebook):
    """(Markdown of the notebook, {file name: bytes} of its images)."""
    parts, images = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            text = "".join(output.get("text", data.get("text/plain", [])))
            if "image/png" in data:
                image = f"{name}-{len(images) + 1}.png"
                images[image] = base64.b64decode(data["image/png"])
                parts.append(f"![Figure {len(images)}]({image})")
            elif text:
                parts.append(f"```text\n{text.rstrip()}\n```")
    parts.insert(1, f"*Made of the notebook [{name}.ipynb]({name}.ipynb).*")
    return "\n\n".join(parts) + "\n", images


def on_files(files, config):
    """The files of the site, with a page and images for each notebook (a hook of mkdocs)."""
    from mkdocs.structure.files import File

    for path in sorted(FOLDER.glob("*.ipynb")):
        text, images = page(path.stem, json.loads(path.read_text()))
        made = {f"{path.stem}.md": linked_to_pages(text)} | images
        for name, content in made.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """The text of a page, whose links to notebooks lead to their pages (a hook of mkdocs)."""
    return markdown if page.file.generated_by else linked_to_pages(markdown)


def linked_to_pages(markdown):
    """The text with links to pages in place of notebooks, but where the notebook is named itself."""
    return re.sub(r"(?<!\.ipynb\])(\([\w/.-]*)\.ipynb\)", r"\1.md)", markdown)


def main(names):
    """Makes all notebooks in an empty folder; those of the names in one that keeps earlier runs."""
    work = FOLDER.parent.parent / "build" / "notebooks"
    if not names:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    root = str(FOLDER.parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    for script in [FOLDER / f"{name}.py" for name in names] or sorted(FOLDER.glob("*.py")):
        execute(script, work)
        print(script.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
