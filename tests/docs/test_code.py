"""What README and docs say of the code: functions, files and rooms that they name are there."""

from __future__ import annotations

import ast
import configparser
import re
from typing import TYPE_CHECKING

import pytest

from tests.docs.blocks import DOCUMENTS, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = ROOT / "driver"
CODE = re.compile(r"`(?:driver/)?([a-z][\w/]*\.py)(?::(\w[\w.]*))?`")
"""``folder/module.py``, with or without ``:function`` or ``:Class.method``; ``driver/`` may be left out."""
FILE = re.compile(r"`((?:tests|driver|deploy|docs|requirements)/[\w./-]+)`")
WITH_NAMES = ("CONTRIBUTING.md", "docs/architecture.md")


def named(document: str) -> list[tuple[str, str]]:
    return [(module, name) for module, name in CODE.findall((ROOT / document).read_text()) if "tests/" not in module]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_function_that_is_named_is_there(document: str) -> None:
    assert [(module, name) for module, name in named(document) if not has(PACKAGE / module, name)] == []


@pytest.mark.parametrize("document", WITH_NAMES)
def test_who_is_told_how_it_is_built_is_told_by_names(document: str) -> None:
    assert sum(name != "" for _, name in named(document)) >= 8


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_file_or_a_folder_that_is_named_is_there(document: str) -> None:
    names = FILE.findall((ROOT / document).read_text())

    assert [name for name in names if not (ROOT / name).exists() and name not in MADE] == []


def test_every_room_is_described_at_its_level() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)

    assert {room: int(level) for level, room in rows} == levels()
    assert {room for _, room in rows} == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


MADE = {"docs/gpu-run.md"}
"""What is not there before somebody makes it."""


def has(module: Path, name: str) -> bool:
    """Whether a module is there, and in it what a dotted name says; any, where there is no name."""
    if not module.is_file():
        return False
    inside: list[ast.stmt] = ast.parse(module.read_text(encoding="utf-8")).body
    for part in name.split(".") if name else ():
        found = dict(definitions(inside)).get(part)
        if found is None:
            return False
        inside = getattr(found, "body", [])
    return True


def definitions(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node
        elif isinstance(node, ast.Assign):
            yield from ((target.id, node) for target in node.targets if isinstance(target, ast.Name))


def levels() -> dict[str, int]:
    """The layers contract: 0 is the room that imports none."""
    contract = configparser.ConfigParser()
    contract.read(ROOT / ".importlinter")
    lines = contract["importlinter:contract:layers"]["layers"].split("\n")
    layers = [re.findall(r"\w+", line) for line in reversed(lines) if line]
    return {room: level for level, rooms in enumerate(layers) for room in rooms}
