"""From the inventory to the slices that we want to see in the API server. Pure."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

from driver.base.quantity import format_quantity
from driver.health import DEFAULT_EFFECTS, Effect, Effects, concerning, device_taints
from driver.inventory import counters as mig
from driver.inventory.attributes import common_attributes, identity, list_attributes_of, nvlink_groups
from driver.inventory.catalogue import catalogue
from driver.inventory.host_resources import FIELD, NONE, HostResources, host_resources
from driver.inventory.options import Options, ShareBy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from driver.hardware import Gpu, Inventory, MigProfile
    from driver.health import Conditions
    from driver.inventory.catalogue import Device

MAX_DEVICES = 64
"""Devices per slice once any has a taint or counters; kept always, so that a taint does not move devices."""
FEW_DEVICES = 32
"""Devices of several GPUs that go into one slice: a taint on one GPU writes all of its slice again."""
MAX_COUNTER_SETS = 8
"""Counter sets per slice."""
MAX_NAME = 253
"""As long as an object's name may be."""

RESHAPE_PENDING = "reshape-pending"
"""Last part of the key of the taint on a GPU that keeps its former shape for claims that hold it."""
UNPREPARABLE = "unpreparable"
"""Last part of the key of the taint on devices that cannot be prepared as things are; its value says why."""
PARTITION_GONE = "partition-gone"
"""Last part of the key of the taint on a MIG device that was destroyed while a claim holds it."""

_MEMORY = "memory"
_CAPACITIES: Mapping[str, Callable[[MigProfile], int]] = {
    "multiprocessors": lambda profile: profile.multiprocessors,
    "copyEngines": lambda profile: profile.copy_engines,
    "decoders": lambda profile: profile.decoders,
    "encoders": lambda profile: profile.encoders,
    "jpegEngines": lambda profile: profile.jpeg_engines,
    "ofaEngines": lambda profile: profile.ofa_engines,
}
"""What a partition publishes beside its memory, under the names that NVIDIA's driver uses; also where it is nothing."""

Slice = dict[str, Any]
"""A ResourceSlice's spec without driver, node and pool, which are for the publisher to add."""


def build_slices(
    inventory: Inventory,
    conditions: Conditions,
    *,
    driver_name: str,
    devices: Sequence[Device] | None = None,
    effects: Effects = DEFAULT_EFFECTS,
    list_attributes: bool = False,
    host: HostResources = NONE,
    pending: Collection[str] = (),
    unpreparable: str = "",
) -> tuple[Slice, ...]:
    """The slices of the node's pool, in the order of their index.

    Counter sets come first, in slices of their own, because a slice has either those or devices. Devices follow in the
    order of the catalogue, a GPU's all in one slice as long as they fit into any, alone where they are many: so a
    GPU's taint changes one slice, and a small one.
    A node without devices has one slice without ``devices``, so that the scheduler sees a driver with nothing rather
    than no driver. Equal parts of devices are the same objects, which saves megabytes: change nothing in place.

    Args:
        inventory: the node's GPUs.
        conditions: what is wrong with them.
        driver_name: the domain of the taints' keys.
        devices: what is offered, from driver.inventory.catalogue; every GPU as a whole without it.
        effects: by which table conditions become taints.
        list_attributes: whether the cluster takes attributes that are lists.
        host: what a pod needs of its node for a device that it has.
        unpreparable: why none of them can be prepared at the moment, in one word; empty if they can.
        pending: UUIDs of GPUs that get another shape once nobody holds them: nothing new may start there.
    """
    offered = catalogue(inventory, Options()) if devices is None else devices
    common = {device.gpu.uuid: common_attributes(inventory, device.gpu) for device in offered}
    groups = nvlink_groups(inventory.gpus)
    by_gpu: dict[str, list[dict[str, Any]]] = {}
    counted: dict[str, Gpu] = {}
    for device in offered:
        own = {**identity(device, groups.get(device.gpu.uuid)), **common[device.gpu.uuid]}
        rendered = _device(inventory, device, own, list_attributes=list_attributes)
        known = concerning(conditions.get(device.gpu.uuid, ()), device.part)
        found = device_taints(known, driver_name=driver_name, effects=effects)
        if device.is_gone:
            found.append({"key": f"{driver_name}/{PARTITION_GONE}", "effect": str(Effect.NO_SCHEDULE)})
        if device.gpu.uuid in pending:  # without a time, so that the API server sets one and it stays
            found.append({"key": f"{driver_name}/{RESHAPE_PENDING}", "effect": str(Effect.NO_SCHEDULE)})
        if why := unpreparable or (device.defect.kind if device.defect else ""):
            found.append({"key": f"{driver_name}/{UNPREPARABLE}", "value": why, "effect": str(Effect.NO_SCHEDULE)})
        if found:
            rendered["taints"] = found
        if needs := host_resources(device, host):
            rendered[FIELD] = needs
        by_gpu.setdefault(device.gpu.uuid, []).append(rendered)
        if device.partitionable:
            counted[device.gpu.uuid] = device.gpu
    sets = [_counter_set(gpu) for gpu in counted.values()]
    counters = [{"sharedCounters": chunk} for chunk in _chunks(sets, MAX_COUNTER_SETS)]
    return (*counters, *({"devices": chunk} for chunk in _packed(by_gpu.values()))) or ({},)


