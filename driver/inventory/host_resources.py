"""Host memory and CPU that a pod needs for its device (KEP-5517), under the names of the server's release. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.base.quantity import format_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.inventory.catalogue import Device

FIELD = "nodeAllocatableResources"
"""In a device, from Kubernetes 1.37 on: what each pod with it needs, as ``overhead``."""
FORMER_FIELD = "nodeAllocatableResourceMappings"
"""The same in Kubernetes 1.36, where it is counted for each device, and a claim with any is for one pod only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNeeds:
    """What a pod needs of its node for one device."""

    memory: int = 0
    """Bytes."""
    cpu: int = 0
    """Thousandths of a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostResources:
    """What a pod needs of its node, by the type of its device."""

    gpu: HostNeeds = HostNeeds()
    partition: HostNeeds = HostNeeds()
    share: HostNeeds = HostNeeds()
    """Of a GPU or of a partition that claims share."""


NONE = HostResources()


def host_resources(device: Device, wanted: HostResources) -> dict[str, Any]:
    """What is published of it in a device, in the form of FIELD; empty where nothing is needed."""
    needs = wanted.share if device.shares else wanted.gpu if device.profile is None else wanted.partition
    amounts = {
        "cpu": f"{needs.cpu}m" if needs.cpu % 1000 else format_quantity(needs.cpu // 1000),
        "memory": format_quantity(needs.memory),
    }
    return {name: {"overhead": {"perPod": amount}} for name, amount in amounts.items() if amount != "0"}


def have_any(slices: tuple[Mapping[str, Any], ...]) -> bool:
    """Whether any device says what a pod with it needs."""
    return any(FIELD in device for spec in slices for device in spec.get("devices") or ())


def as_served(spec: Mapping[str, Any], minor: int) -> Mapping[str, Any]:
    """A slice's spec as Kubernetes 1.``minor`` has it."""
    if minor >= 37 or not have_any((spec,)):
        return spec
    return {**spec, "devices": [_as_served(device, minor) for device in spec["devices"]]}


def _as_served(device: Mapping[str, Any], minor: int) -> dict[str, Any]:
    served = {key: value for key, value in device.items() if key != FIELD}
    if minor == 36 and (needs := device.get(FIELD)):
        served[FORMER_FIELD] = {
            name: {"allocationMultiplier": need["overhead"]["perPod"]} for name, need in needs.items()
        }
    return served
