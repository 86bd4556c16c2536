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
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from driver.hardware import Defect, MigMode, partition_device_name
from driver.inventory.options import AS_A_WHOLE, EXCLUSIVE, DeviceOptions, Partitioning, Shares

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from driver.hardware import Gpu, Inventory, MigProfile, Partition
    from driver.inventory.options import Options, Override

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
    offered: DeviceOptions = AS_A_WHOLE
    """The settings by which the GPU is offered in this shape."""

    @property
    def type(self) -> str:
        """``gpu`` or ``mig``."""
        return "gpu" if self.profile is None else "mig"

    @property
    def memory_bytes(self) -> int | None:
        """The memory that the device really has, before any reserve."""
        return self.gpu.memory_bytes if self.profile is None else self.profile.memory_mib << 20

    @property
    def is_gone(self) -> bool:
        """Whether it stands for a MIG device that an administrator has destroyed while a claim holds it."""
        return self.profile is not None and self.partition is None and self.offered.partitioning is Partitioning.STATIC

    @property
    def defect(self) -> Defect | None:
        """Why it cannot be prepared as the node is now; None if nothing is known against it."""
        if self.gpu.minor is None:
            why = "its driver does not tell its device file, so no container can be given it: see what nvidia-smi says"
            return Defect(kind="no-device-file", why=why, blocks=True)
        if self.profile is not None and self.gpu.partitions_sealed:
            return Defect(kind="no-partition-files", why=self.gpu.partitions_sealed, blocks=True)
        return None

    @property
    def slots(self) -> frozenset[int]:
        """The memory slices that it occupies: two devices of a GPU that share none can be used side by side.

        A whole GPU has all of them; one without MIG is a single slice, 0.
        """
        if self.profile is None or self.start is None:
            return frozenset(range(self.gpu.memory_slices or 1))
        return frozenset(range(self.start, self.start + self.profile.size))

    @property
    def part(self) -> frozenset[int] | None:
        """The memory slices of a partition; None for a whole GPU."""
        return None if self.profile is None else self.slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A device that a claim holds, and the settings by which it was offered then; None where nobody knows."""

    device: str
    offered: DeviceOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What is offered, and what could not be."""

    devices: tuple[Device, ...]
    """In order of publication; each GPU's devices together."""
    problems: Mapping[str, str]
    """By GPU UUID, or by the setting that is wrong: why nothing, or less than was asked for, is offered of it."""
    pending: Mapping[str, str] = field(default_factory=dict)
    """By GPU UUID: who keeps it in its former shape. Nothing new may start there until they have let go."""
    former: tuple[Device, ...] = ()
    """Devices that are not offered, but could be with other settings: claims that were allocated just before a change
    of settings name them."""

    def by_name(self) -> dict[str, Device]:
        """What claims may name: the devices that are offered, then those that may have been."""
        return {device.name: device for device in (*self.devices, *self.former)}


def catalogue(inventory: Inventory, options: Options) -> tuple[Device, ...]:
    """The node's devices in order of publication; see the module for the order."""
    return survey(inventory, options).devices


def survey(
    inventory: Inventory, options: Options, held: Mapping[str, Collection[Hold]] = MappingProxyType({})
) -> Catalogue:
    """The node's devices, and what stands in the way of more. ``held``, by GPU UUID, is what claims have at the moment.

    A device that a claim holds is never removed or reshaped, or the scheduler would give away what it stands for: as
    long as other settings would do that, its GPU is offered as it was. A device whose name is not valid or taken is
    left out: one bad device makes the scheduler ignore the whole pool.
    """
    devices: dict[str, Device] = {}
    former: dict[str, Device] = {}
    problems: dict[str, str] = _matchless(inventory, options)
    pending: dict[str, str] = {}
    for gpu in inventory.gpus:
        withheld = options.withheld.get(gpu.uuid, frozenset())
        wanted = options_for(gpu, options)
        shapes, trouble = _shapes(gpu, wanted, withheld)
        if holds := held.get(gpu.uuid, ()):
            kept = _kept(gpu, holds, wanted, shapes, withheld)
            if kept is not None:
                names = ", ".join(sorted({hold.device for hold in holds}))
                pending[gpu.uuid] = f"it keeps its former shape until the claims that hold {names} have ended"
                shapes, trouble = kept, ""
        for found in shapes:
            if not _DEVICE_NAME.fullmatch(found.name):
                trouble = trouble or f"{found.name!r} is no name for a device: a DNS label is expected"
            elif found.name in devices:
                trouble = trouble or f"the name {found.name} belongs to another device already"
            else:
                devices[found.name] = found
        defects = (found.defect for found in shapes)
        trouble = trouble or next((defect.why for defect in defects if defect is not None), "")
        if trouble:
            problems[gpu.uuid] = trouble
        for partitioning in (Partitioning.DYNAMIC, Partitioning.STATIC, Partitioning.NONE):
            for found in _shapes(gpu, replace(wanted, partitioning=partitioning), withheld)[0]:
                former.setdefault(found.name, found)
    return Catalogue(
        devices=tuple(devices.values()),
        problems=problems,
        pending=pending,
        former=tuple(device for name, device in former.items() if name not in devices),
    )


