"""Specs of prepared claims, brought to what the hardware is now: a record says which devices, never by which numbers.

Minors, majors and the numbers of partitions are others after the kernel driver was loaded anew. A container that runs
keeps what it has; one that restarts gets what its claim's spec says then.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from driver.base.repeat_filter import RepeatFilter
from driver.base.threads import in_daemon_thread
from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.record import State
from driver.hardware import BackendError, OutdatedError, partitioner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.claims.common import Common
    from driver.claims.ledger.record import PreparedDevice, Record
    from driver.hardware import Backend, Partition
    from driver.inventory import Device

logger = logging.getLogger(__name__)


class Renewed(NamedTuple):
    """A record with the numbers of now, and whether its spec was written."""

    record: Record
    written: bool


class Renewal:
    """Goes through all prepared claims; call ``run`` whenever the hardware was read again."""

    def __init__(self, common: Common) -> None:
        self._records = common.records
        self._specs = common.specs
        self._locks = common.locks
        self._devices = common.devices
        self._repeats = RepeatFilter()
        self._edits: Mapping[object, object] | None = None
        self.failed: set[str] = set()
        """UIDs of claims whose specs are not what they should be."""

    async def run(self) -> list[Record]:
        """Write specs that are missing or out of date; withdraw those of what is gone.

        A kubelet does not ask again for a claim that it knows as prepared, while a container that restarts needs the
        spec. Gives the claims whose specs were written; ``failed`` has those that are to be looked at again.
        """
        backend, devices = await self._devices.known()
        written = []
        concerned = self._concerned(backend, devices)
        for record in self._records:
            if record.boot_id != self._records.boot_id or record.state is not State.PREPARED or not concerned(record):
                continue
            uid = record.claim.uid
            self.failed.discard(uid)
            with self._locks.of(uid) as claim:
                async with claim.lock:
                    try:
                        renewed = await self.renew(record, backend, devices)
                    except ClaimError as error:
                        self.failed.add(uid)
                        if self._repeats.is_news(uid, str(error)):
                            logger.error("the CDI spec of claim %s is not renewed: %s", record.claim, error)
                        continue
            self._repeats.over(uid)
            if renewed is not None and renewed.written:
                written.append(renewed.record)
        self.failed.intersection_update(record.claim.uid for record in self._records)
        return written

    def _concerned(self, backend: Backend, devices: Mapping[str, Device]) -> Callable[[Record], bool]:
        """Which claims a new look at the hardware is about: all, if what containers get of any device has changed."""
        before, self._edits = self._edits, _edits(backend, devices)
        now, there = self._edits, _partitions(devices)
        if before is None or any(now[key] != before[key] for key in now.keys() & before.keys()):
            return lambda _record: True

        def concerned(record: Record) -> bool:
            if record.claim.uid in self.failed or _moved(record, there):
                return True
            try:
                return not self._specs.settled(record.claim)
            except ClaimError:
                return True

        return concerned

    async def renew(self, record: Record, backend: Backend, devices: Mapping[str, Device]) -> Renewed | None:
        """Bring one claim's spec, and the numbers in its record, to what is there now; with the claim locked.

        None where it was not that any more. Raises ClaimError; where nobody can tell by which device
        files a device is opened now, there is no spec then, as none is better than another's.
        """
        claim = record.claim
        try:
            there = await _partitions_now(record, backend, devices)
        except BackendError as error:
            raise ClaimError(Reason.HARDWARE, f"claim {claim}: {error}") from error
        known = replace(record, devices=tuple(_numbered(device, there) for device in record.devices))
        async with self._records.exclusive() as changes:  # another instance may be about to end the claim
            if self._records.read(claim.uid) != record:
                return None
            try:
                written = self._specs.renew(_seen(known, there), backend, devices)
            except OutdatedError as error:
                raise ClaimError(Reason.HARDWARE, f"claim {claim}: {error}") from error
            except BackendError as error:
                self._specs.remove(claim)
                raise ClaimError(Reason.HARDWARE, f"claim {claim} has no CDI spec any more: {error}") from error
            if known != record:
                changes.put(known)
        if written:
            logger.warning("wrote a CDI spec again that was lost or out of date", extra={"claim": str(claim)})
        return Renewed(known, written)


def _edits(backend: Backend, devices: Mapping[str, Device]) -> Mapping[object, object]:
    """What containers get of each device, and of all; whoever compares finds numbers that have changed."""
    found: dict[object, object] = {"": backend.common_edits()}
    for gpu in {device.gpu.uuid: device.gpu for device in devices.values()}.values():
        for partition in (None, *gpu.partitions):
            try:
                found[gpu.uuid, partition] = backend.device_edits(gpu, partition)
            except BackendError as error:
                found[gpu.uuid, partition] = str(error)
    return found


def _partitions(devices: Mapping[str, Device]) -> Mapping[str, Partition]:
    """MIG devices as of the last look, by UUID."""
    gpus = {device.gpu.uuid: device.gpu for device in devices.values()}
    return {partition.uuid: partition for gpu in gpus.values() for partition in gpu.partitions if partition.uuid}


def _moved(record: Record, there: Mapping[str, Partition]) -> bool:
    """Whether a MIG device of a claim has other numbers now, or none that the last look saw."""
    return any(d.partition is not None and there.get(d.partition.uuid) != d.partition for d in record.devices)


async def _partitions_now(record: Record, backend: Backend, devices: Mapping[str, Device]) -> Mapping[str, Partition]:
    """MIG devices, by UUID; those of the claim's GPUs as they are now. Raises BackendError.

    A UUID is made of the GPU's and the instance's numbers: one that was seen may have come back in another place.
    """
    found = dict(_partitions(devices))
    parts = [device.partition for device in record.devices if device.partition is not None]
    made_since = {part.gpu_uuid for part in parts if part.uuid not in found or found[part.uuid].start != part.start}
    for uuid in sorted(made_since):  # or gone
        present = await in_daemon_thread(lambda u=uuid: partitioner(backend).partitions(u))  # type: ignore[misc]
        found |= {partition.uuid: partition for partition in present if partition.uuid}
    return found


def _numbered(device: PreparedDevice, there: Mapping[str, Partition]) -> PreparedDevice:
    """The device with the numbers that its MIG device has now."""
    part = device.partition
    return device if part is None else replace(device, partition=there.get(part.uuid, part))


def _seen(record: Record, there: Mapping[str, Partition]) -> Record:
    """The record as containers see it. Raises BackendError where it uses a MIG device that is gone.

    One that it only looks at belongs to another claim, and goes with that: then it looks at the GPU around it.
    """
    devices = []
    for device in record.devices:
        if device.partition is not None and device.partition.uuid not in there:
            if not device.admin:
                raise BackendError(
                    f"MIG device {device.partition.uuid} of {device.device} is not there any more, as after a reset of "
                    "its GPU; delete the pod, so that its claim is prepared anew"
                )
            device = replace(device, partition=None)
        devices.append(device)
    return replace(record, devices=tuple(devices))
