"""What the demo shows: on a terminal for people, or nothing but one JSON document for machines."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from driver.base.text import in_ascii

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

WIDTH = 112
"""Columns for people who have more, and for files."""
INDENT = 3
NAME = 25
TOOK = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that was checked and is true."""

    what: str
    detail: str


@dataclass(slots=True, kw_only=True)
class Chapter:
    """What was shown under one title."""

    title: str
    seconds: float = 0.0
    steps: list[Step] = field(default_factory=list)


class Screen:
    """Prints as the story goes, and remembers it. ``quiet`` prints nothing: then only what it remembers counts.

    On a terminal, a last line that moves says what is waited for while the context is open.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(quiet=quiet, highlight=False, markup=False, emoji=False)
        if self._console.width > WIDTH or not (sys.stdout.isatty() or "COLUMNS" in os.environ):
            self._console.width = WIDTH
        self._ascii = self._console.options.ascii_only
        spinner = "line" if self._ascii else "dots"
        # Colours can be asked for without a terminal; a line that moves cannot.
        live = sys.stdout.isatty() and not quiet
        self._status = self._console.status("", spinner=spinner, spinner_style="green") if live else None
        self.chapters: list[Chapter] = []

    def __enter__(self) -> Screen:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rest()

    def rest(self) -> None:
        """Nothing moves from now on: it would take away what readers select."""
        if self._status:
            self._status.stop()

    def waiting(self, what: str) -> None:
        """What is waited for from now on."""
        if self._status:
            self._status.update(Text(self._say(f"waiting: {what}"), style="dim", no_wrap=True, overflow="ellipsis"))

    def title(self, text: str, subtitle: str) -> None:
        """The first thing that people see."""
        self._panel(Text(self._say(subtitle)), text, colour="green")

    def chapter(self, title: str) -> Chapter:
        """What comes next."""
        self.chapters.append(Chapter(title=title))
        self._console.print()
        self._console.print(Text.assemble((str(len(self.chapters)), "bold green"), "  ", (self._say(title), "bold")))
        return self.chapters[-1]

    def heading(self, title: str) -> None:
        """What stands apart from the story."""
        self._console.print()
        self._console.print(Text(self._say(title), style="bold"))

    def note(self, text: str) -> None:
        """A line that explains."""
        self._console.print(Padding(Text(self._say(text), style="dim"), (0, 0, 0, INDENT)))

    def command(self, text: str) -> None:
        """A command that the story runs; whole on one line, however long."""
        self._console.print(Text(f"{'':{INDENT}}$ {text}", style="cyan"), soft_wrap=True)

    def to_paste(self, text: str, why: str = "") -> None:
        """A line that readers may copy: nothing of it is broken, and nothing stands before it that is not of it."""
        if why:
            self.note(why)
        self._console.print(Text(f"{'':{INDENT}}{text}", style="cyan"), soft_wrap=True)

    def done(self, what: str, detail: str = "", *, got: str = "", took: str = "") -> None:
        """Something that was checked and is true; ``got`` is what came of it."""
        self.chapters[-1].steps.append(Step(what=what, detail=f"{detail} → {got}" if got else detail))
        self._line("✓", "green", what, detail, got, took)

    def failed(self, what: str, detail: str) -> None:
        """Something that is not as it was said to be."""
        self._line("✗", "bold red", what, detail, "", "")

    def table(self, columns: Mapping[str, Sequence[str]], *, spare: Sequence[str]) -> None:
        """Columns under headings, whole; where they do not all fit, those of ``spare`` go, the last ones first."""
        widths = {name: max(map(len, (name, *values))) + 2 for name, values in columns.items()}
        shown = dict(columns)
        for name in reversed(spare):
            if INDENT + sum(widths[shown_name] for shown_name in shown) - 2 <= self._console.width:
                break
            del shown[name]
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for name in shown:
            table.add_column(name, no_wrap=True, min_width=widths[name] - 2)
        for row in zip(*shown.values(), strict=True):
            table.add_row(*row)
        self._console.print(Padding(table, (0, 0, 0, INDENT)))

    def summary(self, facts: Mapping[str, str], *, ok: bool) -> None:
        """What it all came to."""
        grid = Table.grid(padding=(0, 2))
        for name, value in facts.items():
            grid.add_row(Text(name, style="dim"), value)
        title = "everything did what it says" if ok else "something did not do what it says"
        self._panel(grid, title, colour="green" if ok else "red")

    def goodbye(self, text: str) -> None:
        """A last line."""
        self._console.print()
        self._console.print(self._say(text))

    def _panel(self, content: Table | Text, title: str, *, colour: str) -> None:
        self._console.print()
        heading = Text(title, style=f"bold {colour}")
        self._console.print(Panel(content, title=heading, title_align="left", border_style=colour, padding=(0, 2)))

    def _line(self, mark: str, style: str, what: str, detail: str, got: str, took: str) -> None:
        room = self._console.width - INDENT - 1 - 2 - NAME - 2 - (2 + TOOK if took else 0)
        detail, outcome = self._say(detail), self._say(f"→ {got}" if got else "")
        last = textwrap.wrap(detail, room)[-1] if detail else ""
        between = "\n" if last and len(f"{last} {outcome}") > room else " "
        text = Text(between.join(filter(None, (detail, outcome))), overflow="fold")
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(min_width=NAME, no_wrap=True)
        line.add_column(ratio=1)
        if took:
            line.add_column(min_width=TOOK, justify="right", no_wrap=True, style="dim")
        line.add_row(Text(self._say(mark), style=style), what, text, *([took] if took else []))
        self._console.print(Padding(line, (0, 0, 0, INDENT)))

    def _say(self, text: str) -> str:
        return in_ascii(text) if self._ascii and not text.isascii() else text


def as_json(outcome: Mapping[str, Any], chapters: Sequence[Chapter]) -> str:
    """The outcome for machines."""
    return json.dumps({**outcome, "chapters": [asdict(chapter) for chapter in chapters]}, indent=2)
