"""How processes share a GPU or a partition of it, in the terms of the hardware: plain frozen values."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace


class TimeSlice(enum.StrEnum):
    """How long a process computes before the GPU turns to the next one; the lengths are NVIDIA's own business."""

    DEFAULT = "Default"
    SHORT = "Short"
    MEDIUM = "Medium"
    LONG = "Long"


class ComputeMode(enum.StrEnum):
    """Which processes may compute on a GPU, as NVML counts them. The values are those of ``nvidia-smi -c``."""

    DEFAULT = "DEFAULT"
    EXCLUSIVE_THREAD = "EXCLUSIVE_THREAD"
    PROHIBITED = "PROHIBITED"
    EXCLUSIVE_PROCESS = "EXCLUSIVE_PROCESS"
    """One process only: with MPS that is its server, so that nobody gets past its limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MpsDaemon:
    """One control daemon of NVIDIA's Multi-Process Service, and what it holds its clients to."""

    id: str
    """Names its directories; letters, digits, '-', '_' and '.'."""
    gpu_uuids: tuple[str, ...]
    """The GPUs behind its devices, in the same order."""
    devices: tuple[str, ...]
    """UUIDs of GPUs, or of one partition: what its clients count from 0 on."""
    memory_mib: tuple[int | None, ...]
    """For each device the memory that one client gets at most; None without a limit."""
    thread_percentage: int | None = None
    """The part of a device's threads that one client gets at most; None without a limit."""
    multi_user: bool = False
    """Whether clients of different Unix users are served at the same time."""

    def same_process(self, other: MpsDaemon) -> bool:
        """Whether a daemon can become the other without a restart: everything but the limits is the same."""
        limits = {"memory_mib": self.memory_mib, "thread_percentage": self.thread_percentage}
        return replace(other, **limits) == self  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class MpsLimits:
    """What one claim's containers are held to, below what the daemon allows."""

    memory_mib: int | None = None
    thread_percentage: int | None = None
