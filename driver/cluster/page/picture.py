"""What all of the page's readers see at one moment, summed up once for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from driver.cluster.fleet import Fleet
from driver.cluster.follow import View
from driver.cluster.page.marks import Marks
from driver.cluster.page.node_map import node_html

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from driver.cluster.fleet import Gpu, Node, Room, Trouble, Usage
    from driver.cluster.page.html import Html

TROUBLES = 12
"""Those that are shown; what is more is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many GPUs there are, of a node or of more."""

    gpus: int = 0
    untouched: int = 0
    sick: int = 0
    troubles: int = 0

    @classmethod
    def of(cls, node: Node) -> Counts:
        """A node's."""
        return cls(
            gpus=len(node.gpus),
            untouched=sum(not any(part.is_held for part in gpu.parts) for gpu in node.gpus),
            sick=sum(gpu.is_sick for gpu in node.gpus),
            troubles=sum(len(gpu.troubles) for gpu in node.gpus),
        )

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            gpus=self.gpus + other.gpus,
            untouched=self.untouched + other.untouched,
            sick=self.sick + other.sick,
            troubles=self.troubles + other.troubles,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A view of the cluster."""

    title: str = ""
    """Which cluster it is."""
    view: View = field(default_factory=View)
    fleet: Fleet = field(default_factory=Fleet)
    """What is shown of the view."""
    counts: Counts = field(default_factory=Counts)
    troubles: tuple[tuple[Node, Gpu, Trouble], ...] = ()
    """The first of those that forbid something, then of the others."""
    usage: Mapping[str, Usage] = field(default_factory=dict)
    """By namespace."""
    room: Room = field(default_factory=dict)
    marks: Marks = field(default_factory=Marks)
    stale_since: datetime | None = None
    """Since when something may have changed without our knowledge; None while all is known."""


class Painter:
    """Makes each picture from the one before: a node that is the same object is not looked at again."""

    def __init__(self, title: str) -> None:
        self.picture = Picture(title=title)
        self._counts: dict[str, tuple[Node, Counts]] = {}
        self._drawn: dict[str, tuple[Node, Html]] = {}

    def take(self, view: View, fleet: Fleet, now: datetime) -> None:
        """This is what is shown from now on."""
        marks = self.picture.marks
        usage = fleet.usage
        marks.learn(usage)
        self._drawn = {node.pool: self._drawn[node.pool] for node in fleet.nodes if node.pool in self._drawn}
        known, self._counts = self._counts, {}
        total = Counts()
        for node in fleet.nodes:
            before, counts = known.get(node.pool, (None, Counts()))
            found = counts if before is node else Counts.of(node)
            self._counts[node.pool] = (node, found)
            total += found
        self.picture = replace(
            self.picture,
            view=view,
            fleet=fleet,
            counts=total,
            troubles=self._troubles(fleet),
            usage=usage,
            room=fleet.room,
            stale_since=(self.picture.stale_since or now) if view.behind else None,
        )

    def _troubles(self, fleet: Fleet) -> tuple[tuple[Node, Gpu, Trouble], ...]:
        found = [
            (node, gpu, trouble)
            for node in fleet.nodes
            if self._counts[node.pool][1].troubles
            for gpu in node.gpus
            for trouble in gpu.troubles
        ]
        return tuple(sorted(found, key=lambda item: not item[2].taint.forbids)[:TROUBLES])

    def draw(self, node: Node) -> Html:
        """A node of the picture."""
        known = self._drawn.get(node.pool)
        if known is None or known[0] is not node:
            known = self._drawn[node.pool] = (node, node_html(node, self.picture.marks))
        return known[1]
