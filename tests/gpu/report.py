"""The record of a run on real GPUs, for people who have none at hand."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path


@dataclass
class Findings:
    """Headings with what a program printed."""

    facts: dict[str, str] = field(default_factory=dict)
    sections: list[tuple[str, str]] = field(default_factory=list)

    def add(self, title: str, text: str) -> None:
        self.sections.append((title, text.strip()))

    def write(self) -> None:
        """Write to the file that GPU_REPORT names, if anything was found."""
        target = os.environ.get("GPU_REPORT")
        if not target or not self.sections:
            return
        facts = {
            "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            **self.facts,
            "Kernel": f"{platform.release()} {platform.machine()}",
        }
        lines = ["# A run on real GPUs", "", "Written by `make test-gpu`; what failed is told as well.", ""]
        lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items()), ""]
        for title, text in self.sections:
            lines += [f"## {title}", "", "```", text, "```", ""]
        Path(target).write_text("\n".join(lines), encoding="utf-8")
