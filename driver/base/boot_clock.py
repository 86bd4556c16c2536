"""The clock of the present boot: it goes on while the machine sleeps, and nobody sets it."""

from __future__ import annotations

import time


def boot_seconds() -> float:
    """Seconds since the node booted, the same for every process; to the millisecond, because it is written down."""
    return round(time.clock_gettime(time.CLOCK_BOOTTIME), 3)
