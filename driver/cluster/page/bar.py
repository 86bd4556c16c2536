"""How a GPU is drawn: its memory slices as cells of a bar, and which part has which of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from driver.cluster.fleet import Gpu, Holder, Part

CELLS = 8
"""Of a GPU whose slices are not told."""
FINE = 24
"""Cells of a device that several claims share."""
MOST = 24
"""Cells of a bar at most; the style sheet has so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Cells side by side that have one part, or that nobody has."""

    cells: int
    part: Part | None = None
    sick: bool = False
    """Nothing new gets a place here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one namespace has of a part, in ``FINE`` cells."""

    cells: int
    holders: tuple[Holder, ...] = ()
    """Empty for what is left."""


def segments(gpu: Gpu) -> tuple[Segment, ...]:
    """The bar of a GPU from its first memory slice to its last; cells that somebody could have each for itself."""
    size = min(gpu.slots or CELLS, MOST)
    owners: list[Part | None] = [None] * size
    there = [part for part in gpu.parts if part.is_held or not part.device.counter_set]
    for part in sorted(there, key=lambda part: part.is_held):  # who holds something wins
        for slot in part.device.shape.slots or range(size):
            if slot < size:
                owners[slot] = part
    sick = any(trouble.taint.forbids and not trouble.devices for trouble in gpu.troubles)
    found: list[Segment] = []
    for owner in owners:
        if found and found[-1].part is owner and (owner is not None or sick):
            found[-1] = Segment(cells=found[-1].cells + 1, part=owner, sick=found[-1].sick)
        else:
            tainted = owner is not None and any(taint.forbids for taint in owner.device.taints)
            found.append(Segment(cells=1, part=owner, sick=sick or tainted))
    return tuple(found)


def watchers(gpu: Gpu) -> tuple[tuple[Part, Holder], ...]:
    """Those with admin access: they see what others have, and the bar has no room for them."""
    return tuple((part, holder) for part in gpu.parts for holder in part.holders if holder.result.admin)


def shares(part: Part) -> tuple[Share, ...]:
    """Who has how much of a shared part, each namespace once, and what is left."""
    by_namespace: dict[str, list[Holder]] = {}
    for holder in part.holders:
        if not holder.result.admin:
            by_namespace.setdefault(holder.namespace, []).append(holder)
    groups = sorted(by_namespace.values(), key=lambda found: -sum(holder.weight for holder in found))[: FINE - 1]
    found, room = [], FINE
    for index, holders in enumerate(groups):
        part_of = sum(holder.weight for holder in holders) / part.weight if part.weight else 0
        cells = max(1, min(round(FINE * part_of), room - (len(groups) - 1 - index)))
        found.append(Share(cells=cells, holders=tuple(holders)))
        room -= cells
    return (*found, Share(cells=room)) if room else tuple(found)
