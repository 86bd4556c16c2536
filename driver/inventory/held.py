"""What claims hold of the node's GPUs, as far as it matters to what is offered; who keeps that is not known here."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from driver.inventory.catalogue import Hold
    from driver.inventory.options import DeviceOptions


class HoldingsError(Exception):
    """What claims hold cannot be known at this moment; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What claims hold at one moment."""

    partitions: Set[tuple[str, str, int]] = frozenset()
    """Partitions that are claims': UUID of the GPU, profile, first memory slice."""
    by_gpu: Mapping[str, tuple[Hold, ...]] = field(default_factory=dict)
    """By GPU UUID."""


class Holdings(Protocol):
    """Whoever knows what claims hold."""

    async def held(self, *, within: float) -> Held:
        """What they hold now, whichever instance prepared it. Raises HoldingsError, in ``within`` seconds at most."""
        ...

    def hold_by_specs(self) -> bool:
        """Take into account what only the hardware's present state explains; whether anything was found."""
        ...


class HeldDevice(Protocol):
    """A device that a claim has got or let go of."""

    @property
    def gpu_uuid(self) -> str:
        """The GPU that it is, or is a part of."""
        ...

    @property
    def offered(self) -> DeviceOptions | None:
        """The settings by which it was offered; None where that is not known."""
        ...
