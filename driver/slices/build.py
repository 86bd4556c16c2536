"""From the inventory to the slices that we want to see in the API server. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from driver.health.taints import DEFAULT_EFFECTS, Effects, taints
from driver.text import cut

if TYPE_CHECKING:
    from driver.devices.model import Gpu, Inventory
    from driver.health.conditions import Conditions

MAX_DEVICES = 64
"""Devices per slice once any has a taint; kept always, so that a taint does not move devices between slices."""
MAX_STRING_BYTES = 64

_DEVICE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_BUS_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
_VERSION = re.compile(r"v?([0-9]{1,9})(?:\.([0-9]{1,9}))?(?:\.([0-9]{1,9}))?(?:[-+.~_ ].*)?")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = ("", "k", "M", "G", "T", "P", "E")

Slice = dict[str, Any]
"""A ResourceSlice's spec without driver, node and pool, which are for the publisher to add."""


def build_slices(
    inventory: Inventory, conditions: Conditions, *, driver_name: str, effects: Effects = DEFAULT_EFFECTS
) -> tuple[Slice, ...]:
    """The slices of the node's pool, in the order of their index.

    Devices are in order of preference, which is their PCI order; a node without GPUs has one slice without ``devices``,
    so that the scheduler sees a driver with nothing rather than no driver. A device whose name is not valid or is there
    already is left out: one bad device makes the scheduler ignore the whole pool.

    Args:
        inventory: the node's GPUs.
        conditions: what is wrong with them.
        driver_name: the domain of the taints' keys.
        effects: by which table conditions become taints.
    """
    devices: dict[str, dict[str, Any]] = {}
    for gpu in inventory.gpus:
        if _DEVICE_NAME.fullmatch(gpu.name) and gpu.name not in devices:
            device_taints = taints(conditions.get(gpu.uuid, ()), driver_name=driver_name, effects=effects)
            devices[gpu.name] = _device(inventory, gpu, device_taints)
    listed = list(devices.values())
    chunks = [listed[start : start + MAX_DEVICES] for start in range(0, len(listed), MAX_DEVICES)]
    return tuple({"devices": chunk} for chunk in chunks) or ({},)


def semver(text: str | None) -> str | None:
    """A version as the API accepts it, three numbers without leading zeros; None where the text begins otherwise.

    ``535.104.05`` becomes ``535.104.5``, ``12.4`` becomes ``12.4.0``; whatever follows the numbers is dropped, because
    semver would sort ``550.54.15-grid`` before ``550.54.15``.
    """
    match = _VERSION.fullmatch((text or "").strip())
    return ".".join(str(int(number or 0)) for number in match.groups()) if match else None


def quantity(number: int) -> str:
    """A whole number >= 0 as a Kubernetes quantity in its canonical form: what the server sends back is the same."""
    base, suffixes = (1024, _BINARY) if number % 1024 == 0 else (1000, _DECIMAL)
    power = 0
    while number and number % base == 0 and power < len(suffixes) - 1:
        number //= base
        power += 1
    return f"{number}{suffixes[power]}"


def _device(inventory: Inventory, gpu: Gpu, device_taints: list[dict[str, Any]]) -> dict[str, Any]:
    bus_id = gpu.pci_bus_id if gpu.pci_bus_id and _BUS_ID.fullmatch(gpu.pci_bus_id) else None
    attributes = {
        "type": _string("gpu"),
        "uuid": _string(gpu.uuid),
        "productName": _string(gpu.product_name),
        "brand": _string(gpu.brand),
        "architecture": _string(gpu.architecture),
        "cudaComputeCapability": _version(gpu.compute_capability),
        "driverVersion": _version(inventory.driver_version),
        "cudaDriverVersion": _version(inventory.cuda_version),
        "addressingMode": _string(gpu.addressing_mode),
        "index": {"int": gpu.index},
        "minor": {"int": gpu.minor},
        "resource.kubernetes.io/pciBusID": _string(bus_id),
        "resource.kubernetes.io/pcieRoot": _string(gpu.pcie_root),
        "resource.kubernetes.io/numaNode": None if gpu.numa_node is None else {"int": gpu.numa_node},
    }
    device: dict[str, Any] = {
        "name": gpu.name,
        "attributes": {name: value for name, value in attributes.items() if value is not None},
    }
    if gpu.memory_bytes is not None:
        device["capacity"] = {"memory": {"value": quantity(gpu.memory_bytes)}}
    if device_taints:
        device["taints"] = device_taints
    return device


def _string(text: str | None) -> dict[str, str] | None:
    return None if text is None else {"string": cut(text, MAX_STRING_BYTES)}


def _version(text: str | None) -> dict[str, str] | None:
    version = semver(text)
    return None if version is None else {"version": version}
