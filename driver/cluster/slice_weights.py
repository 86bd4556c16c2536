"""How much of a GPU a device is, and how much of it a claim has: pure, exact, from the slices alone.

A whole GPU weighs 1. A partition weighs its compute slices of its GPU's, so a 1g of an H100 is 1/7. A share weighs its
part of that: of as many as the device is cut for, or else of its memory. Admin access weighs nothing.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from driver.cluster.objects import Device, Result

_PROFILE = re.compile(r"([1-9][0-9]?)g\..+")
_USUAL = 7
_FEWER = {"A30": 4, "RTX PRO": 4}
"""Compute slices of the GPUs that have not seven, by a part of the product's name. Source: NVIDIA MIG User Guide."""
_WHOLE = Fraction(1)


def weights(devices: Iterable[Device]) -> dict[str, Fraction]:
    """What each device of a pool weighs, by name."""
    by_gpu: dict[str, list[Device]] = {}
    for device in devices:
        by_gpu.setdefault(device.gpu, []).append(device)
    found: dict[str, Fraction] = {}
    for siblings in by_gpu.values():
        total = compute_slices(siblings)
        found |= {device.name: weight(device, total) for device in siblings}
    return found


def weight(device: Device, total: int) -> Fraction:
    """What a device of a GPU with so many compute slices weighs, from 0 to 1."""
    return _part(device.shape.profile, total)


def compute_slices(devices: Iterable[Device]) -> int:
    """The compute slices of a GPU, given all its devices.

    Slices do not say it. Where a partition takes all memory slices of the whole, it is what that one has; otherwise
    what GPUs of this name have.
    """
    siblings = tuple(devices)
    whole = max((device.shape.slots for device in siblings if not device.shape.profile), key=len, default=())
    parts = [(device.shape.slots, _compute(device.shape.profile)) for device in siblings if device.shape.profile]
    if whole and (told := [compute for slots, compute in parts if slots == whole and compute]):
        return max(told)
    product = next((device.shape.product for device in siblings if device.shape.product), "")
    usual = next((number for name, number in _FEWER.items() if name in product.replace("-", " ")), _USUAL)
    return max([usual, *(compute for _, compute in parts)])


def held_weight(device: Device, result: Result, device_weight: Fraction) -> Fraction:
    """What a claim has of a device that weighs so much."""
    if result.admin:
        return Fraction(0)
    if not device.shape.shared:
        return device_weight
    consumed = dict(result.consumed)
    for name, total in (("shares", device.shape.shares), ("memory", device.shape.memory)):
        if total:
            return min(_WHOLE, Fraction(consumed.get(name, 0)) / total) * device_weight
    return Fraction(0)


@lru_cache(maxsize=1024)
def _part(profile: str, total: int) -> Fraction:
    compute = _compute(profile)
    return min(_WHOLE, Fraction(compute, total)) if compute else _WHOLE


@lru_cache(maxsize=1024)
def _compute(profile: str) -> int:
    """Compute slices by a profile's name; 0 for a whole GPU, and where nobody knows."""
    match = _PROFILE.fullmatch(profile)
    return int(match.group(1)) if match else 0
