"""The docstring of a Python file, read without running it."""

import ast
from pathlib import Path


def docstring(path: Path) -> str:
    """The docstring of a Python file, "" where it has none; ValueError where it is not Python."""
    try:
        return ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except SyntaxError as error:
        raise ValueError(f"not Python ({error.msg}, line {error.lineno})") from error


def first_line(path: Path) -> str:
    """The first line of the docstring of a Python file, "" where it has none."""
    return docstring(path).partition("\n")[0]
