"""What is used of a GPU at one moment, and how it is: plain frozen values. What the hardware cannot tell is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUse:
    """What one process uses of a device."""

    pid: int
    """In the PID namespace of this process."""
    memory_bytes: int | None = None
    utilisation: float | None = None
    """Part of the GPU's multiprocessors' time, from 0 to 1, on average since the last measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """What is used of a whole GPU, or of one partition of it."""

    memory_used: int | None = None
    """Bytes."""
    memory_total: int | None = None
    """Bytes."""
    utilisation: float | None = None
    """Part of the time in which anything ran, from 0 to 1."""
    sm_active: float | None = None
    """Part of the multiprocessors that were busy, on average, from 0 to 1."""
    processes: tuple[ProcessUse, ...] | None = ()
    """None where nobody tells them."""
    divided: bool = False
    """Whether there are no processes to tell users apart by, and each is taken to use its part of the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One GPU at one moment."""

    whole: DeviceUse
    partitions: Mapping[str, DeviceUse] = field(default_factory=dict)
    """By UUID of the MIG device."""
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    throttled: Mapping[str, bool] = field(default_factory=dict)
    """Whether its clocks are held down, by reason; see ``THROTTLE_REASONS``."""
    ecc_errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Memory errors by type (``corrected``, ``uncorrected``) and scope (``volatile``, ``aggregate``)."""
    remapped_rows: Mapping[str, int] = field(default_factory=dict)
    """Memory rows that were replaced, by the type of the errors that were the cause."""
    row_remapping: Mapping[str, bool] = field(default_factory=dict)
    """Whether one is ``pending``, or has ``failed``."""
    nvlink_errors: Mapping[str, int] = field(default_factory=dict)
    """By kind, of all links together; see ``NVLINK_ERRORS``."""
    pcie_replays: int | None = None


THROTTLE_REASONS = {
    "power_cap": 0x4,
    "hardware_slowdown": 0x8,
    "sync_boost": 0x10,
    "software_thermal": 0x20,
    "hardware_thermal": 0x40,
    "power_brake": 0x80,
}
"""Bits of nvmlClocksEventReasons that say that clocks are held down; what else there is says that nothing is asked."""
NVLINK_ERRORS = {"flit_crc": 38, "data_crc": 45, "replay": 52, "recovery": 59, "ecc": 160}
"""NVML_FI_DEV_NVLINK_*_ERROR_COUNT_TOTAL: fields that never change."""
