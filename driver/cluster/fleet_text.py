"""The model for people: 80 columns of text that say the same without colour. Pure."""

from __future__ import annotations

import textwrap
from itertools import cycle
from typing import TYPE_CHECKING

import click

from driver.base.quantity import format_quantity
from driver.cluster.fleet_view import shown
from driver.cluster.follow import CLAIMS, PODS, SLICES
from driver.cluster.taint_rules import RULES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from driver.cluster.fleet import Fleet, Gpu, Holder, Node, Part, Room, Trouble
    from driver.cluster.follow import View

CELLS = 8
"""Of the bar of a GPU that is not cut."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FREE, SICK = ".", "x"
_COLOURS = ("green", "cyan", "magenta", "blue", "yellow")
_KIND = 10
"""Columns for ``1g.10gb+me``."""
CONSEQUENCES = {
    SLICES: "no GPU is known",
    CLAIMS: "nobody knows what is held and what is free",
    PODS: "it is not shown which pods run",
    RULES: "what an administrator has tainted looks free",
}


def as_text(
    view: View,
    *,
    now: datetime,
    namespace: str = "",
    width: int = 80,
    ellipsis: str = "…",
    summary_first: bool = False,
) -> str:
    """Nodes and their GPUs, what is sick, what could be placed, and who has how much.

    A GPU is a bar, one cell for each memory slice; a letter is a part, whose holder is told beside it. ``.`` is free,
    ``x`` sick. Colours are of namespaces and add nothing.
    """
    fleet = shown(view, namespace)
    writer = _Writer(fleet, now=now, width=width, ellipsis=ellipsis)
    nodes = [line for node in fleet.nodes for line in writer.node(node)] or [
        f"namespace {namespace} holds no GPU" if namespace else "no GPU of this driver is published"
    ]
    summary = [list(writer.room()), list(writer.sick()), list(writer.namespaces())]
    blocks = [writer.notes(view), *([*summary, nodes] if summary_first else [nodes, *summary])]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


class _Writer:
    """Lines of one text."""

    def __init__(self, fleet: Fleet, *, now: datetime, width: int, ellipsis: str) -> None:
        self._fleet = fleet
        self._now = now
        self._width = width
        self._ellipsis = ellipsis
        names = sorted(fleet.usage)
        self._colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}
        self._margin = max((len(gpu.name) for node in fleet.nodes for gpu in node.gpus), default=5) + 4

    def notes(self, view: View) -> list[str]:
        """What is not known, and what may not be true any more."""
        lines = [f"claims of {view.namespace} only can be read, so others' are not shown"] if view.namespace else []
        lines += [f"{what} cannot be read, so {CONSEQUENCES[what]}: {error}" for what, error in view.missing.items()]
        lines += [f"{what} may have changed since: {error}" for what, error in view.behind.items()]
        return [click.style(line, fg="yellow") for text in lines for line in self._wrapped(text, "")]

    def node(self, node: Node) -> Iterator[str]:
        """A node: one line where nothing is held and nothing wrong, otherwise its GPUs below."""
        title = click.style(node.name, bold=True)
        if node.problem:
            yield f"{title}  {click.style(node.problem, fg='red')}"
        elif not node.lost and not any(gpu.troubles or _holders(gpu) for gpu in node.gpus):
            yield f"{title}  {products(node.gpus)}: all free"
            return
        else:
            held = sum((gpu.weight for gpu in node.gpus), start=0 * node.gpus[0].weight) if node.gpus else 0
            yield f"{title}  {products(node.gpus)}: {decimal(held)} held"
        for gpu in node.gpus:
            yield from self._gpu(gpu)
        for holder in node.lost:
            yield self._fit(f"  {self._since(holder)} {self._who(holder)}: {holder.result.device} is not published")
        yield from self._free(node.room, "  ")

    def _gpu(self, gpu: Gpu) -> Iterator[str]:
        letters = dict(zip((part.device.name for part in gpu.parts if part.is_held), cycle(LETTERS), strict=False))
        head = f"  {gpu.name:<{self._margin - 4}}  {self._bar(gpu, letters)}  "
        rows = [row for part in gpu.parts for row in self._part(part, letters.get(part.device.name, " "))]
        if not rows:
            rows = [", ".join(sorted({str(trouble.taint) for trouble in gpu.troubles})) or "free"]
        indent = " " * len(click.unstyle(head))
        for index, row in enumerate(rows):
            yield self._fit((indent if index else head) + row)

    def _bar(self, gpu: Gpu, letters: Mapping[str, str]) -> str:
        size = gpu.slots or CELLS
        sick = any(trouble.taint.forbids and not trouble.devices for trouble in gpu.troubles)
        cells = [SICK if sick else FREE] * size
        colours = [""] * size
        for part in gpu.parts:
            slots = part.device.shape.slots or tuple(range(size))
            if part.is_held and part.device.shape.shared:
                slots = slots[: _cells(part, len(slots))]
            for slot in slots:
                if part.is_held:
                    cells[slot] = letters[part.device.name]
                    colours[slot] = self._colours.get(_by_weight(part)[0].namespace, "")
                elif any(taint.forbids for taint in part.device.taints):
                    cells[slot] = SICK
        styled = (click.style(cell, fg=colour) if colour else cell for cell, colour in zip(cells, colours, strict=True))
        return f"[{''.join(styled)}]"

    def _part(self, part: Part, letter: str) -> Iterator[str]:
        for index, holder in enumerate(_by_weight(part)):
            what = "admin" if holder.result.admin else part.kind
            yield f"{' ' if index else letter} {what:<{_KIND}} {self._since(holder)} {self._who(holder)}"
        if part.holders and (left := _amounts(part)):
            yield f"  {'left':<{_KIND}} {left}"

    def _since(self, holder: Holder) -> str:
        return f"{duration((self._now - holder.since).total_seconds()) if holder.since else '':>6}"

    def _who(self, holder: Holder) -> str:
        """The pods if there are any, else the claim."""
        colour = self._colours.get(holder.namespace)
        pods = ", ".join(
            f"{holder.namespace}/{name}" + (f" ({phase})" if phase not in ("", "Running") else "")
            for name, phase in holder.pods
        )
        who = pods or f"{'/'.join(holder.claim)} (no pod)"
        return click.style(who, fg=colour) if colour else who

    def sick(self) -> Iterator[str]:
        """What is wrong with which GPU."""
        rows = [
            (node.name, gpu.name, trouble.taint.words, self._ago(trouble), _named(trouble), trouble.taint.rule)
            for node in self._fleet.nodes
            for gpu in node.gpus
            for trouble in gpu.troubles
        ]
        head = ("NODE", "GPU", "TAINT", "SINCE", "DEVICES", "RULE")
        columns = len(head) if any(row[-1] for row in rows) else -1
        yield from self._table(head[:columns], [row[:columns] for row in rows])

    def _ago(self, trouble: Trouble) -> str:
        since = trouble.taint.since
        return duration((self._now - since).total_seconds()) if since else ""

    def room(self) -> Iterator[str]:
        """What could still be placed in all the cluster."""
        if len(self._fleet.nodes) > 1:
            yield from self._free(self._fleet.room, "All nodes: ")

    def _free(self, room: Room, head: str) -> list[str]:
        text = room_text(room)
        together = text.replace(" x ", "\u00a0x\u00a0").replace("no ", "no\u00a0")
        lines = self._wrapped(f"{head}could still be placed: {together}", "    ") if text else []
        return [line.replace("\u00a0", " ") for line in lines]

    def namespaces(self) -> Iterator[str]:
        """Who has how much."""
        rows = [
            (name, str(usage.holds), decimal(usage.gpus), f"{usage.hours(self._now):.1f}")
            for name, usage in self._fleet.usage.items()
        ]
        yield from self._table(("NAMESPACE", "DEVICES", "GPUS", "GPU HOURS"), rows)

    def _table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
        if not rows:
            return
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for number, row in enumerate((head, *rows)):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            yield click.style(self._fit(line), bold=True) if number == 0 else self._fit(line)

    def _wrapped(self, text: str, hanging: str) -> list[str]:
        plain = "".join(char if char.isprintable() or char == "\u00a0" else " " for char in text)
        return textwrap.wrap(
            plain, self._width, subsequent_indent=hanging, break_long_words=True, break_on_hyphens=False
        )

    def _fit(self, line: str) -> str:
        """The line within the width; one that is too long loses its colours and its end."""
        plain = click.unstyle(line)
        return line if len(plain) <= self._width else plain[: self._width - len(self._ellipsis)] + self._ellipsis


def room_text(room: Room) -> str:
    """``3 x gpu, 21 x 1g.10gb, no 7g.80gb``."""
    some = [f"{count} x {kind}" for kind, count in room.items() if count]
    return ", ".join([*some, *(f"no {kind}" for kind, count in room.items() if not count)])


def duration(seconds: float) -> str:
    """``45s``, ``12m``, ``3h05m``, ``2d4h``; what is in the future by a server's clock has just begun."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m" if minutes else f"{whole}s"


