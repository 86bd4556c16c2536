"""What a node offers, as devices: pure. Publishing, prepare and the tools all read from here.

The scheduler takes the first device that satisfies a request, in the order of publication. That order is, by GPU:

* the whole GPU first: who asks for a device without a word about partitions gets a whole one, never a sliver;
* then partitions from small to big, so that "at least 10 GiB" is answered with the smallest that does;
  those with media extensions come after the plain ones, because there is one set of these engines to a GPU;
* placements of one profile from the highest slice down: the biggest profiles start at slice 0, some of them only there,
  so what is small fills the far end first.

GPUs stay in the order of the inventory and each one's devices together: requests for small partitions fill one GPU
before they touch the next, and a taint on a GPU changes one slice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from driver.devices.model import MigMode, partition_device_name
from driver.devices.options import EXCLUSIVE, DeviceOptions, Partitioning, Shares

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from driver.devices.model import Gpu, Inventory, MigProfile, Partition
    from driver.devices.options import Options

_DEVICE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device as published: a whole GPU, a placement of a profile, or a partition that exists."""

    name: str
    gpu: Gpu
    profile: MigProfile | None = None
    """None for a whole GPU."""
    start: int | None = None
    """The placement's first memory slice; None for a whole GPU."""
    partition: Partition | None = None
    """The MIG device behind a static device; None where prepare makes one, and for a whole GPU."""
    partitionable: bool = False
    """Whether the scheduler counts this device's parts against those of the GPU's other devices."""
    shares: Shares = EXCLUSIVE

    @property
    def type(self) -> str:
        """``gpu`` or ``mig``."""
        return "gpu" if self.profile is None else "mig"

    @property
    def memory_bytes(self) -> int | None:
        """The memory that the device really has, before any reserve."""
        return self.gpu.memory_bytes if self.profile is None else self.profile.memory_mib << 20

    @property
    def slots(self) -> frozenset[int]:
        """The memory slices that it occupies: two devices of a GPU that share none can be used side by side.

        A whole GPU has all of them; one without MIG is a single slice, 0.
        """
        if self.profile is None or self.start is None:
            return frozenset(range(self.gpu.memory_slices or 1))
        return frozenset(range(self.start, self.start + self.profile.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What is offered, and what could not be."""

    devices: tuple[Device, ...]
    """In order of publication; each GPU's devices together."""
    problems: Mapping[str, str]
    """By GPU UUID: why nothing, or less than was asked for, is offered of it. For a condition and a log line."""

    def by_name(self) -> dict[str, Device]:
        """Devices keyed by name."""
        return {device.name: device for device in self.devices}


def catalogue(inventory: Inventory, options: Options) -> tuple[Device, ...]:
    """The node's devices in order of publication; see the module for the order."""
    return survey(inventory, options).devices


def survey(inventory: Inventory, options: Options) -> Catalogue:
    """The node's devices, and what stands in the way of more.

    A device whose name is not valid or taken is left out: one bad device makes the scheduler ignore the whole pool.
    """
    devices: dict[str, Device] = {}
    problems: dict[str, str] = {}
    for gpu in inventory.gpus:
        for found in _of(gpu, options_for(gpu, options), options.withheld.get(gpu.uuid, frozenset())):
            if isinstance(found, str):
                problems[gpu.uuid] = found
                continue
            if why := found.shares.why_not(found.memory_bytes):
                problems[gpu.uuid] = f"{found.name} goes to one claim at a time: {why}"
                found = replace(found, shares=EXCLUSIVE)
            if not _DEVICE_NAME.fullmatch(found.name):
                problems[gpu.uuid] = f"{found.name!r} is no name for a device: a DNS label is expected"
            elif found.name in devices:
                problems[gpu.uuid] = f"the name {found.name} belongs to another device already"
            else:
                devices[found.name] = found
    return Catalogue(devices=tuple(devices.values()), problems=problems)


def options_for(gpu: Gpu, options: Options) -> DeviceOptions:
    """How one GPU is to be offered, all overrides applied."""
    partitioning, shares = options.default.partitioning, options.default.shares
    mode, count, reserve = shares.mode, shares.count, shares.memory_reserve
    for override in options.overrides:
        wanted = (override.name, override.uuid, override.product)
        if any(w not in (None, is_) for w, is_ in zip(wanted, (gpu.name, gpu.uuid, gpu.product_name), strict=True)):
            continue
        partitioning = override.partitioning or partitioning
        mode, count = override.shares or (mode, count)
        reserve = reserve if override.memory_reserve is None else override.memory_reserve
    return DeviceOptions(partitioning=partitioning, shares=Shares(mode=mode, count=count, memory_reserve=reserve))


def foreign_slots(inventory: Inventory, ours: Collection[tuple[str, str, int]]) -> dict[str, frozenset[int]]:
    """Memory slices by GPU UUID that partitions occupy which are not ours, given as GPU, profile and memory slice."""
    return {
        gpu.uuid: frozenset().union(*(partition.slots for partition in found))
        for gpu in inventory.gpus
        if (found := [p for p in gpu.partitions if (p.gpu_uuid, p.profile, p.start) not in ours])
    }


def placements(gpu: Gpu) -> Iterator[tuple[MigProfile, int]]:
    """Every placement of every profile, in order of preference; see the module."""
    profiles = sorted(gpu.mig_profiles, key=lambda p: (p.size, p.compute_slices, p.media_extensions, p.name))
    for profile in profiles:
        for start in sorted(profile.starts, reverse=True):
            yield profile, start


def _of(gpu: Gpu, options: DeviceOptions, withheld: frozenset[int]) -> Iterator[Device | str]:
    match options.partitioning:
        case Partitioning.STATIC if gpu.mig_mode is MigMode.ENABLED:
            yield from _static(gpu, options.shares)
        case Partitioning.DYNAMIC if gpu.mig_profiles and gpu.mig_mode is not MigMode.UNSUPPORTED:
            yield from _dynamic(gpu, options.shares, withheld)
        case Partitioning.NONE if gpu.mig_mode is MigMode.ENABLED:
            yield "MIG mode is on, so it cannot be used as a whole: switch it off, or set partitioning other than none"
        case _:
            yield Device(name=gpu.name, gpu=gpu, shares=options.shares)


def _static(gpu: Gpu, shares: Shares) -> Iterator[Device | str]:
    if not gpu.partitions:
        yield "MIG mode is on but there are no MIG devices, so none of it can be used: create some, or switch MIG off"
    for partition in sorted(gpu.partitions, key=lambda p: (p.size, p.profile, -p.start)):
        profile = gpu.profile(partition.profile)
        if not partition.uuid:
            yield f"a GPU instance of {partition.profile} at {partition.start} has no compute instance"
            continue
        if profile is None:
            yield f"MIG device {partition.uuid} has the profile {partition.profile}, which the GPU does not list"
            continue
        name = partition_device_name(gpu.name, profile.name, profile.profile_id, partition.start)
        yield Device(name=name, gpu=gpu, profile=profile, start=partition.start, partition=partition, shares=shares)


def _dynamic(gpu: Gpu, shares: Shares, withheld: frozenset[int]) -> Iterator[Device | str]:
    if gpu.mig_mode is MigMode.DISABLED and not gpu.mig_switchable:
        yield "MIG mode is off and cannot be switched on without a reset, so it is offered as a whole only"
        yield Device(name=gpu.name, gpu=gpu, shares=shares)
        return
    if withheld:
        slots = ", ".join(map(str, sorted(withheld)))
        yield f"MIG devices that the driver did not make occupy memory slices {slots}; what touches them is not offered"
    elif gpu.mig_switchable:  # otherwise MIG mode stays on, and the whole cannot be used
        yield Device(name=gpu.name, gpu=gpu, partitionable=True, shares=shares)
    for profile, start in placements(gpu):
        name = partition_device_name(gpu.name, profile.name, profile.profile_id, start)
        device = Device(name=name, gpu=gpu, profile=profile, start=start, partitionable=True, shares=shares)
        if not device.slots & withheld:
            yield device
