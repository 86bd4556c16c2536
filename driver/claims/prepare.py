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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from driver.claims.allocation import Allocation, ClaimRef, read_allocation
from driver.claims.background import Background, ended_within
from driver.claims.errors import ClaimError, Reason
from driver.claims.former import as_noted, present, with_unknown
from driver.claims.ledger.record import PreparedDevice, Record, State, named
from driver.claims.locks import Call, ClaimLocks
from driver.claims.plan import check_capacity, check_overlap, plan
from driver.claims.sharing import check_ways
from driver.claims.undo import Undo, on_disk
from driver.hardware import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.claims.chores.renew import Renewal
    from driver.claims.chores.status import StatusWriter
    from driver.claims.hardware import Hardware
    from driver.claims.ledger.records import Records
    from driver.claims.read import ClaimReader
    from driver.claims.specs import ClaimSpecs
    from driver.hardware import Backend
    from driver.inventory import Device
    from driver.observe import Metrics

T = TypeVar("T")


class Prepared(NamedTuple):
    """What a prepare came to."""

    devices: tuple[PreparedDevice, ...]
    anew: bool
    """Whether anything was done for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Where claims are prepared, and by which settings."""

    driver: str
    pool: str
    boot_id: str
    patience: float
    """Seconds that a device may take to be let go by a claim that is ending."""
    enforce_shares: bool
    """Shares are held to what they take even if their class says nothing."""