def _holders(gpu: Gpu) -> list[Holder]:
    return [holder for part in gpu.parts for holder in part.holders]


def _by_weight(part: Part) -> list[Holder]:
    """Those that take something first."""
    return sorted(part.holders, key=lambda holder: holder.result.admin)


def products(gpus: Iterable[Gpu]) -> str:
    """``8 x H100-SXM5-80GB``."""
    counts: dict[str, int] = {}
    for gpu in gpus:
        counts[gpu.product] = counts.get(gpu.product, 0) + 1
    return ", ".join(f"{count} x {product or 'GPU'}" for product, count in counts.items())


def _cells(part: Part, size: int) -> int:
    """How many cells of a shared device's are taken: one at least, all only if nothing is left."""
    taken = sum(holder.weight for holder in part.holders) / part.weight if part.weight else 0
    return max(1, min(size - (taken < 1), round(size * taken)))


def _amounts(part: Part) -> str:
    """What is left of a shared device; empty where that is nothing."""
    left = {name: int(amount) for name, amount in part.left}
    if any(amount <= 0 for amount in left.values()):
        return ""
    found = [f"{left['shares']} shares"] if "shares" in left else []
    return ", ".join(
        [*found, *([f"{format_quantity(left['memory'] >> 20 << 20)} of memory"] if "memory" in left else [])]
    )


def _named(trouble: Trouble) -> str:
    if not trouble.devices:
        return "all"
    first, *others = trouble.devices
    return f"{first} and {len(others)} more" if others else first


def decimal(number: object) -> str:
    """With two places at most."""
    return f"{float(number):.2f}".rstrip("0").rstrip(".")  # type: ignore[arg-type]
