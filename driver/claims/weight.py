"""Which part of a GPU a claim has by one of its devices: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.base.quantity import parse_quantity
from driver.inventory import ShareBy

if TYPE_CHECKING:
    from driver.claims.allocation import Result
    from driver.inventory import Device

DIGITS = 6


def weight(known: Device, result: Result) -> float:
    """From 0 to 1: a GPU is 1, a partition its compute slices of the GPU's, a share its part of what it is a share of.

    A share's part is the memory that it takes of what claims can take; of so many shares, one is its number's part. A
    share of any number of them that takes no memory counts as nothing, and so does admin access, which holds nothing.
    """
    if result.admin:
        return 0.0
    whole = 1.0
    if known.profile is not None:
        slices = max(
            (profile.compute_slices for profile in known.gpu.mig_profiles), default=known.profile.compute_slices
        )
        whole = known.profile.compute_slices / slices
    return round(whole if result.share_id is None else whole * _part(known, result), DIGITS)


def _part(known: Device, result: Result) -> float:
    consumed = dict(result.consumed)
    if known.shares.mode is ShareBy.COUNT:
        return min(float(parse_quantity(consumed.get("shares", "1"))) / (known.shares.count or 1), 1.0)
    memory = known.shares.memory(known.memory_bytes) if known.memory_bytes else 0
    return min(float(parse_quantity(consumed.get("memory", "0"))) / memory, 1.0) if memory else 0.0
