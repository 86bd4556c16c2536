"""How long files and functions may be, and that no modules need each other, for a reader's sake."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import grimp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DRIVER = Path(__file__).parents[2] / "driver"
FILE_LINES = 400
FUNCTION_LINES = 60
LONG_FILES = {"hardware/fake/fake_backend.py"}
"""These are still to be split; no other file may become one of them."""
LONG_FUNCTIONS: set[str] = set()
"""The same for functions."""


def sources() -> Iterator[tuple[str, str]]:
    """Path below ``driver/`` and text of all that is written by hand."""
    for path in sorted(DRIVER.rglob("*.py")):
        name = path.relative_to(DRIVER).as_posix()
        if not name.startswith("wire/"):
            yield name, path.read_text(encoding="utf-8")


def functions(name: str, text: str) -> Iterator[tuple[str, int]]:
    """Each function of a file, and its number of lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_file_is_too_long() -> None:
    long = {name for name, text in sources() if len(text.splitlines()) > FILE_LINES}

    assert long <= LONG_FILES


def test_no_function_is_too_long() -> None:
    long = {where for name, text in sources() for where, lines in functions(name, text) if lines > FUNCTION_LINES}

    assert long <= LONG_FUNCTIONS


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Modules of which each imports the one before, and the first is the last; nothing where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("driver", cache_dir=None)  # with what is imported for type checking only

    assert circle({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}) == []


def test_a_circle_is_found() -> None:
    assert sorted(set(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}))) == ["b", "c"]
