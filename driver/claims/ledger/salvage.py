"""What a damaged record still tells of what may be in use: pure.

The CDI spec of the claim is there as long as its containers may start or run: prepare writes it, unprepare removes it
first. Its devices' names give claim and device; what can be read of the damaged record adds to that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driver.base import files
from driver.cdi import ADMIN, cdi_device_name, qualified_name
from driver.claims.allocation import ClaimRef, check_ref
from driver.claims.errors import ClaimError
from driver.claims.ledger.record import Placement, PreparedDevice, Record, State, decode_device
from driver.claims.sharing import Sharing, Strategy, decode_sharing
from driver.hardware import PIPES, ComputeMode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from driver.inventory import Device

UNKNOWN = "unknown"
"""Stands for namespace and name of a claim of which only the UID is known."""

_SHARE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def salvage(
    uid: str,
    damaged: bytes,
    spec_content: bytes,
    *,
    path: str,
    devices: Mapping[str, Device],
    driver: str,
    pool: str,
    boot_id: str,
) -> Record | None:
    """A record that holds what may still be in use; None where nothing can be told, or the node has rebooted since.

    It answers for no allocation. Its state says that hardware may have been changed, so that unprepare undoes that.

    Args:
        uid: the claim's.
        damaged: the record's content.
        spec_content: the CDI spec of the claim.
        path: where the damaged record is, for error messages.
        devices: what the node has, by device name.
        driver: the driver's name.
        pool: the node's pool.
        boot_id: the present boot.
    """
    told = _object(damaged)
    if told.get("bootID", boot_id) != boot_id:
        return None
    readable = {device.cdi_ids: device for device in _readable(told)}
    found = (
        replace(_device(uid, one, driver=driver, pool=pool), sharing=one.sharing)
        for one in _named(uid, _object(spec_content), devices)
    )
    held = [readable.get(device.cdi_ids, device) for device in found]
    if not held:
        return None
    return Record(
        claim=_claim(told, uid),
        allocation="",
        boot_id=boot_id,
        driver=driver,
        state=State.PREPARING,
        devices=tuple(held),
        prepared_at="",
        salvaged_from=path,
    )


def gpus_of(uid: str, spec_content: bytes, devices: Mapping[str, Device]) -> frozenset[str]:
    """UUIDs of the GPUs that the CDI spec of a claim gives to containers, of those that the node has."""
    return frozenset(one.known.gpu.uuid for one in _named(uid, _object(spec_content), devices))


def _object(content: bytes) -> dict[str, Any]:
    try:
        return files.parse(content)
    except ValueError:
        return {}


def _readable(told: Mapping[str, Any]) -> Iterator[PreparedDevice]:
    listed = told.get("devices")
    for raw in listed if isinstance(listed, list) else ():
        try:
            yield decode_device(raw)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


@dataclass(frozen=True, slots=True)
class _Named:
    """A device of a CDI spec."""

    known: Device
    share_id: str | None
    admin: bool
    sharing: Sharing | None


def _named(uid: str, spec_object: Mapping[str, Any], devices: Mapping[str, Device]) -> Iterator[_Named]:
    """What the names that ``driver.cdi.spec.device_name`` makes stand for."""
    listed = spec_object.get("devices")
    for entry in listed if isinstance(listed, list) else ():
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.startswith(f"{uid}-"):
            continue
        rest = name.removeprefix(f"{uid}-")
        admin = rest.endswith(ADMIN)
        rest = rest.removesuffix(ADMIN)
        if rest in devices:
            yield _Named(devices[rest], None, admin, _sharing(entry, shared=False))
        elif _SHARE.fullmatch(rest[-36:]) and rest[:-37] in devices:
            yield _Named(devices[rest[:-37]], rest[-36:], admin, _sharing(entry, shared=True))


def _sharing(entry: Mapping[str, Any], *, shared: bool) -> Sharing | None:
    """The MPS daemon that a device's containers are led to; a time slice leaves no trace there."""
    try:
        mounts = entry["containerEdits"]["mounts"]
        daemons = [Path(mount["hostPath"]).parent.name for mount in mounts if mount["containerPath"] == PIPES]
        return decode_sharing(
            {"strategy": Strategy.MPS, "daemon": daemons[0], "multiUser": shared, "modeBefore": ComputeMode.DEFAULT}
        )
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _device(uid: str, one: _Named, *, driver: str, pool: str) -> PreparedDevice:
    known = one.known
    placement = partition = None
    if known.profile is not None and known.start is not None:
        partition = known.partition
        if partition is None:
            placement = Placement(profile=known.profile.name, start=known.start)
            there = (p for p in known.gpu.partitions if (p.profile, p.start) == (placement.profile, placement.start))
            partition = next(there, None)
    return PreparedDevice(
        requests=(),
        pool=pool,
        device=known.name,
        cdi_ids=(qualified_name(driver, cdi_device_name(uid, known.name, one.share_id, admin=one.admin)),),
        gpu_uuid=known.gpu.uuid,
        slots=tuple(sorted(known.slots)),
        whole=known.profile is None,
        share_id=one.share_id,
        admin=one.admin,
        placement=placement,
        partition=partition,
        offered=known.offered,
    )


def _claim(told: Mapping[str, Any], uid: str) -> ClaimRef:
    claim = told.get("claim")
    try:
        return check_ref(claim["namespace"], claim["name"], uid)  # type: ignore[index]
    except (ClaimError, KeyError, TypeError):
        return ClaimRef(UNKNOWN, UNKNOWN, uid)
