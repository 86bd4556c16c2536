"""The attributes of a device, under the names that NVIDIA's driver and Kubernetes have for them. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from driver.base.text import truncate_utf8

if TYPE_CHECKING:
    from collections.abc import Iterable

    from driver.hardware import Gpu, Inventory
    from driver.inventory.catalogue import Device

MAX_STRING_BYTES = 64
MAX_PEERS, MAX_NODES = 24, 8
"""A device has at most 48 attribute values, those in lists counted one by one."""

_BUS_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
_VERSION = re.compile(r"v?([0-9]{1,9})(?:\.([0-9]{1,9}))?(?:\.([0-9]{1,9}))?(?:[-+.~_ ].*)?")


def identity(device: Device, nvlink_group: int | None = None) -> dict[str, dict[str, Any] | None]:
    """What tells a device from others; without a value where it has none."""
    if device.profile is None:
        # Numbers and NVLink are the whole GPU's: of partitions there are hundreds, and each attribute costs in each.
        gpu = device.gpu
        return {
            "type": _string("gpu"),
            "uuid": _uuid(gpu),
            "index": {"int": gpu.index} if gpu.index >= 0 else None,
            "minor": None if gpu.minor is None else {"int": gpu.minor},
            "fabricClique": _string(gpu.fabric_clique),
            "nvlinkGroup": None if nvlink_group is None else {"int": nvlink_group},
        }
    return {
        "type": _string("mig"),
        # A partition that prepare makes has no UUID yet.
        "uuid": _string(device.partition.uuid if device.partition else None),
        "parentUUID": _uuid(device.gpu),
        "profile": _string(device.profile.name),
    }


def common_attributes(inventory: Inventory, gpu: Gpu) -> dict[str, dict[str, Any] | None]:
    """What a GPU and all of its parts have in common."""
    bus_id = gpu.pci_bus_id if gpu.pci_bus_id and _BUS_ID.fullmatch(gpu.pci_bus_id) else None
    return {
        "productName": _string(gpu.product_name or None),
        "brand": _string(gpu.brand),
        "architecture": _string(gpu.architecture),
        "cudaComputeCapability": _version(gpu.compute_capability),
        "driverVersion": _version(inventory.driver_version),
        "cudaDriverVersion": _version(inventory.cuda_version),
        "addressingMode": _string(gpu.addressing_mode),
        "resource.kubernetes.io/pciBusID": _string(bus_id),
        "resource.kubernetes.io/pcieRoot": _string(gpu.pcie_root),
        "resource.kubernetes.io/numaNode": None if gpu.numa_node is None else {"int": gpu.numa_node},
    }


def list_attributes_of(inventory: Inventory, device: Device) -> dict[str, dict[str, Any]]:
    """The list forms; a partition has no NVLink, and an empty list is not allowed."""
    gpu = device.gpu
    found: dict[str, dict[str, Any]] = {}
    if gpu.pcie_root is not None:
        found["resource.kubernetes.io/pcieRoot"] = {"strings": [truncate_utf8(gpu.pcie_root, MAX_STRING_BYTES)]}
    if gpu.numa_node is not None:
        found["resource.kubernetes.io/numaNode"] = {"ints": [gpu.numa_node, *gpu.near_nodes][:MAX_NODES]}
    peers = [other.name for other in inventory.gpus if other.uuid in gpu.nvlink_peers]
    if peers and device.profile is None:
        found["nvlinkPeers"] = {"strings": peers[:MAX_PEERS]}
    return found


def nvlink_groups(gpus: Iterable[Gpu]) -> dict[str, int]:
    """By UUID, a number that only GPUs share which all reach each other over NVLink; none for a GPU without company.

    Where not all reach each other (bridges, a mesh), a GPU belongs to the first group of which it reaches all.
    """
    groups: list[list[Gpu]] = []
    for gpu in gpus:
        for group in groups:
            if all(gpu.uuid in other.nvlink_peers and other.uuid in gpu.nvlink_peers for other in group):
                group.append(gpu)
                break
        else:
            groups.append([gpu])
    company = (group for group in groups if len(group) > 1)
    return {gpu.uuid: number for number, group in enumerate(company) for gpu in group}


def semver(text: str | None) -> str | None:
    """A version as the API accepts it, three numbers without leading zeros; None where the text begins otherwise.

    ``535.104.05`` becomes ``535.104.5``, ``12.4`` becomes ``12.4.0``; whatever follows the numbers is dropped, because
    semver would sort ``550.54.15-grid`` before ``550.54.15``.
    """
    match = _VERSION.fullmatch((text or "").strip())
    return ".".join(str(int(number or 0)) for number in match.groups()) if match else None


def _string(text: str | None) -> dict[str, str] | None:
    return None if text is None else {"string": truncate_utf8(text, MAX_STRING_BYTES)}


def _uuid(gpu: Gpu) -> dict[str, str] | None:
    return _string(gpu.uuid) if gpu.has_uuid else None


def _version(text: str | None) -> dict[str, str] | None:
    version = semver(text)
    return None if version is None else {"version": version}
