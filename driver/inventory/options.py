"""How devices are offered: whole, cut, shared. Pure values; where they come from is the settings' business."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

MAX_SHARES = 1024
MIB = 1 << 20


class Partitioning(enum.StrEnum):
    """What is published of a GPU that knows MIG."""

    NONE = "none"
    """Whole GPUs only."""
    STATIC = "static"
    """The MIG devices that an administrator made, in place of their GPU."""
    DYNAMIC = "dynamic"
    """The whole GPU and every placement of every profile, tied by counters; a claim's partition is made for it."""


class ShareBy(enum.StrEnum):
    """What claims on one device share by."""

    DISABLED = "disabled"
    MEMORY = "memory"
    """Each claim says how much memory it takes; one that says nothing takes all."""
    COUNT = "count"
    """So many claims, each with an equal part of the memory unless it says otherwise."""
    UNLIMITED = "unlimited"
    """Any number of claims, which take no memory unless they say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Whether and how claims share one device."""

    mode: ShareBy = ShareBy.DISABLED
    count: int | None = None
    """For ShareBy.COUNT."""
    memory_reserve: int = 0
    """Bytes of each device that no claim gets: what the GPU's driver and the contexts of programs take."""

    def __bool__(self) -> bool:
        """Whether there is more than one claim to a device."""
        return self.mode is not ShareBy.DISABLED

    def memory(self, total: int) -> int:
        """Bytes that claims can take of a device with so much memory: whole MiB, without the reserve, not below 0."""
        return max(0, total - self.memory_reserve) // MIB * MIB

    def default_memory(self, total: int) -> int:
        """Bytes that a claim gets which does not say how much it wants."""
        available = self.memory(total)
        match self.mode:
            case ShareBy.COUNT:
                return available // MIB // (self.count or 1) * MIB
            case ShareBy.UNLIMITED:
                return 0
            case _:
                return available

    def why_not(self, total: int | None) -> str:
        """Why a device with so much memory, None where nobody knows, cannot be shared; empty where it can."""
        if self.mode is ShareBy.MEMORY and total is None:
            return "its memory is not known, so claims cannot share it by memory"
        if self and total is not None and self.memory(total) < 2 * MIB * (self.count or 1):
            return f"with a reserve of {self.memory_reserve} bytes its {total} bytes of memory are too few to share"
        return ""


EXCLUSIVE = Shares()


def parse_shares(text: str) -> tuple[ShareBy, int | None]:
    """Read ``disabled``, ``memory``, ``unlimited`` or a number. Raises ValueError that says what is accepted."""
    if re.fullmatch(r"[0-9]{1,9}", text) and 1 <= int(text) <= MAX_SHARES:
        return ShareBy.COUNT, int(text)
    if text in (ShareBy.DISABLED, ShareBy.MEMORY, ShareBy.UNLIMITED):
        return ShareBy(text), None
    raise ValueError(f"'disabled', 'memory', 'unlimited' or a number from 1 to {MAX_SHARES} is expected")


def parse_memory(text: str) -> int:
    """Read an amount of memory such as ``512Mi`` into bytes. Raises ValueError that says what is accepted."""
    match = re.fullmatch(r"([0-9]{1,9})(|k|M|G|T|Ki|Mi|Gi|Ti)", text)
    if match is None:
        raise ValueError("an amount of memory is expected, for example 512Mi or 1Gi, or 0")
    number, suffix = match.groups()
    factor = 1
    for _ in range(" KMGT".index(suffix[:1].upper() or " ")):
        factor *= 1024 if suffix.endswith("i") else 1000
    return int(number) * factor


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """How one GPU is offered."""

    partitioning: Partitioning = Partitioning.NONE
    shares: Shares = EXCLUSIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """How the GPUs that match are offered instead. A field that is None matches every GPU, or leaves what is."""

    name: str | None = None
    uuid: str | None = None
    product: str | None = None
    partitioning: Partitioning | None = None
    shares: tuple[ShareBy, int | None] | None = None
    memory_reserve: int | None = None


AS_A_WHOLE = DeviceOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How all GPUs of a node are offered; of several overrides that match, a later one wins field by field."""

    default: DeviceOptions = AS_A_WHOLE
    overrides: tuple[Override, ...] = ()
    list_attributes: bool = False
    """Whether the cluster takes list-typed attributes (feature gate DRAListTypeAttributes)."""
    withheld: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Memory slices by GPU UUID that partitions of others occupy; dynamic mode offers nothing that touches them."""

    def without(self, partitioning: Partitioning) -> Options:
        """The same options, for a cluster that cannot count what is offered that way: whole GPUs instead."""
        default = self.default
        return replace(
            self,
            default=replace(default, partitioning=Partitioning.NONE)
            if default.partitioning is partitioning
            else default,
            overrides=tuple(
                replace(override, partitioning=Partitioning.NONE) if override.partitioning is partitioning else override
                for override in self.overrides
            ),
        )

    def with_withheld(self, withheld: Mapping[str, frozenset[int]]) -> Options:
        """The same options, for a node on which others occupy this."""
        return replace(self, withheld=withheld)
