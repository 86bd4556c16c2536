"""The prepare engine: what happens between the kubelet's call and our answer, for each claim by itself.

Order of effects of a prepare: record, hardware, record, CDI spec, then the answer; a claim on hardware that is used as
it is has only one record. Of an unprepare: CDI spec, hardware, record. A process that dies between two of them leaves
a record from which the kubelet's next call, whichever it is, comes out right.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from driver.claims.allocation import Allocation, ClaimRef, check_ref, read_allocation
from driver.claims.chores.lost import LostSpecs
from driver.claims.chores.renew import Renewal
from driver.claims.chores.supervise import Supervisor
from driver.claims.errors import ClaimError, Reason
from driver.claims.hardware import Hardware
from driver.claims.ledger.record import PreparedDevice, Record, State, named
from driver.claims.plan import check_capacity, check_overlap, plan
from driver.claims.read import ClaimReader
from driver.claims.sharing import Sharing, Strategy, check_ways
from driver.claims.specs import ClaimSpecs
from driver.claims.turns import Call, Turns
from driver.claims.undo import PATIENCE, Undo, makes, on_disk
from driver.hardware import BackendError, ComputeMode, TimeSlice

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from driver.cdi import SpecDirectory
    from driver.claims.chores.status import StatusWriter
    from driver.claims.ledger.records import Records
    from driver.claims.metadata import MetadataFiles
    from driver.hardware import Backend
    from driver.inventory import Device
    from driver.kube import Api
    from driver.observe import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The kubelet gives a call 45 s and tries again only after more than a minute, so we use the time but answer within it.
ANSWER_MARGIN = 3.0
MAX_DEADLINE = 45.0
# How long a device may take to be let go by a claim that is ending. Most pods have 30 s before they are killed, and the
# kubelet asks again only after more than a minute.
HOLDER_PATIENCE = 35.0


class _Prepared(NamedTuple):
    """What a prepare came to."""

    devices: tuple[PreparedDevice, ...]
    anew: bool
    """Whether anything was done for it."""


class Engine:
    """Prepares and unprepares claims. Stateless between calls but for the files: any instance may get any call."""

    def __init__(
        self,
        *,
        api: Api,
        records: Records,
        specs: SpecDirectory,
        devices: Callable[[], Awaitable[tuple[Backend, Mapping[str, Device]]]],
        driver_name: str,
        pool: str,
        boot_id: str,
        metrics: Metrics,
        published: Callable[[str], Mapping[str, Any]] = lambda _name: {},
        metadata: MetadataFiles | None = None,
        status: StatusWriter | None = None,
        patience: float = HOLDER_PATIENCE,
        enforce_shares: bool = False,
        warn: Callable[[str, str], None] = lambda _reason, _message: None,
    ) -> None:
        self._reader = ClaimReader(api)
        self._records = records
        self._specs = ClaimSpecs(specs, driver_name=driver_name, metrics=metrics, metadata=metadata)
        self._devices = devices
        self._driver = driver_name
        self._pool = pool
        self._boot_id = boot_id
        self._metrics = metrics
        self._published = published
        self._status = status
        self._patience = patience
        self._enforce_shares = enforce_shares
        self._hardware = Hardware(records.turn)
        self._undo = Undo(records=records, specs=self._specs, hardware=self._hardware, devices=devices, boot_id=boot_id)
        self._supervisor = Supervisor(
            records=records, hardware=self._hardware, devices=devices, boot_id=boot_id, warn=warn
        )
        self._lost = LostSpecs(records=records, specs=specs, boot_id=boot_id, restore=self.restore, warn=warn)
        self._turns = Turns()
        self._renewal = Renewal(records=records, specs=self._specs, turns=self._turns, devices=devices, boot_id=boot_id)
        self._looked = False
        """Whether the hardware was looked at, after which nobody waits for that."""
        self._under_way: set[asyncio.Task[Any]] = set()

    async def prepare(
        self, claims: Iterable[tuple[str, str, str]], *, seconds_left: float | None
    ) -> dict[str, tuple[PreparedDevice, ...] | ClaimError]:
        """Prepare claims given as (namespace, name, uid), all at once. Answers for each UID, whatever happens."""
        deadline = _deadline(seconds_left)

        async def one(ref: ClaimRef) -> _Prepared:
            return await self._prepare(ref, deadline)

        outcomes = await self._each("prepare", claims, one)
        return {uid: one if isinstance(one, ClaimError) else one.devices for uid, one in outcomes.items()}

    async def unprepare(self, claims: Iterable[tuple[str, str, str]]) -> dict[str, ClaimError | None]:
        """Unprepare claims given as (namespace, name, uid). A claim that was never prepared is a success.

        Asks the API server never, and waits for hardware only so long: a pod can always end.
        """
        return await self._each("unprepare", claims, self.release)

    async def release(self, ref: ClaimRef) -> None:
        """Unprepare a claim of which nobody will ask that again."""
        await self._to_its_end(self._unprepare(ref))

    async def restore(self, uids: Container[str] | None = None) -> list[Record]:
        """Bring the specs of prepared claims, of all or of these, to what the hardware is; which ones were written.

        To be called whenever the devices were read; waits for them. Raises BackendError.
        """
        return await self._renewal.run(uids)

    @property
    def specs_settled(self) -> bool:
        """Whether every spec is what it should be; if not, it is worth another try."""
        return not self._renewal.failed

    async def undo_leftovers(self) -> None:
        """See to it, for ever, that what could not be undone when a claim ended is undone when that is possible."""
        await self._undo.leftovers()

    async def watch_mps(self) -> None:
        """See to it, for ever, that the MPS daemons of prepared claims run."""
        await self._supervisor.run()

    async def watch_specs(self) -> None:
        """See to it, for ever, that prepared claims have their CDI specs."""
        await self._lost.run()

    async def settle(self, *, within: float) -> None:
        """Wait for work that goes on after its caller has gone, so many seconds at the most."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=within)

    async def _each(
        self,
        operation: str,
        claims: Iterable[tuple[str, str, str]],
        one: Callable[[ClaimRef], Awaitable[T]],
    ) -> dict[str, T | ClaimError]:
        by_uid = {uid: (namespace, name) for namespace, name, uid in claims}

        async def answer(uid: str, namespace: str, name: str) -> T | ClaimError:
            started = time.perf_counter()
            outcome: T | ClaimError
            with self._metrics.in_flight.labels(operation).track_inprogress():
                try:
                    outcome = await one(check_ref(namespace, name, uid))
                except ClaimError as error:
                    outcome = error
                except Exception as error:
                    logger.exception("unexpected error", extra={"claim_uid": uid[:64], "operation": operation})
                    outcome = ClaimError(
                        Reason.INTERNAL,
                        f"{operation} of claim {namespace[:63]}/{name[:253]} failed unexpectedly, a bug of the driver: "
                        f"{error!r:.500}; its log has the details, and the kubelet asks again",
                    )
            self._account(operation, namespace, name, uid, time.perf_counter() - started, outcome)
            return outcome

        work = [answer(uid, namespace, name) for uid, (namespace, name) in by_uid.items()]
        # One claim, as nearly always, needs no task beside the call's own.
        answers = [await work[0]] if len(work) == 1 else await asyncio.gather(*work)
        return dict(zip(by_uid, answers, strict=True))

    def _account(self, operation: str, namespace: str, name: str, uid: str, seconds: float, outcome: object) -> None:
        failed = isinstance(outcome, ClaimError)
        self._metrics.claims.labels(operation, "error" if failed else "success").observe(seconds)
        self._metrics.prepared.set(len(self._records))
        if isinstance(outcome, _Prepared) and not outcome.anew and not logger.isEnabledFor(logging.DEBUG):
            return  # a kubelet that starts asks for every claim of its node
        about: dict[str, Any] = {
            "claim": f"{namespace[:63]}/{name[:253]}",
            "claim_uid": uid[:63],
            "duration_ms": round(seconds * 1000, 3),
        }
        if isinstance(outcome, ClaimError):
            self._metrics.errors.labels(operation, outcome.reason).inc()
            logger.warning("%s failed: %s", operation, outcome, extra={**about, "reason": str(outcome.reason)})
        elif isinstance(outcome, _Prepared):
            about["devices"] = [device.device for device in outcome.devices]
            if outcome.anew:
                logger.info("prepared claim", extra=about)
            else:
                logger.debug("claim was prepared already", extra=about)
        else:
            logger.info("unprepared claim", extra=about)

    async def _prepare(self, ref: ClaimRef, deadline: float) -> _Prepared:
        with self._turns.of(ref.uid) as turn:
            while True:
                call = Call.begin(turn, deadline)
                with self._metrics.phase("claim_read"):
                    claim = await self._reader.read(ref, deadline)
                allocation = read_allocation(claim, ref=ref, driver=self._driver)
                await self._turns.let_others_start()
                known, plain = await self._at_once(allocation, call)
                if known is not None:
                    return _Prepared(known.devices, anew=False)
                commit = self._commit(allocation, call, plain)
                record = await commit if plain else await self._in_time(commit, call, ref)
                if record is not None:
                    return _Prepared(record.devices, anew=True)
                # The claim was unprepared, or prepared by another call, while we were reading it: what we read may be
                # of the past.

    async def _at_once(self, allocation: Allocation, call: Call) -> tuple[Record | None, Record | None]:
        """What a claim comes to without waiting for anything: the record that answers for it, or else its plan.

        The record, where nothing is left to do, as after a kubelet's restart. The plan, where the claim is new here and
        no hardware is changed for it: that is committed in the caller's own task. Before its record is written nothing
        is lost if the caller goes, and after that nothing is waited for.
        """
        if call.turn.lock.locked() or call.unprepared:
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
        work = self._start(commit)
        try:
            ended = await _ended_within(work, call.deadline)
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
        with self._turns.of(allocation.claim.uid):
            async with call.turn.lock:
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
        call.turn.commits += 1
        again = known is not None and known.state is State.PREPARING and self._begun(known, allocation)
        if known is not None and not again:
            await self._undo.retire(known, call.deadline)
        if not again:
            # Of another allocation. Were it still there after a crash, the new record would be answered with it.
            self._specs.remove(claim)
        record = plain or self._plan(allocation, devices)
        if known is not None:
            record = _with_unknown(record, known, devices=again)
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
                pool=self._pool,
                driver=self._driver,
                boot_id=self._boot_id,
                prepared_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                metadata=allocation.metadata_directory if self._specs.with_metadata else None,
                enforce_shares=self._enforce_shares,
            )

    async def _hardware_now(self, claim: ClaimRef) -> tuple[Backend, Mapping[str, Device]]:
        try:
            return await self._devices()
        except BackendError as error:
            raise ClaimError(Reason.HARDWARE, f"claim {claim} cannot be prepared: {error}") from error

    async def _hardware_in_time(self, claim: ClaimRef, call: Call) -> tuple[Backend, Mapping[str, Device]]:
        """The first look at the hardware may take long, or hang; after it this comes at once."""
        if self._looked:
            return await self._hardware_now(claim)
        try:
            async with asyncio.timeout(call.left):
                found = await self._hardware_now(claim)
            self._looked = True
        except TimeoutError:
            raise ClaimError(
                Reason.DEADLINE,
                f"claim {claim} cannot be prepared yet: the driver has just started, and its first look at the GPUs "
                "does not end; if that lasts, see whether nvidia-smi answers on the node. The kubelet asks again",
            ) from None
        return found

    def _is_of(self, record: Record, allocation: Allocation) -> bool:
        return record.allocation == allocation.fingerprint and record.boot_id == self._boot_id

    def _begun(self, record: Record, allocation: Allocation) -> bool:
        """Whether a record is of what the claim is to have now, so that what is found of it is taken up.

        A damaged one does not tell for which allocation it was: containers may be using what has the same names.
        """
        if self._is_of(record, allocation):
            return True
        same = record.boot_id == self._boot_id and named(record.devices) == named(allocation.results)
        return same and bool(record.salvaged_from)

    def _answers(self, record: Record, allocation: Allocation, devices: Mapping[str, Device]) -> bool:
        return self._is_of(record, allocation) and record.state is State.PREPARED and _present(record, devices)

    async def _when_free(self, take: Callable[[], Awaitable[Record]], deadline: float) -> Record:
        """Try again while another claim that holds a device may be ending.

        A pod that is deleted without grace is gone from the API before its containers are from the node, so its device
        may be allocated anew already. The kubelet would ask again only after more than a minute.
        """
        # A little before the deadline, so that the answer names the holder and not the deadline.
        until = min(deadline - 0.5, time.monotonic() + self._patience)
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
        async with self._hardware.turn(record, deadline=call.deadline):
            known = await on_disk(self._records, record)  # another instance may have had the call before us
            if known is not None and known.state is State.PREPARED and _present(known, devices):
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
                record = await self._hardware.look(_as_noted(record, known), backend, held.on)
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

    async def _unprepare(self, ref: ClaimRef) -> None:
        with self._turns.of(ref.uid) as turn:
            turn.unprepares += 1
            async with contextlib.AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(PATIENCE):
                        await stack.enter_async_context(turn.lock)
                except TimeoutError:  # the hardware hangs in a prepare; that takes back what it makes when it ends
                    logger.error("claim %s is unprepared while its hardware does not answer", ref)
                await self._release(ref)

    async def _release(self, ref: ClaimRef) -> None:
        record = self._records.read(ref.uid)
        if record is None and self._records.knows(ref.uid):  # somebody has removed it, or another instance ended it
            await self._records.refresh()
            record = self._records.read(ref.uid)
        try:
            self._specs.remove(ref)
        except ClaimError as error:  # its pod must not wait for a CDI root; a record says what is left to do
            logger.error("claim %s is unprepared, but for its CDI spec: %s", ref, error)
            removed = False
        else:
            removed = True
        if self._status:
            self._status.forget(ref)
        self._specs.forget(ref)
        if record is None:
            return
        if removed and (not makes(record) or record.boot_id != self._boot_id):
            await self._undo.drop(ref)
            return
        await self._undo.release(record)

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

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = self._start(work)
        await _ended_within(task, math.inf)
        return task.result()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work that goes on when the caller stops waiting: half-done is never left because a deadline passed.

        Wait for it with ``_ended_within``, which does not cancel it and is cheaper than a shield.
        """
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits gets it; asyncio need not complain for those who do not


async def _ended_within(work: asyncio.Task[Any], deadline: float) -> bool:
    """Whether work has ended by then (monotonic seconds); it goes on if not, or if we are cancelled."""
    await asyncio.sleep(0)  # most needs nothing but its first turn, and waiting takes longer than that
    if not work.done():
        await asyncio.wait({work}, timeout=None if deadline == math.inf else max(deadline - time.monotonic(), 0))
    return work.done()


def _deadline(seconds_left: float | None) -> float:
    given = MAX_DEADLINE if seconds_left is None else min(seconds_left, MAX_DEADLINE)
    return time.monotonic() + given - ANSWER_MARGIN


def _unprepared(record: Record) -> ClaimError:
    return ClaimError(
        Reason.REPLACED,
        f"claim {record.claim} was unprepared or given up while it was being prepared, so it is not; if a pod still "
        "needs it, the kubelet asks again",
    )


def _with_unknown(record: Record, known: Record, *, devices: bool) -> Record:
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


def _as_noted(record: Record, known: Record | None) -> Record:
    """With what a former try has noted of the time before it changed anything."""
    noted = {
        (device.device, device.share_id): device.sharing
        for device in (known.devices if known is not None else ())
        if device.sharing is not None
    }
    # Where the note was in a damaged record: what is there now was set for this claim, and is not what was before.
    guess = Sharing(strategy=Strategy.MPS, mode_before=ComputeMode.DEFAULT, interval_before=TimeSlice.DEFAULT)
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


def _present(record: Record, devices: Mapping[str, Device]) -> bool:
    """Whether the names of a record still stand for the same hardware."""
    return all(
        device.device in devices and devices[device.device].gpu.uuid == device.gpu_uuid for device in record.devices
    )
