"""The blocks of README and docs: what a reader may paste, and what only shows something."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
_BLOCK = re.compile(
    r"^(?P<indent> *)```\w*\n(?P<fenced>.*?)^(?P=indent)```$|(?<=\n\n)(?P<indented>(?: {4}[^\n]*\n|\n)+)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced or indented block of a document."""

    document: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(document: str) -> list[Block]:
    """All blocks of a document, in their order."""
    content = (ROOT / document).read_text()
    found = []
    for match in _BLOCK.finditer(content):
        text = textwrap.dedent(match["fenced"] or match["indented"] or "").strip("\n")
        if text:
            line = content[: match.start()].count("\n") + 1
            found.append(Block(document=document, line=line, text=text))
    return found
