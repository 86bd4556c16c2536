"""Changes of hardware for claims: made, adopted after a crash, and undone; one GPU at a time, GPUs side by side.

A record that says what is going to be changed is written before (``State.PREPARING``). What is found at a placement
that our record names is ours: before the record was written, nothing was there. Nothing else is ever destroyed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from driver.claims.errors import ClaimError, Reason
from driver.devices.backend import BackendError
from driver.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from driver.claims.allocation import ClaimRef
    from driver.claims.record import PreparedDevice, Record
    from driver.devices.backend import Backend
    from driver.devices.catalogue import Device
    from driver.devices.model import Partition

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class _Bench:
    """One GPU's turn: hardware calls for it come one after another."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    busy_with: str = ""
    since: float = 0.0


class Hardware:
    """Runs the blocking calls of a backend in threads, at most one for each GPU."""

    def __init__(self, alone: Callable[[str], contextlib.AbstractAsyncContextManager[None]]) -> None:
        """``alone`` keeps other instances of the driver off a GPU."""
        self._alone = alone
        self._benches: dict[str, _Bench] = defaultdict(_Bench)

    @contextlib.asynccontextmanager
    async def turn(self, record: Record, *, deadline: float) -> AsyncIterator[None]:
        """Have the GPUs of a record to oneself. Raises ClaimError when another claim's call does not end in time."""
        async with contextlib.AsyncExitStack() as stack:
            for uuid in sorted({device.gpu_uuid for device in record.devices}):  # one order for all: no deadlock
                bench = self._benches[uuid]
                try:
                    async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                        await bench.lock.acquire()
                except TimeoutError:
                    raise ClaimError(
                        Reason.HARDWARE,
                        f"GPU {uuid} has been busy for {time.monotonic() - bench.since:.0f} s with claim "
                        f"{bench.busy_with}; claim {record.claim} is tried again by the kubelet",
                    ) from None
                stack.callback(bench.lock.release)
                bench.busy_with, bench.since = str(record.claim), time.monotonic()
                try:
                    async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                        await stack.enter_async_context(self._alone(uuid))
                except TimeoutError:
                    raise ClaimError(
                        Reason.HARDWARE,
                        f"GPU {uuid} is being changed by another instance of the driver; claim {record.claim} is "
                        "tried again by the kubelet",
                    ) from None
            yield

    async def check_free(self, record: Record, backend: Backend, ours: Callable[[str], frozenset[str]]) -> None:
        """Refuse a placement where somebody else has made a partition. Before the record is written, in our turn.

        ``ours`` gives the UUIDs of the partitions that our records know on a GPU.
        """
        for device in record.devices:
            if device.placement is None or device.admin:
                continue
            for found in await self._call(record.claim, lambda d=device: backend.partitions(d.gpu_uuid)):  # type: ignore[misc]
                if found.slots & set(device.slots) and found.uuid not in ours(device.gpu_uuid):
                    raise ClaimError(
                        Reason.IN_USE,
                        f"device {device.device} cannot be made for claim {record.claim}: {found.profile} at memory "
                        f"slice {found.start} ({found.uuid}) is in its place, and this driver has not made it",
                    )

    async def make(self, record: Record, backend: Backend, devices: Mapping[str, Device]) -> tuple[PreparedDevice, ...]:
        """Bring the hardware to what a record says; partitions that are there already are adopted.

        In our turn, after the record was written. Raises ClaimError; what was made until then is up to ``undo``.
        """
        made = []
        for device in record.devices:
            known = devices[device.device]
            if device.admin:
                made.append(device)
            elif device.placement is None:
                if known.partitionable and device.whole:
                    await self._call(record.claim, lambda k=known: backend.make_whole(k.gpu))  # type: ignore[misc]
                made.append(device)
            else:
                made.append(replace(device, partition=await self._partition(record.claim, device, backend, known)))
        return tuple(made)

    async def undo(self, record: Record, backend: Backend, kept: Callable[[PreparedDevice], bool]) -> None:
        """Destroy what was made for a record, unless ``kept`` says that another claim uses the device as well.

        In our turn. Raises ClaimError when something may be left; it can be called again.
        """
        for device in record.devices:
            if device.placement is None or device.admin or kept(device):
                continue
            for found in await self._call(record.claim, lambda d=device: backend.partitions(d.gpu_uuid)):  # type: ignore[misc]
                if _is(found, device):
                    await self._call(record.claim, lambda f=found: backend.destroy_partition(f))  # type: ignore[misc]

    async def _partition(self, claim: ClaimRef, device: PreparedDevice, backend: Backend, known: Device) -> Partition:
        for found in await self._call(claim, lambda: backend.partitions(device.gpu_uuid)):
            if not _is(found, device):
                continue
            if found.uuid:
                return found
            # Without its compute instance: a crash has left it half made.
            await self._call(claim, lambda f=found: backend.destroy_partition(f))  # type: ignore[misc]
        profile, start = known.profile, known.start
        if profile is None or start is None:
            raise AssertionError(f"{device.device} has a placement, its catalogue entry has none")
        return await self._call(claim, lambda: backend.create_partition(known.gpu, profile, start))

    @staticmethod
    async def _call(claim: ClaimRef, function: Callable[[], T]) -> T:
        try:
            return await in_daemon_thread(function)
        except BackendError as error:
            raise ClaimError(Reason.HARDWARE, f"claim {claim}: {error}") from error


def _is(found: Partition, device: PreparedDevice) -> bool:
    placement = device.placement
    return placement is not None and (found.profile, found.start) == (placement.profile, placement.start)
