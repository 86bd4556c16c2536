"""Prepare: what happens between the kubelet's call and our answer for one claim.

Order of effects: record, hardware, record, CDI spec, then the answer; a claim on hardware that is used as it is has
only one record. A process that dies between two of them leaves a record from which the kubelet's next call, whichever
it is, comes out right.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from driver.base.boot_clock import boot_seconds
from driver.claims.allocation import Allocation, ClaimRef
from driver.claims.background import Background, ended_within
from driver.claims.errors import ClaimError, Reason
from driver.claims.former import answers, as_noted, present
from driver.claims.ledger.record import PreparedDevice, Record, State
from driver.claims.overlap import check_capacity, check_overlap
from driver.claims.plan import Plan, looks_in, plan, with_partitions
from driver.claims.sharing import check_ways
from driver.claims.undo import Undo, on_disk
from driver.hardware import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.claims.chores.renew import Renewal
    from driver.claims.common import Common
    from driver.claims.locks import Call
    from driver.claims.read import ClaimReader
    from driver.hardware import Backend
    from driver.inventory import Device

T = TypeVar("T")


class Prepared(NamedTuple):
    """What a prepare came to."""

    devices: tuple[PreparedDevice, ...]
    anew: bool
    """Whether anything was done for it."""


class Prepare:
    """Prepares claims, one call for each."""

    def __init__(
        self, common: Common, *, reader: ClaimReader, undo: Undo, renewal: Renewal, background: Background
    ) -> None:
        self._terms = common.terms
        self._devices = common.devices
        self._records = common.records
        self._specs = common.specs
        self._hardware = common.hardware
        self._pods = common.pods
        self._locks = common.locks
        self._status = common.told.status
        self._metrics = common.told.metrics
        self._reader = reader
        self._undo = undo
        self._renewal = renewal
        self._background = background
        self._was_read = False
        """Whether the hardware was read, after which nobody waits for that."""

    async def run(self, ref: ClaimRef, deadline: float) -> Prepared:
        """Prepare a claim by then, in monotonic seconds. Raises ClaimError."""
        while True:
            with self._locks.call(ref.uid, deadline) as call:
                prepared = await self._prepare(ref, call)
            if prepared is not None:
                return prepared

    async def _prepare(self, ref: ClaimRef, call: Call) -> Prepared | None:
        """One way down; None where what was read of the claim has been overtaken.

        What only writes files is done in the caller's own task: before its record is written nothing is lost if the
        caller goes, and after that nothing is waited for. The rest goes on without its caller.
        """
        with self._metrics.phase("claim_read"):
            allocation = await self._reader.read(ref, call.deadline)
        self._pods.note(allocation)
        await self._locks.let_others_start()
        if not self._was_read:
            await self._first_look(ref, call)
        await self._lock(ref, call)
        if call.unprepared:
            return None
        backend, devices = await self._known_devices(ref)
        record = self._records.read(ref.uid)
        if record is not None and answers(record, allocation, devices, boot_id=self._records.boot_id):
            if self._specs.settled(ref):
                return Prepared(record.devices, anew=False)
            return await self._in_time(self._renew(record, backend, devices), call, ref)
        if call.overtaken:
            return None
        planned = await self._plan(allocation, devices, record, call)
        commit = self._commit(planned, backend, devices, call)
        return await commit if planned.plain else await self._in_time(commit, call, ref)

    async def _first_look(self, ref: ClaimRef, call: Call) -> None:
        """The first look at the hardware may take long, or hang; no lock is held, as unprepare would wait for that."""
        try:
            async with asyncio.timeout(call.left):
                await self._known_devices(ref)
        except TimeoutError:
            raise ClaimError(
                Reason.DEADLINE,
                f"claim {ref} cannot be prepared yet: the driver has just started, and its first look at the GPUs "
                "does not end; if that lasts, see whether nvidia-smi answers on the node. The kubelet asks again",
            ) from None
        self._was_read = True

    async def _known_devices(self, ref: ClaimRef) -> tuple[Backend, Mapping[str, Device]]:
        try:
            return await self._devices.known()
        except BackendError as error:
            raise ClaimError(Reason.HARDWARE, f"claim {ref} cannot be prepared: {error}") from error

    async def _lock(self, ref: ClaimRef, call: Call) -> None:
        try:
            await call.lock()
        except TimeoutError:
            raise _too_late(ref) from None

    async def _in_time(self, work: Coroutine[Any, Any, T], call: Call, ref: ClaimRef) -> T:
        """What work comes to, if it ends before the deadline; it goes on if not, or if the caller goes."""
        task = self._background.start(_with_claim(call.held.pop_all(), work))
        try:
            ended = await ended_within(task, call.deadline)
        except asyncio.CancelledError:
            call.gone = True
            raise
        if not ended:
            call.gone = True
            raise _too_late(ref)
        return task.result()

    async def _renew(self, record: Record, backend: Backend, devices: Mapping[str, Device]) -> Prepared | None:
        """For a claim that is prepared, but has no spec."""
        renewed = await self._renewal.renew(record, backend, devices)
        if renewed is None:
            return None
        if self._status:
            self._status.want(renewed.record)
        return Prepared(renewed.record.devices, anew=True)

    async def _plan(
        self, allocation: Allocation, devices: Mapping[str, Device], former: Record | None, call: Call
    ) -> Plan:
        with self._metrics.phase("plan"):
            planned = plan(
                allocation,
                devices=devices,
                former=former,
                terms=self._terms,
                boot_id=self._records.boot_id,
                prepared_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                held_since=boot_seconds(),
                metadata=self._specs.with_metadata,
            )
        if any(looks_in(device) for device in planned.record.devices):
            await self._records.refresh(within=call.left)
            planned = replace(planned, record=with_partitions(planned.record, self._records.held))
        return planned

    async def _commit(self, planned: Plan, backend: Backend, devices: Mapping[str, Device], call: Call) -> Prepared:
        """Do what was planned; with the claim locked. Raises ClaimError."""
        call.claim.commits += 1
        record = planned.record
        if planned.retired is not None:
            await self._undo.retire(planned.retired, call.deadline)
        if not planned.again:
            # Of another allocation. Were it still there after a crash, the new record would be answered with it.
            self._specs.remove(record.claim)
        self._specs.check(record, backend, devices)

        async def take() -> Record:
            if record.state is State.PREPARED:
                await self._claim_devices(record, devices, call)
                return record
            return await self._change_hardware(record, backend, devices, call)

        record = await self._when_free(take, call.deadline)
        self._specs.write(record, backend, devices)
        if self._status:
            self._status.want(record)
        return Prepared(record.devices, anew=True)

    async def _when_free(self, take: Callable[[], Awaitable[Record]], deadline: float) -> Record:
        """Try again while another claim that holds a device may be ending.

        A pod that is deleted without grace is gone from the API before its containers are from the node, so its device
        may be allocated anew already. The kubelet would ask again only after more than a minute.
        """
        # A little before the deadline, so that the answer names the holder and not the deadline.
        until = min(deadline - 0.5, time.monotonic() + self._terms.patience)
        waiting = 0.0
        while True:
            released = self._undo.released
            try:
                record = await take()
                if waiting:
                    self._metrics.phases.labels("device_wait").observe(time.perf_counter() - waiting)
                return record
            except ClaimError as error:
                waiting = waiting or time.perf_counter()
                left = until - time.monotonic()
                if error.reason is not Reason.IN_USE or left <= 0:
                    raise
            with contextlib.suppress(TimeoutError):  # another instance may have released it, which nobody tells us
                async with asyncio.timeout(min(left, 1.0)):
                    await released.wait()

    async def _claim_devices(self, record: Record, devices: Mapping[str, Device], call: Call) -> None:
        waiting = time.perf_counter()
        async with self._records.exclusive(within=call.left) as changes:
            self._metrics.phases.labels("lock_wait").observe(time.perf_counter() - waiting)
            if call.unprepared or call.gone:  # nobody would unprepare it again
                raise _unprepared(record)
            held = self._records.held
            for device in record.devices:
                check_overlap(record, held.rivals(device))
                if device.consumed:
                    check_capacity(record, device, devices[device.device], held)
            check_ways(record, held)
            with self._metrics.phase("record"):
                changes.put(record)

    async def _change_hardware(
        self, record: Record, backend: Backend, devices: Mapping[str, Device], call: Call
    ) -> Record:
        """Make what a record needs. Where a former try may have got somewhere, what is found there is ours."""
        async with self._hardware.lock(record, deadline=call.deadline):
            known = await on_disk(self._records, record)  # another instance may have had the call before us
            if known is not None and known.state is State.PREPARED and present(known, devices):
                return known
            again = known is not None and known.state is not State.PREPARED
            if known is not None and known.salvaged_from:  # until it is prepared, it may be what containers are using
                record = replace(record, salvaged_from=known.salvaged_from)
            held = self._records.held
            with self._metrics.phase("hardware"):
                if not again:
                    await self._hardware.check_free(record, backend, held)
                if not call.left:  # nobody waits any more, and an unprepare may have gone elsewhere
                    raise ClaimError(Reason.DEADLINE, f"claim {record.claim}: GPU too slow, nothing has been changed")
                record = await self._hardware.read_before(as_noted(record, known), backend, held)
                await self._claim_devices(record, devices, call)
                try:
                    made = await self._hardware.make(record, backend, devices, held)
                    prepared = replace(record, devices=made, state=State.PREPARED, salvaged_from="")
                    if call.unprepared or not await self._finish(prepared):  # unprepared while the hardware was at it
                        raise _unprepared(record)
                except ClaimError as error:
                    if not record.salvaged_from or error.reason is Reason.REPLACED:
                        await self._undo.take_back(record, backend)
                    raise
        return prepared

    async def _finish(self, record: Record) -> bool:
        """Store what has been made; not if the claim was unprepared meanwhile, here or by another instance."""
        async with self._records.exclusive() as changes:
            known = self._records.read(record.claim.uid)
            if known is None or known.state is not State.PREPARING or known.allocation != record.allocation:
                return False
            changes.put(record)
            return True


async def _with_claim(held: contextlib.ExitStack, work: Awaitable[T]) -> T:
    """Work that keeps its claim locked until it ends."""
    with held:
        return await work


def _too_late(ref: ClaimRef) -> ClaimError:
    return ClaimError(
        Reason.DEADLINE,
        f"claim {ref} is not prepared yet: the hardware takes its time. Work goes on, and what is ready by then is "
        "found when the kubelet asks again",
    )


def _unprepared(record: Record) -> ClaimError:
    return ClaimError(
        Reason.REPLACED,
        f"claim {record.claim} was unprepared or given up while it was being prepared, so it is not; if a pod still "
        "needs it, the kubelet asks again",
    )
