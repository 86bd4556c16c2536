"""What the record that a claim has already is good for, and what is taken over from it: pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from driver.claims.ledger.device_sharing import DeviceSharing, Strategy
from driver.claims.ledger.record import State, named
from driver.hardware import ComputeMode, TimeSlice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.claims.allocation import Allocation
    from driver.claims.ledger.record import Record
    from driver.inventory import Device


def answers(record: Record, allocation: Allocation, devices: Mapping[str, Device], *, boot_id: str) -> bool:
    """Whether a claim is prepared as it is allocated now, on ``devices`` as they are."""
    return _is_of(record, allocation, boot_id) and record.state is State.PREPARED and present(record, devices)


def begun(record: Record, allocation: Allocation, *, boot_id: str) -> bool:
    """Whether a former call has begun to prepare the claim as it is allocated now, so that what it left is taken up.

    A damaged record does not tell for which allocation it was: containers may be using what has the same names.
    """
    if record.state is not State.PREPARING or record.boot_id != boot_id:
        return False
    salvaged = bool(record.salvaged_from) and named(record.devices) == named(allocation.results)
    return salvaged or _is_of(record, allocation, boot_id)


def with_unknown(record: Record, known: Record, *, devices: bool) -> Record:
    """With what a newer version has written of the claim, and of its ``devices`` where they are the same."""
    record = replace(record, unknown=known.unknown)
    kept = {(device.device, device.share_id): device.unknown for device in known.devices if devices and device.unknown}
    if not kept:
        return record
    return replace(
        record,
        devices=tuple(
            replace(device, unknown=kept.get((device.device, device.share_id), {})) for device in record.devices
        ),
    )


def as_noted(record: Record, known: Record | None) -> Record:
    """With what a former try has noted of the time before it changed anything."""
    noted = {
        (device.device, device.share_id): device.sharing
        for device in (known.devices if known is not None else ())
        if device.sharing is not None
    }
    # Where the note was in a damaged record: what is there now was set for this claim, and is not what was before.
    guess = DeviceSharing(strategy=Strategy.MPS, mode_before=ComputeMode.DEFAULT, interval_before=TimeSlice.DEFAULT)
    default = guess if known is not None and known.salvaged_from else None
    if not noted and default is None:
        return record
    devices = []
    for device in record.devices:
        before = noted.get((device.device, device.share_id), default)
        if device.sharing is not None and before is not None:
            sharing = replace(device.sharing, mode_before=before.mode_before, interval_before=before.interval_before)
            device = replace(device, sharing=sharing)
        devices.append(device)
    return replace(record, devices=tuple(devices))


def present(record: Record, devices: Mapping[str, Device]) -> bool:
    """Whether the names of a record still stand for the same hardware."""
    return all(
        device.device in devices and devices[device.device].gpu.uuid == device.gpu_uuid for device in record.devices
    )


def _is_of(record: Record, allocation: Allocation, boot_id: str) -> bool:
    return record.allocation == allocation.fingerprint and record.boot_id == boot_id