def slice_name(index: int, *, driver_name: str, node_name: str) -> str:
    """The name of a pool's slice. The index is in front, because the scheduler looks in the order of names."""
    name = f"{index:05x}-{driver_name}-{node_name}"
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]  # nodes may differ in the end of their names only
    return f"{name[: MAX_NAME - 11].rstrip('-.')}-{digest}"


def capacity(device: Device) -> dict[str, dict[str, Any]]:
    """A device's capacities as they are published."""
    return _shared(device) if device.shares else _exclusive(device)


def _device(
    inventory: Inventory, device: Device, attributes: dict[str, dict[str, Any] | None], *, list_attributes: bool
) -> dict[str, Any]:
    gpu = device.gpu
    if list_attributes:
        attributes |= list_attributes_of(inventory, device)
    rendered: dict[str, Any] = {
        "name": device.name,
        "attributes": {name: value for name, value in attributes.items() if value is not None},
    }
    if published := capacity(device):
        rendered["capacity"] = published
    if device.shares:
        rendered["allowMultipleAllocations"] = True
    if device.partitionable:
        placed = device.profile is not None and device.start is not None
        used = mig.consumption(gpu, device.profile, device.start) if placed else mig.totals(gpu)  # type: ignore[arg-type]
        rendered["consumesCounters"] = [{"counterSet": _set_name(gpu), "counters": _counters(used)}]
    return rendered


def _amounts(device: Device) -> dict[str, int]:
    """Capacities but for the memory. Of a whole GPU NVIDIA publishes them only beside partitions; so do we."""
    profile = device.profile
    if profile is not None:
        amounts = {name: take(profile) for name, take in _CAPACITIES.items()}
        if device.partition is not None:
            amounts |= {f"memorySlice{number}": 1 for number in sorted(device.slots)}
        return amounts
    if not device.partitionable:
        return {}
    gpu = device.gpu
    amounts = {name: max(map(take, gpu.mig_profiles)) for name, take in _CAPACITIES.items()}
    return {**amounts, "multiprocessors": max(amounts["multiprocessors"], gpu.multiprocessors or 0)}


def _exclusive(device: Device) -> dict[str, dict[str, Any]]:
    capacity: dict[str, dict[str, Any]] = {name: _value(amount) for name, amount in _amounts(device).items()}
    if device.memory_bytes is not None:
        capacity[_MEMORY] = _value(device.memory_bytes)
    return capacity


def _shared(device: Device) -> dict[str, dict[str, Any]]:
    """Capacities that claims take parts of. One without a policy would go to the first claim altogether."""
    shares = device.shares
    capacity = {name: _on_demand(amount) for name, amount in _amounts(device).items()}
    if device.memory_bytes is not None:
        available, default = shares.memory(device.memory_bytes), shares.default_memory(device.memory_bytes)
        lowest = 0 if shares.mode is ShareBy.UNLIMITED else mig.MIB
        capacity[_MEMORY] = _divisible(available, default=default, lowest=lowest, step=mig.MIB)
    if shares.count is not None:
        capacity["shares"] = _divisible(shares.count, default=1, lowest=1)
    return capacity


@functools.lru_cache(maxsize=512)
def _on_demand(amount: int) -> dict[str, Any]:
    """A capacity of which a claim takes what it says, and nothing if it says nothing."""
    return {"value": format_quantity(amount), "requestPolicy": {"default": "0"}}


@functools.lru_cache(maxsize=512)
def _divisible(amount: int, *, default: int, lowest: int = 0, step: int = 1) -> dict[str, Any]:
    """A capacity with its policy; whole steps, because the server rounds parts of a unit up and divides by the step."""
    policy: dict[str, Any] = {"default": format_quantity(default)}
    if lowest + step > amount:  # no room for a step, so there is one value only
        policy["validValues"] = [format_quantity(default)]
    else:
        policy["validRange"] = {
            "min": format_quantity(lowest),
            "max": format_quantity(amount),
            "step": format_quantity(step),
        }
    return {"value": format_quantity(amount), "requestPolicy": policy}


def _counter_set(gpu: Gpu) -> dict[str, Any]:
    return {"name": _set_name(gpu), "counters": _counters(mig.totals(gpu))}


def _counters(amounts: Mapping[str, int]) -> dict[str, dict[str, str]]:
    return {name: _value(amount) for name, amount in amounts.items()}


@functools.lru_cache(maxsize=512)  # a node with partitions has thousands of them, nearly all alike
def _value(amount: int) -> dict[str, str]:
    return {"value": format_quantity(amount)}


def _set_name(gpu: Gpu) -> str:
    return gpu.name


def _packed(groups: Iterable[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """Slices' worth of devices; a group shares one with others only while that stays small, and is cut if it must."""
    current: list[dict[str, Any]] = []
    for group in groups:
        if current and len(current) + len(group) > FEW_DEVICES:
            yield current
            current = []
        current.extend(group)
        *full, current = _chunks(current, MAX_DEVICES)
        yield from full
    if current:
        yield current


def _chunks(items: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
