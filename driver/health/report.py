"""A device's health as the kubelet takes it into the pod's status."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from driver.base.text import truncate_utf8
from driver.hardware import Cause
from driver.health import xids
from driver.health.conditions import concerning
from driver.health.xids import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from driver.hardware import Gpu
    from driver.health.conditions import Condition, Conditions

MAX_MESSAGE_BYTES = 1024
"""The kubelet cuts what is longer, in the middle of a character if need be."""


GONE = "the MIG device was destroyed, and not by this driver"


class Health(enum.IntEnum):
    """The numbers are those of HealthStatus on the wire."""

    UNKNOWN = 0
    HEALTHY = 1
    UNHEALTHY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceHealth:
    """Health of one device."""

    name: str
    status: Health
    message: str = ""


class OfferedDevice(Protocol):
    """What is to be known of a device that is offered."""

    @property
    def name(self) -> str:
        """As it is published."""
        ...

    @property
    def gpu(self) -> Gpu:
        """The GPU that it is, or is a part of."""
        ...

    @property
    def part(self) -> frozenset[int] | None:
        """The memory slices of a partition; None for a whole GPU."""
        ...

    @property
    def is_gone(self) -> bool:
        """Whether it stands for a MIG device that an administrator has destroyed while a claim holds it."""
        ...


def report_health(devices: Iterable[OfferedDevice], conditions: Conditions) -> tuple[DeviceHealth, ...]:
    """Health of every device that the node offers, for the stream to the kubelet.

    A partition is as its GPU is, but for faults that are confined to another one.
    """
    return tuple(_health(device, concerning(conditions.get(device.gpu.uuid, ()), device.part)) for device in devices)


def _health(device: OfferedDevice, conditions: tuple[Condition, ...]) -> DeviceHealth:
    found = device_health(device.name, conditions)
    if not device.is_gone:
        return found
    message = f"{GONE}; {found.message}" if found.message else GONE
    return DeviceHealth(
        name=device.name, status=Health.UNHEALTHY, message=truncate_utf8(message, MAX_MESSAGE_BYTES, ellipsis="...")
    )


def device_health(name: str, conditions: tuple[Condition, ...]) -> DeviceHealth:
    """Unhealthy from degraded on; unknown while nobody watches; faults of a program leave the GPU healthy."""
    ordered = sorted(conditions, key=lambda condition: (-condition.severity, condition.since))
    message = "; ".join(f"{describe(condition)} (since {condition.since_text})" for condition in ordered)
    if any(condition.severity > Severity.INFORMATION for condition in conditions):
        status = Health.UNHEALTHY
    elif any(condition.fault.cause is Cause.UNMONITORED for condition in conditions):
        status = Health.UNKNOWN
    else:
        status = Health.HEALTHY
    return DeviceHealth(name=name, status=status, message=truncate_utf8(message, MAX_MESSAGE_BYTES, ellipsis="..."))


def describe(condition: Condition) -> str:
    """A condition in a few words."""
    detail = condition.fault.detail
    match condition.fault.cause:
        case Cause.XID:
            meaning = xids.meaning(int(detail)) if detail.isdecimal() else ""
            return f"XID {detail}: {meaning}" if meaning else f"XID {detail}"
        case Cause.ECC:
            return f"uncorrectable memory error ({detail})" if detail else "uncorrectable memory error"
        case Cause.GPU_LOST:
            return "GPU is lost"
        case Cause.UNMONITORED:
            return f"not watched for errors: {detail}" if detail else "not watched for errors"
        case Cause.REPAIR:
            return f"the GPU asks for repair: {detail}"
        case Cause.INCOMPLETE:
            return "the GPU does not answer" if detail == "no-answer" else f"not all is known of the GPU: {detail}"