def options_for(gpu: Gpu, options: Options) -> DeviceOptions:
    """How one GPU is to be offered, all overrides applied."""
    partitioning, shares = options.default.partitioning, options.default.shares
    mode, count, reserve = shares.mode, shares.count, shares.memory_reserve
    for override in options.overrides:
        if not _is_about(override, gpu):
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


def _shapes(gpu: Gpu, options: DeviceOptions, withheld: frozenset[int]) -> tuple[list[Device], str]:
    """A GPU's devices under some settings, and the first thing that is wrong with them."""
    devices, trouble = [], ""
    for found in _of(gpu, options, withheld):
        if isinstance(found, str):
            trouble = trouble or found
            continue
        if why := found.shares.why_not(found.memory_bytes):
            trouble = trouble or f"{found.name} goes to one claim at a time: {why}"
            found = replace(found, shares=EXCLUSIVE)
        devices.append(replace(found, offered=options))
    return devices, trouble


def _kept(
    gpu: Gpu, holds: Collection[Hold], wanted: DeviceOptions, shapes: Sequence[Device], withheld: frozenset[int]
) -> list[Device] | None:
    """The former shape of a GPU with all devices that are held; None where the new shape has them unchanged."""
    new = {device.name: device for device in shapes}
    moved: dict[str, Device] = {}
    for hold in holds:
        now = new.get(hold.device)
        if now is not None and hold.offered in (None, wanted):
            continue
        was = _former_shape(gpu, hold, wanted, withheld)
        if was is not None and (now is None or _shape(now) != _shape(was)):
            moved[hold.device] = was
    if not moved:
        return None
    # Partitions and their whole go together by counters, so of several former settings the one with counters counts.
    first = max(moved.values(), key=lambda device: (device.partitionable, device.name))
    former = {device.name: device for device in _shapes(gpu, first.offered, withheld)[0]}
    return list({**former, **moved}.values())


def _former_shape(gpu: Gpu, hold: Hold, wanted: DeviceOptions, withheld: frozenset[int]) -> Device | None:
    others = (Partitioning.DYNAMIC, Partitioning.STATIC, Partitioning.NONE)
    known = (hold.offered,) if hold.offered is not None else ()
    for options in (*known, *(replace(hold.offered or wanted, partitioning=mode) for mode in others)):
        # Where others have come in between, what is held is there all the same.
        for apart in (withheld, frozenset[int]()):
            for device in _shapes(gpu, options, apart)[0]:
                if device.name != hold.device:
                    continue
                offered = hold.offered
                if offered is not None and offered.partitioning is Partitioning.STATIC and device.partitionable:
                    # An administrator has destroyed the MIG device that a claim holds: it stays, and nothing besides.
                    return replace(device, partitionable=False, offered=offered)
                return device
    return None


def _shape(device: Device) -> tuple[object, ...]:
    """What the scheduler counts by."""
    return device.partitionable, device.shares, device.profile, device.start, device.partition is None


def _matchless(inventory: Inventory, options: Options) -> dict[str, str]:
    """Overrides that are about no GPU of this node."""
    found = {}
    for number, override in enumerate(options.overrides):
        if not any(_is_about(override, gpu) for gpu in inventory.gpus):
            wanted = {"name": override.name, "uuid": override.uuid, "product": override.product}
            match = ", ".join(f"{key} {value!r}" for key, value in wanted.items() if value is not None)
            names = ", ".join(f"{gpu.name} ({gpu.uuid}, {gpu.product_name})" for gpu in inventory.gpus[:16])
            found[f"gpus[{number}]"] = f"no GPU of this node matches {match}; there are: {names or 'none'}"
    return found


def _is_about(override: Override, gpu: Gpu) -> bool:
    wanted = (override.name, override.uuid, override.product)
    return all(w in (None, is_) for w, is_ in zip(wanted, (gpu.name, gpu.uuid, gpu.product_name), strict=True))


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
