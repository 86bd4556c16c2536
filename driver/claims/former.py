"""What is taken over from the record that a claim had before: pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from driver.claims.sharing import DeviceSharing, Strategy
from driver.hardware import ComputeMode, TimeSlice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.claims.ledger.record import Record
    from driver.inventory import Device


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
