"""What a record says of how a device is shared, and which ways of sharing go together."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from driver.hardware import ComputeMode, TimeSlice


class Strategy(enum.StrEnum):
    """How processes share a device."""

    TIME_SLICING = "TimeSlicing"
    MPS = "MPS"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSharing:
    """What prepare sets up for one device of a claim, and what was there before."""

    strategy: Strategy
    interval: TimeSlice = TimeSlice.DEFAULT
    """With time slicing; ``DEFAULT`` leaves the GPU as it is."""
    daemon: str = ""
    """With MPS: the id of the control daemon."""
    position: int = 0
    """Which of the daemon's devices this one is."""
    memory_mib: int | None = None
    thread_percentage: int | None = None
    multi_user: bool = False
    interval_before: TimeSlice | None = None
    """What undo restores; None where nothing was changed."""
    mode_before: ComputeMode | None = None

    @property
    def changes(self) -> bool:
        """Whether the hardware has to be changed for it."""
        return bool(self.daemon) or self.interval is not TimeSlice.DEFAULT

    def __str__(self) -> str:
        """How it reads in an error."""
        if self.strategy is Strategy.MPS:
            return "MPS for several users" if self.multi_user else "MPS for one user"
        return f"time slicing with interval {self.interval}"


AS_IT_IS = "time slicing as it is"
"""How a share without any parameters reads in an error; it goes with every interval."""


def way_of(sharing: DeviceSharing | None) -> str:
    """The way in which a device is shared, in words; shares of one device that have the same go together."""
    return AS_IT_IS if sharing is None else str(sharing)


def go_together(one: str, other: str) -> bool:
    """Whether shares of two ways can be on one device."""
    return one == other or (AS_IT_IS in (one, other) and not any(name.startswith("MPS") for name in (one, other)))
