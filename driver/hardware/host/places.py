"""Where this process finds the node's files: in a container these are mounts of its choice."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from driver.hardware.host.root import DriverRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Roots of file systems that tell of hardware."""

    driver: DriverRoot = field(default_factory=DriverRoot)
    """Where NVIDIA's driver is installed."""
    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")
    dev: Path = Path("/dev")
    cdi_hook: str = ""
    """NVIDIA's hook program as the host finds it, ``none``, or nothing to have it looked for."""


OWN = Host()
"""Everything where it usually is."""
