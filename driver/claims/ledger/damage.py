"""What a claim may still use whose record is damaged or gone: what its CDI spec names.

The spec is there as long as containers of the claim may start or run: prepare writes it after the record, unprepare
removes it before. Its devices' names give claim and device.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driver.base import files
from driver.cdi import ADMIN, cdi_device_name, qualified_name
from driver.claims.allocation import ClaimRef
from driver.claims.ledger.codec import decode_sharing
from driver.claims.ledger.device_sharing import DeviceSharing, Strategy
from driver.claims.ledger.record import Placement, PreparedDevice, Record, State
from driver.hardware import PIPES, ComputeMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from driver.cdi import SpecDirectory
    from driver.inventory import Device

UNKNOWN = "unknown"
"""Stands for namespace and name of a claim of which only the UID is known."""

_SHARE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecHolds:
    """CDI specs as what tells of claims whose records do not. Methods raise OSError."""

    specs: SpecDirectory
    devices: Callable[[], Mapping[str, Device]]
    """What the node has at the moment, by device name; empty as long as nobody knows."""
    driver: str
    pool: str
    boot_id: str

    def uids(self) -> set[str]:
        """UIDs of the claims that have a spec."""
        try:
            return self.specs.claim_uids()
        except FileNotFoundError:
            return set()

    def has(self, uid: str) -> bool:
        """Whether a claim has a spec."""
        return self.specs.exists(uid)

    def record(self, uid: str, *, damaged: str = "") -> Record | None:
        """A record that holds what the spec of a claim names; ``damaged`` is where the real one was set aside, if so.

        None where nothing can be told. No time says whether the spec is of this boot: clocks jump. Where the CDI root
        outlives a boot, so does the hold.
        """
        content = self.specs.read(uid)
        if content is None:
            return None
        return stand_in(
            uid,
            content,
            source=damaged or str(self.specs.path(uid)),
            devices=self.devices(),
            driver=self.driver,
            pool=self.pool,
            boot_id=self.boot_id,
        )


def stand_in(
    uid: str, spec: bytes, *, source: str, devices: Mapping[str, Device], driver: str, pool: str, boot_id: str
) -> Record | None:
    """A record that holds what a CDI spec names; None where that is nothing which the node has. Pure.

    It answers for no allocation. Its state says that hardware may have been changed, so that unprepare undoes that.
    ``source`` is the file that errors name, ``devices`` what the node has, by device name.
    """
    held = tuple(_device(uid, one, driver=driver, pool=pool) for one in _named(uid, spec, devices))
    if not held:
        return None
    return Record(
        claim=ClaimRef(UNKNOWN, UNKNOWN, uid),
        allocation="",
        boot_id=boot_id,
        driver=driver,
        state=State.PREPARING,
        devices=held,
        prepared_at="",
        salvaged_from=source,
    )


@dataclass(frozen=True, slots=True)
class _Named:
    """A device of a CDI spec."""

    known: Device
    share_id: str | None
    admin: bool
    sharing: DeviceSharing | None


def _named(uid: str, spec: bytes, devices: Mapping[str, Device]) -> Iterator[_Named]:
    """What the names that ``driver.cdi.spec.device_name`` makes stand for."""
    try:
        listed = files.parse(spec).get("devices")
    except ValueError:
        return
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


def _sharing(entry: Mapping[str, Any], *, shared: bool) -> DeviceSharing | None:
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
        sharing=one.sharing,
        offered=known.offered,
    )
