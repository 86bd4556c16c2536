"""Changes of hardware for claims: made, adopted after a crash, and undone; one GPU at a time, GPUs side by side.

A record that says what is going to be changed is written before (``State.PREPARING``). What is found at a placement
that our record names is ours: before the record was written, nothing was there. Nothing else is ever destroyed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from driver.base.threads import in_daemon_thread
from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.device_sharing import Strategy
from driver.claims.ledger.lock import FileLock
from driver.claims.sharing import daemons_of
from driver.hardware import BackendError, ComputeMode, Partition, TimeSlice, partitioner, sharer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from driver.claims.allocation import ClaimRef
    from driver.claims.ledger.device_sharing import DeviceSharing
    from driver.claims.ledger.holders import Holders
    from driver.claims.ledger.record import PreparedDevice, Record
    from driver.hardware import Backend
    from driver.inventory import Device

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class _GpuLock:
    """Hardware calls for one GPU come one after another, here and in other instances of the driver."""

    file: FileLock
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    busy_with: str = ""
    since: float = 0.0


class Hardware:
    """Runs the blocking calls of a backend in threads, at most one for each GPU."""

    def __init__(self, directory: Path) -> None:
        """``directory`` is where all instances of the driver on a node lock a file for each GPU."""
        self._directory = directory
        self._locks: dict[str, _GpuLock] = {}

    @contextlib.asynccontextmanager
    async def lock(self, record: Record, *, deadline: float) -> AsyncIterator[None]:
        """Have the GPUs of a record to oneself. Raises ClaimError when another claim's call does not end in time."""
        with contextlib.ExitStack() as stack:
            for uuid in sorted({device.gpu_uuid for device in record.devices}):  # one order for all: no deadlock
                gpu = self._gpu(uuid)
                try:
                    async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                        await gpu.lock.acquire()
                except TimeoutError:
                    raise ClaimError(
                        Reason.HARDWARE,
                        f"GPU {uuid} has been busy for {time.monotonic() - gpu.since:.0f} s with claim "
                        f"{gpu.busy_with}; claim {record.claim} is tried again by the kubelet",
                    ) from None
                stack.callback(gpu.lock.release)
                gpu.busy_with, gpu.since = str(record.claim), time.monotonic()
                try:
                    stack.callback(os.close, await gpu.file.acquire(within=max(deadline - time.monotonic(), 0)))
                except TimeoutError:
                    raise ClaimError(
                        Reason.HARDWARE,
                        f"GPU {uuid} is being changed by another instance of the driver; claim {record.claim} is "
                        "tried again by the kubelet",
                    ) from None
                except OSError as error:
                    raise ClaimError(Reason.HARDWARE, f"cannot lock GPU {uuid}: {error.strerror}") from error
            yield

    def _gpu(self, uuid: str) -> _GpuLock:
        if uuid not in self._locks:
            name = re.sub(r"[^A-Za-z0-9-]", "_", uuid)
            self._locks[uuid] = _GpuLock(FileLock(f"{self._directory}{os.sep}.{name}.lock"))
        return self._locks[uuid]

    async def check_free(self, record: Record, backend: Backend, held: Holders) -> None:
        """Refuse a placement where somebody else has made a partition. GPUs locked, no record written yet."""
        for device in record.devices:
            if device.placement is None or device.admin:
                continue
            for found in await self._call(record.claim, lambda d=device: partitioner(backend).partitions(d.gpu_uuid)):  # type: ignore[misc]
                if found.slots & set(device.slots) and found.uuid not in held.partitions(device.gpu_uuid):
                    raise ClaimError(
                        Reason.IN_USE,
                        f"device {device.device} cannot be made for claim {record.claim}: {found.profile} at memory "
                        f"slice {found.start} ({found.uuid}) is in its place, and this driver has not made it",
                    )

    async def read_before(self, record: Record, backend: Backend, held: Holders) -> Record:
        """The record with what its sharing is going to change, as that is now. GPUs locked, not written yet.

        Where another claim has changed it already, what was there before is in that one's record.
        """
        if all(device.sharing is None for device in record.devices):
            return record
        devices = []
        for device in record.devices:
            sharing = device.sharing
            if sharing is not None and sharing.changes and device.whole:
                others = (other.sharing for holder, other in held.on(device) if holder.claim.uid != record.claim.uid)
                known = next((other for other in others if other is not None and other.changes), None)
                device = replace(
                    device, sharing=await self._before(record.claim, device.gpu_uuid, sharing, known, backend)
                )
            devices.append(device)
        return replace(record, devices=tuple(devices))

    async def make(
        self, record: Record, backend: Backend, devices: Mapping[str, Device], held: Holders
    ) -> tuple[PreparedDevice, ...]:
        """Bring the hardware to what a record says; partitions that are there already are adopted.

        GPUs locked, the record written. Raises ClaimError; what was made until then is up to ``undo``.
        """
        made = []
        for device in record.devices:
            known = devices[device.device]
            if device.admin:
                made.append(device)
            elif device.placement is None:
                if known.partitionable and device.whole:
                    await self._call(record.claim, lambda k=known: partitioner(backend).make_whole(k.gpu))  # type: ignore[misc]
                made.append(device)
            else:
                made.append(replace(device, partition=await self._partition(record.claim, device, backend, known)))
        there = {device.device: device.partition for device in made if not device.admin}
        made = [replace(d, partition=there[d.device]) if d.admin and d.device in there else d for d in made]
        if any(device.sharing is not None and device.sharing.changes for device in made):
            await self.share(replace(record, devices=tuple(made)), backend, held)
        return tuple(made)

    async def share(self, record: Record, backend: Backend, held: Holders) -> None:
        """Bring modes, intervals and daemons to what a record says; it can be called again. GPUs locked. ClaimError."""
        exclusive = ComputeMode.EXCLUSIVE_PROCESS
        for device in record.devices:
            sharing = device.sharing
            if sharing is None or not sharing.changes or not device.whole:
                continue
            uuid = device.gpu_uuid
            if sharing.strategy is Strategy.MPS:
                await self._call(record.claim, lambda u=uuid: sharer(backend).set_compute_mode(u, exclusive))  # type: ignore[misc]
            else:
                interval = sharing.interval
                await self._call(record.claim, lambda u=uuid, i=interval: sharer(backend).set_time_slice(u, i))  # type: ignore[misc]
        for daemon in daemons_of(record, lambda device: (other for _, other in held.on(device))):
            await self._call(record.claim, lambda d=daemon: sharer(backend).start_mps(d))  # type: ignore[misc]

    async def undo(self, record: Record, backend: Backend, held: Holders) -> None:
        """Take back what was made for a record, but for what another claim uses as well.

        With its GPUs locked. Raises ClaimError when something may be left; it can be called again.
        """
        if any(device.sharing is not None and device.sharing.changes for device in record.devices):
            await self._unshare(record, backend, held)
        for device in record.devices:
            if device.placement is None or device.admin:
                continue
            if any(holder.claim.uid != record.claim.uid for holder, _ in held.on(device)):
                continue
            there = await self._call(record.claim, lambda d=device: partitioner(backend).partitions(d.gpu_uuid))  # type: ignore[misc]
            # Where there is none any more, a crash may have left the GPU in MIG mode for nothing.
            for found in [f for f in there if _is(f, device)] or [device.partition or _never_made(device)]:
                await self._call(record.claim, lambda f=found: partitioner(backend).destroy_partition(f))  # type: ignore[misc]

    async def _partition(self, claim: ClaimRef, device: PreparedDevice, backend: Backend, known: Device) -> Partition:
        for found in await self._call(claim, lambda: partitioner(backend).partitions(device.gpu_uuid)):
            if not _is(found, device):
                continue
            if found.uuid:
                return found
            # Without its compute instance: a crash has left it half made.
            await self._call(claim, lambda f=found: partitioner(backend).destroy_partition(f))  # type: ignore[misc]
        profile, start = known.profile, known.start
        if profile is None or start is None:
            raise AssertionError(f"{device.device} has a placement, its catalogue entry has none")
        return await self._call(claim, lambda: partitioner(backend).create_partition(known.gpu, profile, start))

    async def _before(
        self, claim: ClaimRef, gpu_uuid: str, sharing: DeviceSharing, known: DeviceSharing | None, backend: Backend
    ) -> DeviceSharing:
        if sharing.strategy is Strategy.MPS:
            if sharing.mode_before is None:
                mode = known.mode_before if known is not None else None
                mode = mode or await self._call(claim, lambda: sharer(backend).compute_mode(gpu_uuid))
                sharing = replace(sharing, mode_before=mode)
        elif sharing.interval_before is None:
            interval = known.interval_before if known is not None else None
            interval = interval or await self._call(claim, lambda: sharer(backend).time_slice(gpu_uuid))
            sharing = replace(sharing, interval_before=interval)
        return sharing

    async def _unshare(self, record: Record, backend: Backend, held: Holders) -> None:
        """The way back: daemons first, so that no client is left when the mode lets everybody in."""
        ours = []
        for device in record.devices:
            others = (other.sharing for holder, other in held.on(device) if holder.claim.uid != record.claim.uid)
            if (
                device.sharing is not None
                and device.sharing.changes
                and not any(o is not None and o.changes for o in others)
            ):
                ours.append((device, device.sharing))
        for daemon in dict.fromkeys(sharing.daemon for _, sharing in ours if sharing.daemon):
            await self._call(record.claim, lambda d=daemon: sharer(backend).stop_mps(d))  # type: ignore[misc]
        for device, sharing in ours:
            if device.whole:
                await self._restore(record.claim, device.gpu_uuid, sharing, backend)

    async def _restore(self, claim: ClaimRef, uuid: str, sharing: DeviceSharing, backend: Backend) -> None:
        """Set a GPU to what it was, unless somebody has set it to something else meanwhile."""
        if sharing.strategy is Strategy.MPS:
            mode = sharing.mode_before or ComputeMode.DEFAULT
            there = await self._call(claim, lambda: sharer(backend).compute_mode(uuid))
            if there is ComputeMode.EXCLUSIVE_PROCESS and there is not mode:
                await self._call(claim, lambda: sharer(backend).set_compute_mode(uuid, mode))
        else:
            interval = sharing.interval_before or TimeSlice.DEFAULT
            if await self._call(claim, lambda: sharer(backend).time_slice(uuid)) is sharing.interval is not interval:
                await self._call(claim, lambda: sharer(backend).set_time_slice(uuid, interval))

    @staticmethod
    async def _call(claim: ClaimRef, function: Callable[[], T]) -> T:
        try:
            return await in_daemon_thread(function)
        except (BackendError, OSError) as error:  # files are a part of it: of daemons, of the kernel driver
            raise ClaimError(Reason.HARDWARE, f"claim {claim}: {error}") from error


def _never_made(device: PreparedDevice) -> Partition:
    """What a backend is asked to destroy in place of a partition that nobody got to see: it is gone."""
    placement = device.placement
    if placement is None:
        raise AssertionError(f"{device.device} has no placement")
    return Partition(
        gpu_uuid=device.gpu_uuid,
        profile=placement.profile,
        profile_id=-1,
        start=placement.start,
        size=len(device.slots),
        uuid="",
        gi_id=-1,
        ci_id=-1,
    )


def _is(found: Partition, device: PreparedDevice) -> bool:
    placement = device.placement
    return placement is not None and (found.profile, found.start) == (placement.profile, placement.start)