class Prepare:
    """Prepares claims, one call for each."""

    def __init__(
        self,
        terms: Terms,
        *,
        reader: ClaimReader,
        records: Records,
        specs: ClaimSpecs,
        hardware: Hardware,
        devices: Callable[[], Awaitable[tuple[Backend, Mapping[str, Device]]]],
        published: Callable[[str], Mapping[str, Any]],
        undo: Undo,
        renewal: Renewal,
        locks: ClaimLocks,
        background: Background,
        status: StatusWriter | None,
        metrics: Metrics,
    ) -> None:
        self._terms = terms
        self._reader = reader
        self._records = records
        self._specs = specs
        self._hardware = hardware
        self._devices = devices
        self._published = published
        self._undo = undo
        self._renewal = renewal
        self._locks = locks
        self._background = background
        self._status = status
        self._metrics = metrics
        self._was_read = False
        """Whether the hardware was read, after which nobody waits for that."""

    async def run(self, ref: ClaimRef, deadline: float) -> Prepared:
        """Prepare a claim by then, in monotonic seconds. Raises ClaimError."""
        with self._locks.of(ref.uid) as lock:
            while True:
                call = Call.begin(lock, deadline)
                with self._metrics.phase("claim_read"):
                    claim = await self._reader.read(ref, deadline)
                allocation = read_allocation(claim, ref=ref, driver=self._terms.driver)
                await self._locks.let_others_start()
                known, plain = await self._at_once(allocation, call)
                if known is not None:
                    return Prepared(known.devices, anew=False)
                commit = self._commit(allocation, call, plain)
                record = await commit if plain else await self._in_time(commit, call, ref)
                if record is not None:
                    return Prepared(record.devices, anew=True)

    async def _at_once(self, allocation: Allocation, call: Call) -> tuple[Record | None, Record | None]:
        """What a claim comes to without waiting for anything: the record that answers for it, or else its plan.

        The record, where nothing is left to do, as after a kubelet's restart. The plan, where the claim is new here and
        no hardware is changed for it: that is committed in the caller's own task. Before its record is written nothing
        is lost if the caller goes, and after that nothing is waited for.
        """
        if call.claim.lock.locked() or call.unprepared:
            return None, None
        _, devices = await self._hardware_in_time(allocation.claim, call)
        known = self._records.read(allocation.claim.uid)
        if known is None:
            planned = self._plan(allocation, devices)
            return None, planned if planned.state is State.PREPARED else None
        ready = self._answers(known, allocation, devices) and self._specs.settled(known.claim)
        return known if ready else None, None

    async def _in_time(self, commit: Coroutine[Any, Any, T], call: Call, ref: ClaimRef) -> T:
        """What a commit comes to, if it ends before the deadline; it goes on if not, or if the caller goes."""
        work = self._background.start(commit)
        try:
            ended = await ended_within(work, call.deadline)
        except asyncio.CancelledError:
            call.gone = True
            raise
        if not ended:
            call.gone = True
            raise ClaimError(
                Reason.DEADLINE,
                f"claim {ref} is not prepared yet: the hardware takes its time. Work goes on, and what is ready by "
                "then is found when the kubelet asks again",
            )
        return work.result()

    async def _commit(self, allocation: Allocation, call: Call, plain: Record | None) -> Record | None:
        """Everything after the claim was read; None when that was overtaken."""
        with self._locks.of(allocation.claim.uid):
            async with call.claim.lock:
                return None if call.unprepared else await self._prepare_allocated(allocation, call, plain)

    async def _prepare_allocated(self, allocation: Allocation, call: Call, plain: Record | None) -> Record | None:
        claim = allocation.claim
        backend, devices = await self._hardware_now(claim)
        known = self._records.read(claim.uid)
        if known is not None and self._answers(known, allocation, devices):
            if self._specs.settled(claim):
                return known
            renewed = await self._renewal.renew(known, backend, devices)
            if renewed is None:
                return None
            if self._status:
                self._status.want(renewed.record)
            return renewed.record
        if call.overtaken:
            return None
        call.claim.commits += 1
        again = known is not None and known.state is State.PREPARING and self._begun(known, allocation)
        if known is not None and not again:
            await self._undo.retire(known, call.deadline)
        if not again:
            # Of another allocation. Were it still there after a crash, the new record would be answered with it.
            self._specs.remove(claim)
        record = plain or self._plan(allocation, devices)
        if known is not None:
            record = with_unknown(record, known, devices=again)
        record = await self._with_existing_partitions(record)
        self._specs.check(record, backend, devices)

        async def take() -> Record:
            if record.state is State.PREPARED:
                await self._claim_devices(record, call)
                return record
            return await self._change_hardware(record, backend, devices, call)

        record = await self._when_free(take, call.deadline)
        self._write_spec(record, backend, devices)
        return record

    def _write_spec(self, record: Record, backend: Backend, devices: Mapping[str, Device]) -> None:
        self._specs.write(record, backend, devices)
        if self._status:
            self._status.want(record)

    def _plan(self, allocation: Allocation, devices: Mapping[str, Device]) -> Record:
        with self._metrics.phase("plan"):
            return plan(
                allocation,
                devices=devices,
                pool=self._terms.pool,
                driver=self._terms.driver,
                boot_id=self._terms.boot_id,
                prepared_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                metadata=allocation.metadata_directory if self._specs.with_metadata else None,
                enforce_shares=self._terms.enforce_shares,
            )

    async def _hardware_now(self, claim: ClaimRef) -> tuple[Backend, Mapping[str, Device]]:
        try:
            return await self._devices()
        except BackendError as error:
            raise ClaimError(Reason.HARDWARE, f"claim {claim} cannot be prepared: {error}") from error

    async def _hardware_in_time(self, claim: ClaimRef, call: Call) -> tuple[Backend, Mapping[str, Device]]:
        """The first look at the hardware may take long, or hang; after it this comes at once."""
        if self._was_read:
            return await self._hardware_now(claim)
        try:
            async with asyncio.timeout(call.left):
                found = await self._hardware_now(claim)
            self._was_read = True
        except TimeoutError:
            raise ClaimError(
                Reason.DEADLINE,
                f"claim {claim} cannot be prepared yet: the driver has just started, and its first look at the GPUs "
                "does not end; if that lasts, see whether nvidia-smi answers on the node. The kubelet asks again",
            ) from None
        return found

    def _is_of(self, record: Record, allocation: Allocation) -> bool:
        return record.allocation == allocation.fingerprint and record.boot_id == self._terms.boot_id

    def _begun(self, record: Record, allocation: Allocation) -> bool:
        """Whether a record is of what the claim is to have now, so that what is found of it is taken up.

        A damaged one does not tell for which allocation it was: containers may be using what has the same names.
        """
        if self._is_of(record, allocation):
            return True
        same = record.boot_id == self._terms.boot_id and named(record.devices) == named(allocation.results)
        return same and bool(record.salvaged_from)

    def _answers(self, record: Record, allocation: Allocation, devices: Mapping[str, Device]) -> bool:
        return self._is_of(record, allocation) and record.state is State.PREPARED and present(record, devices)

    async def _when_free(self, take: Callable[[], Awaitable[Record]], deadline: float) -> Record:
        """Try again while another claim that holds a device may be ending.

        A pod that is deleted without grace is gone from the API before its containers are from the node, so its device
        may be allocated anew already. The kubelet would ask again only after more than a minute.
        """
        # A little before the deadline, so that the answer names the holder and not the deadline.
        until = min(deadline - 0.5, time.monotonic() + self._terms.patience)
        while True:
            released = self._undo.released
            try:
                return await take()
            except ClaimError as error:
                left = until - time.monotonic()
                if error.reason is not Reason.IN_USE or left <= 0:
                    raise
            with contextlib.suppress(TimeoutError):  # another instance may have released it, which nobody tells us
                async with asyncio.timeout(min(left, 1.0)):
                    await released.wait()

    async def _claim_devices(self, record: Record, call: Call) -> None:
        waiting = time.perf_counter()
        async with self._records.exclusive(within=call.left) as changes:
            self._metrics.phases.labels("lock_wait").observe(time.perf_counter() - waiting)
            if call.unprepared or call.gone:  # nobody would unprepare it again
                raise _unprepared(record)
            held = self._records.held
            for device in record.devices:
                check_overlap(record, held.rivals(device))
                if device.consumed:
                    amounts = self._published(device.device).get("capacity") or {}
                    check_capacity(record, device, held, {name: amount["value"] for name, amount in amounts.items()})
            check_ways(record, lambda device: held.ways(device, except_for=record.claim.uid))
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
                    await self._hardware.check_free(record, backend, self._known_partitions)
                if not call.left:  # nobody waits any more, and an unprepare may have gone elsewhere
                    raise ClaimError(Reason.DEADLINE, f"claim {record.claim}: GPU too slow, nothing has been changed")
                record = await self._hardware.read_before(as_noted(record, known), backend, held.on)
                await self._claim_devices(record, call)
                try:
                    made = await self._hardware.make(record, backend, devices, held.on)
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

    async def _with_existing_partitions(self, record: Record) -> Record:
        """Admin access looks at partitions that are there for other claims: those that their records know."""
        if not any(device.placement is not None and device.admin for device in record.devices):
            return record
        await self._records.refresh()
        known = {
            device.device: device.partition
            for held in {device.gpu_uuid for device in record.devices}
            for holder in self._records.held.of(held)
            for device in holder.devices
            if device.partition is not None
        }
        own = {device.device for device in record.devices if not device.admin}
        devices = []
        for device in record.devices:
            if device.placement is not None and device.admin and device.device not in own:
                if device.device not in known:
                    raise ClaimError(
                        Reason.UNKNOWN_DEVICE,
                        f"claim {record.claim} has admin access to {device.device}, which does not exist now: "
                        "partitions are made for claims that use them",
                    )
                device = replace(device, partition=known[device.device])
            devices.append(device)
        return replace(record, devices=tuple(devices))

    def _known_partitions(self, gpu_uuid: str) -> frozenset[str]:
        """UUIDs of the partitions of a GPU that our records know."""
        holders = self._records.held.of(gpu_uuid)
        return frozenset(d.partition.uuid for holder in holders for d in holder.devices if d.partition is not None)


def _unprepared(record: Record) -> ClaimError:
    return ClaimError(
        Reason.REPLACED,
        f"claim {record.claim} was unprepared or given up while it was being prepared, so it is not; if a pod still "
        "needs it, the kubelet asks again",
    )
