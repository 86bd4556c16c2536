"""From an allocation to a record: pure. Which GPU each result is, what the kubelet is told, who stands in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.cdi import spec
from driver.claims.errors import ClaimError, Reason
from driver.claims.record import PreparedDevice, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from driver.claims.allocation import Allocation, Result
    from driver.devices.model import Gpu


def plan(
    allocation: Allocation,
    *,
    gpus: Mapping[str, Gpu],
    pool: str,
    driver: str,
    boot_id: str,
    prepared_at: str,
) -> Record:
    """The record that a prepared claim will have. ``gpus`` is keyed by device name.

    Raises ClaimError for a device that this node does not have and for parameters that cannot be applied.
    """
    if allocation.configs:
        kinds = ", ".join(sorted({str(config.parameters.get("kind")) for config in allocation.configs}))
        raise ClaimError(
            Reason.CONFIG,
            f"claim {allocation.claim} carries parameters ({kinds}) for driver {driver}, which does not take any yet: "
            "remove them from the claim or its DeviceClass",
        )
    devices = tuple(
        _plan_device(result, allocation, gpus=gpus, pool=pool, driver=driver) for result in allocation.results
    )
    return Record(
        claim=allocation.claim,
        allocation=allocation.fingerprint,
        boot_id=boot_id,
        devices=devices,
        prepared_at=prepared_at,
    )


def check_overlap(record: Record, holders: Iterable[Record]) -> None:
    """Refuse a device that another claim holds, by physical GPU. Raises ClaimError with the holder's name.

    The scheduler can hand out a device twice after a forced deletion or a race; drivers have to refuse. A holder whose
    claim is gone still counts: its containers may run until the kubelet says unprepare.
    """
    wanted = {device.gpu_uuid: device for device in record.devices if not device.admin}
    for holder in holders:
        if holder.claim.uid == record.claim.uid:
            continue
        for held in holder.devices:
            device = wanted.get(held.gpu_uuid)
            if device is None or held.admin or not (device.exclusive or held.exclusive):
                continue
            raise ClaimError(
                Reason.IN_USE,
                f"device {device.device} is still held by claim {holder.claim} (UID {holder.claim.uid}), whose "
                f"containers may still use it; claim {record.claim} can have it once the kubelet unprepares that one",
            )


def _plan_device(
    result: Result, allocation: Allocation, *, gpus: Mapping[str, Gpu], pool: str, driver: str
) -> PreparedDevice:
    gpu = gpus.get(result.device)
    if gpu is None or result.pool != pool:
        known = ", ".join(gpus) or "none"
        raise ClaimError(
            Reason.UNKNOWN_DEVICE,
            f"claim {allocation.claim} is allocated device {result.device!r} of pool {result.pool!r}, which is not on "
            f"this node; pool {pool!r} has: {known}",
        )
    name = spec.device_name(allocation.claim.uid, result.device, result.share_id)
    return PreparedDevice(
        requests=(result.base_request,),
        pool=result.pool,
        device=result.device,
        cdi_ids=(spec.qualified(driver, name),),
        gpu_uuid=gpu.uuid,
        share_id=result.share_id,
        admin=result.admin,
    )
