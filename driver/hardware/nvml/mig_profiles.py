"""Names and placements of MIG profiles where NVML does not give them itself: pure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = re.compile(r"(?:MIG )?([1-9][0-9]?g\.[0-9]+gb(?:[+-][a-z]+(?:\.[a-z]+)?)?)")
_GIB = 1 << 30

_ATTRIBUTES = {
    7: "+me",
    8: "+me",
    10: "+gfx",
    11: "+gfx",
    12: "+gfx",
    13: "-me",
    14: "-me",
    15: "+me.all",
    16: "+me.all",
    17: "+gfx",
}
"""What the name says beyond the sizes, by NVML_GPU_INSTANCE_PROFILE_*."""

_EACH = tuple((start, 1) for start in range(7))
STARTS: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {
    (8, 0): _EACH,
    (8, 7): _EACH,
    (8, 9): ((0, 2), (2, 2), (4, 2), (6, 2)),
    (8, 1): ((0, 2), (2, 2), (4, 2)),
    (8, 2): ((0, 4), (4, 4)),
    (8, 3): ((0, 4),),
    (8, 4): ((0, 8),),
    (4, 0): tuple((start, 1) for start in range(4)),
    (4, 7): tuple((start, 1) for start in range(4)),
    (4, 1): ((0, 2), (2, 2)),
    (4, 8): ((0, 2), (2, 2)),
    (4, 3): ((0, 4),),
}
"""Placements as (start, size), by memory slices of the GPU and NVML_GPU_INSTANCE_PROFILE_*.

Source: NVIDIA's MIG User Guide; for drivers (535) that list none while MIG mode is off. The same for every model that
those drivers know: A100, H100 and H200 with eight slices, A30 with four. Of no use for a GPU that lists any itself.
"""


def canonical_name(name: bytes | str) -> str:
    """``1g.10gb+me`` of what NVML gives, ``MIG 1g.10gb+me``; empty where that is something else."""
    text = name.decode(errors="replace") if isinstance(name, bytes) else name
    match = _NAME.fullmatch(text.strip())
    return match[1] if match else ""


def compose_name(number: int, compute_slices: int, memory_mib: int, total_bytes: int | None) -> str:
    """A profile's name as NVIDIA's tools make it, for libraries that give none.

    The GPU's memory, in whole GiB, by the part of it that the profile takes, in eighths, rounded up.
    """
    if total_bytes:
        eighths = math.ceil((memory_mib << 20) / total_bytes * 8)
        gigabytes = math.floor(eighths / 8 * math.ceil(total_bytes / _GIB) + 0.5)
    else:
        gigabytes = math.ceil(memory_mib / 1024)
    return f"{compute_slices}g.{gigabytes}gb{_ATTRIBUTES.get(number, '')}"


def most_side_by_side(starts: Sequence[int], size: int) -> int:
    """How many instances of one profile fit beside each other."""
    count, free = 0, 0
    for start in sorted(starts):
        if start >= free:
            count, free = count + 1, start + size
    return count
