"""What the demo shows: on a terminal for people, or nothing but one JSON document for machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

WIDTH = 112


class Screen:
    """Prints as the story goes. ``quiet`` prints nothing: then only ``outcome`` counts."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=False)
        if not self._console.is_terminal or self._console.width > WIDTH:
            self._console.width = WIDTH
        self._chapter = 0

    def title(self, text: str, subtitle: str) -> None:
        """The first thing that people see."""
        self._console.print()
        self._console.print(
            Panel(Text(subtitle), title=f"[bold]{text}", title_align="left", border_style="green", padding=(0, 2))
        )

    def chapter(self, title: str) -> None:
        """What comes next."""
        self._chapter += 1
        self._console.print()
        self._console.print(f"[bold green]{self._chapter}[/]  [bold]{title}[/]")

    def note(self, text: str) -> None:
        """A line that explains."""
        self._console.print(Padding(Text(text, style="dim"), (0, 0, 0, 3)))

    def command(self, text: str) -> None:
        """A command that the story runs; readers can run it too."""
        self._console.print(Padding(Text(f"$ {text}", style="cyan"), (0, 0, 0, 3)))

    def done(self, what: str, detail: str = "", took: str = "") -> None:
        """Something that was checked and is true."""
        self._line("[green]✓[/]", what, detail, took)

    def failed(self, what: str, detail: str) -> None:
        """Something that is not as it was said to be."""
        self._line("[bold red]✗[/]", what, detail, "")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Rows under headings."""
        table = Table(*columns, box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*row)
        self._console.print(Padding(table, (0, 0, 0, 3)))

    def summary(self, facts: Mapping[str, str], *, ok: bool) -> None:
        """The last thing that people see."""
        grid = Table.grid(padding=(0, 2))
        for name, value in facts.items():
            grid.add_row(f"[dim]{name}[/]", value)
        title = "[bold green]everything did what it says" if ok else "[bold red]something did not do what it says"
        self._console.print()
        self._console.print(
            Panel(grid, title=title, title_align="left", border_style="green" if ok else "red", padding=(0, 2))
        )

    def _line(self, mark: str, what: str, detail: str, took: str) -> None:
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(width=1)
        line.add_column(width=28, no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(justify="right", no_wrap=True, style="dim")
        line.add_row(mark, Text(what), Text(detail), took)
        self._console.print(Padding(line, (0, 0, 0, 3)))


def print_json(outcome: Mapping[str, Any]) -> None:
    """The outcome for machines, on standard output."""
    print(json.dumps(outcome, indent=2))  # noqa: T201 - this is the output
