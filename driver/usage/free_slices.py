"""What is left of GPUs that are cut for claims, in compute slices: pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from driver.inventory import Partitioning

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from driver.hardware import Gpu
    from driver.inventory import Device
    from driver.usage.attribution import Holding


class Room(NamedTuple):
    """Compute slices of one GPU."""

    free: int
    """That no claim holds."""
    largest: int
    """Of the largest device that a claim could still get: fewer than are free where they do not lie together."""


def room(offered: Iterable[Device], held: Iterable[Holding]) -> Mapping[tuple[str, str], Room]:
    """By name and UUID of each GPU that is cut when a claim comes. What is not prepared yet is not known here."""
    cut: dict[Gpu, list[Device]] = defaultdict(list)
    for device in offered:
        if device.offered.partitioning is Partitioning.DYNAMIC and device.gpu.mig_profiles:
            cut[device.gpu].append(device)
    taken: dict[str, set[tuple[str, tuple[int, ...]]]] = defaultdict(set)  # each once, however many share it
    for holding in held:
        taken[holding.device.gpu_uuid].add((holding.profile, holding.device.slots))
    return {(gpu.name, gpu.uuid): _room(gpu, devices, taken[gpu.uuid]) for gpu, devices in cut.items()}


def _room(gpu: Gpu, devices: list[Device], taken: set[tuple[str, tuple[int, ...]]]) -> Room:
    compute = {profile.name: profile.compute_slices for profile in gpu.mig_profiles}
    everything = max(compute.values())
    slots = {slot for _, part in taken for slot in part}
    used = sum(compute.get(profile, everything) for profile, _ in taken)  # a whole GPU has no profile
    possible = (
        device.profile.compute_slices if device.profile else everything
        for device in devices
        if slots.isdisjoint(device.slots)
    )
    return Room(free=max(everything - used, 0), largest=max(possible, default=0))
