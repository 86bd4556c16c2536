"""The cluster as its slices, claims and pods tell it: each node's GPUs, how they are cut, and who holds what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from driver.cluster.objects import Amounts, Device, Key, Result, Taint

WHOLE = "gpu"
"""What a whole GPU is called among the profiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A claim that has a device, or a share of one."""

    claim: Key
    result: Result
    weight: Fraction
    """How much of a GPU it has by this; 0 with admin access."""
    since: datetime | None
    pods: tuple[tuple[str, str], ...] = ()
    """Names and phases of the pods that use it; a phase is empty where it is not known."""

    @property
    def namespace(self) -> str:
        """Whose it is."""
        return self.claim[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A device that is there: one that is held, or that exists whether or not it is held."""

    device: Device
    weight: Fraction
    holders: tuple[Holder, ...] = ()
    left: Amounts = ()
    """Of a shared device: what claims can still take of its capacities."""

    @property
    def is_held(self) -> bool:
        """Whether it is taken; who has admin access takes nothing."""
        return any(not holder.result.admin for holder in self.holders)

    @property
    def kind(self) -> str:
        """Its profile, or ``gpu``."""
        return self.device.shape.profile or WHOLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A taint, and the devices of the GPU that have it."""

    taint: Taint
    devices: tuple[str, ...] = ()
    """Empty: all of the GPU's."""


Room = Mapping[str, int]
"""How many devices could still be placed, by profile, in order of publication; each count for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU of a node."""

    name: str
    uuid: str
    product: str
    slots: int
    """Memory slices that it can be cut into, as far as its slices tell; 0 where it cannot."""
    parts: tuple[Part, ...]
    troubles: tuple[Trouble, ...] = ()
    room: Room = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_sick(self) -> bool:
        """Whether something keeps new claims off it, or off a part of it."""
        return any(trouble.taint.forbids for trouble in self.troubles)

    @property
    def weight(self) -> Fraction:
        """How much of it is held."""
        return sum((holder.weight for part in self.parts for holder in part.holders), Fraction(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What is held, of a node or of more: sums that can be added."""

    holds: int = 0
    """Devices and shares of devices."""
    gpus: Fraction = Fraction(0)
    """Weighted."""
    timed: Fraction = Fraction(0)
    """The part of ``gpus`` of which it is known since when."""
    started: Fraction = Fraction(0)
    """Sum of weight x seconds since 1970, of the same."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            holds=self.holds + other.holds,
            gpus=self.gpus + other.gpus,
            timed=self.timed + other.timed,
            started=self.started + other.started,
        )

    def hours(self, now: datetime) -> float:
        """GPU hours of what is held now, from its allocation on."""
        return max(0.0, float(self.timed * int(now.timestamp()) - self.started) / 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node's pool."""

    name: str
    pool: str
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    """Why its GPUs are not known."""
    lost: tuple[Holder, ...] = ()
    """Who holds devices that no slice has."""
    room: Room = field(default_factory=lambda: MappingProxyType({}))
    usage: Mapping[str, Usage] = field(default_factory=lambda: MappingProxyType({}))
    """By namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All nodes that have, or had, GPUs of ours; by name."""

    nodes: tuple[Node, ...] = ()

    @property
    def room(self) -> Room:
        """What could still be placed in all the cluster."""
        return total_room(node.room for node in self.nodes)

    @property
    def usage(self) -> Mapping[str, Usage]:
        """By namespace, in their order."""
        found: dict[str, Usage] = {}
        for node in self.nodes:
            for namespace, usage in node.usage.items():
                found[namespace] = found.get(namespace, Usage()) + usage
        return dict(sorted(found.items()))


def total_room(rooms: Iterable[Room]) -> Room:
    """The sum by profile."""
    total: dict[str, int] = {}
    for room in rooms:
        for kind, count in room.items():
            total[kind] = total.get(kind, 0) + count
    return total
