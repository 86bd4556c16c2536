"""Where a profile has room on a node, and who stands in the way elsewhere: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from driver.claims.record import PreparedDevice, Record
    from driver.devices.catalogue import Device

WHOLE = "gpu"
"""What a whole GPU is called among the profiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One device of the profile, and what is in its way; nothing means that it is free."""

    device: Device
    blockers: tuple[str, ...] = ()


def profiles(devices: Iterable[Device]) -> tuple[str, ...]:
    """The profiles that are offered, in order of publication."""
    return tuple(dict.fromkeys(_name(device) for device in devices))


def explain(devices: Iterable[Device], profile: str, records: Iterable[Record]) -> tuple[Room, ...]:
    """Each device of a profile with the claims that are in its way; shares of one device are in nobody's way.

    Args:
        devices: what the node offers.
        profile: ``1g.10gb`` and the like, or ``gpu``.
        records: what is prepared. What the scheduler has allocated and nobody has prepared yet is not known here.
    """
    offered = tuple(devices)
    held = [(record, part) for record in records for part in record.devices if not part.admin]
    by_name = {device.name: device for device in offered}
    return tuple(
        Room(device=device, blockers=tuple(_blockers(device, held, by_name)))
        for device in offered
        if _name(device) == profile
    )


def _blockers(device: Device, held: list[tuple[Record, PreparedDevice]], by_name: dict[str, Device]) -> list[str]:
    found = []
    for record, part in held:
        if part.gpu_uuid != device.gpu.uuid:
            continue
        if part.device == device.name and part.share_id is not None and device.shares:
            continue
        who = f"claim {record.claim} holds {part.device}"
        if device.slots & set(part.slots):
            found.append(who)
        elif _media(device) and (other := by_name.get(part.device)) is not None and _media(other):
            found.append(f"{who} with the GPU's only media extensions")
    if device.partition is None:
        known = {(part.gpu_uuid, frozenset(part.slots)) for _, part in held}
        found += [
            f"{partition.profile} at memory slice {partition.start} ({partition.uuid or 'unfinished'}) is there, "
            "and no claim's record names it"
            for partition in device.gpu.partitions
            if partition.slots & device.slots and (partition.gpu_uuid, partition.slots) not in known
        ]
    return found


def _media(device: Device) -> bool:
    return device.profile is not None and device.profile.media_extensions


def _name(device: Device) -> str:
    return device.profile.name if device.profile else WHOLE
