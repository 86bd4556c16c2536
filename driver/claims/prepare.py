"""The prepare engine: what happens between the kubelet's call and our answer, for each claim by itself.

Order of effects of a prepare: record, hardware, record, CDI spec, then the answer; a claim on hardware that is used as
it is has only one record. Of an unprepare: CDI spec, hardware, record. A process that dies between two of them leaves
a record from which the kubelet's next call, whichever it is, comes out right.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from driver.cdi import spec
from driver.claims.allocation import Allocation, ClaimRef, check_ref, read_allocation
from driver.claims.errors import ClaimError, Reason
from driver.claims.hardware import Hardware
from driver.claims.plan import check_capacity, check_overlap, plan
from driver.claims.read import ClaimReader
from driver.claims.record import PreparedDevice, Record, State
from driver.devices.backend import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from driver.cdi.directory import SpecDirectory
    from driver.claims.metadata import MetadataFiles
    from driver.claims.records import Records
    from driver.claims.status import StatusWriter
    from driver.devices.backend import Backend
    from driver.devices.catalogue import Device
    from driver.devices.model import ContainerEdits
    from driver.kube.client import Api
    from driver.observe.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The kubelet gives a call 45 s and tries again only after more than a minute, so we use the time but answer within it.
ANSWER_MARGIN = 3.0
MAX_DEADLINE = 45.0
# A pod's end does not wait longer for hardware that does not answer; the rest is done when it does.
UNDO_PATIENCE = 20.0
UNDO_AGAIN = 10.0
# How long a device may take to be let go by a claim that is ending.
HOLDER_PATIENCE = 10.0


@dataclass(slots=True)
class _Turn:
    """Calls for one claim take turns. Lives only while a call for the claim is under way."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    unprepares: int = 0


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
    ) -> None:
        self._reader = ClaimReader(api)
        self._records = records
        self._specs = specs
        self._devices = devices
        self._driver = driver_name
        self._pool = pool
        self._boot_id = boot_id
        self._metrics = metrics
        self._published = published
        self._metadata = metadata
        self._status = status
        self._patience = patience
        self._released = asyncio.Event()
        """Set, and replaced, when a claim has let go of its devices."""
        self._hardware = Hardware(records.turn)
        self._turns: dict[str, _Turn] = {}
        self._under_way: set[asyncio.Task[Any]] = set()
        self._undoing: dict[str, asyncio.Task[None]] = {}

    async def prepare(
        self, claims: Iterable[tuple[str, str, str]], *, seconds_left: float | None
    ) -> dict[str, tuple[PreparedDevice, ...] | ClaimError]:
        """Prepare claims given as (namespace, name, uid), all at once. Answers for each UID, whatever happens."""
        deadline = _deadline(seconds_left)

        async def one(ref: ClaimRef) -> tuple[PreparedDevice, ...]:
            return (await self._prepare(ref, deadline)).devices

        return await self._each("prepare", claims, one)

    async def unprepare(self, claims: Iterable[tuple[str, str, str]]) -> dict[str, ClaimError | None]:
        """Unprepare claims given as (namespace, name, uid). A claim that was never prepared is a success.

        Asks the API server never, and waits for hardware only so long: a pod can always end.
        """
        return await self._each("unprepare", claims, self.release)

    async def release(self, ref: ClaimRef) -> None:
        """Unprepare a claim of which nobody will ask that again."""
        await self._to_its_end(self._unprepare(ref))

    async def restore(self) -> None:
        """Write the specs of prepared claims that are missing; call it once the devices are known.

        A kubelet does not ask again for a claim that it knows as prepared, while a container that restarts needs the
        spec.
        """
        backend, devices = await self._devices()
        for record in self._records:
            if record.boot_id != self._boot_id or record.state is not State.PREPARED:
                continue
            with self._turn(record.claim.uid) as turn:
                async with turn.lock:
                    try:
                        async with self._records.exclusive():  # another instance may be about to end the claim
                            if (
                                _present(record, devices)
                                and self._records.read(record.claim.uid) == record
                                and not self._specs.settled(record.claim.uid)
                            ):
                                self._specs.write(record.claim.uid, self._render(record, backend, devices))
                                logger.warning("wrote a lost CDI spec again", extra={"claim": str(record.claim)})
                    except (ClaimError, OSError) as error:
                        logger.error("the CDI spec of claim %s cannot be restored: %s", record.claim, error)

    async def undo_leftovers(self) -> None:
        """See to it, for ever, that what could not be undone when a claim ended is undone when that is possible."""
        while True:
            try:
                await self._records.refresh()
            except ClaimError as error:
                logger.error("what is left to undo cannot be read: %s", error)
            for record in self._records:
                if record.state is State.UNDOING:
                    self._start_undo(record)
            await asyncio.sleep(UNDO_AGAIN)

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
                    outcome = ClaimError(Reason.INTERNAL, f"{operation} failed unexpectedly: {error!r}")
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
        about: dict[str, Any] = {
            "claim": f"{namespace[:63]}/{name[:253]}",
            "claim_uid": uid[:63],
            "duration_ms": round(seconds * 1000, 3),
        }
        if isinstance(outcome, ClaimError):
            self._metrics.errors.labels(operation, outcome.reason).inc()
            logger.warning("%s failed: %s", operation, outcome, extra={**about, "reason": str(outcome.reason)})
        else:
            if isinstance(outcome, tuple):
                about["devices"] = [device.device for device in outcome]
            logger.info("%sd claim", operation, extra=about)

    async def _prepare(self, ref: ClaimRef, deadline: float) -> Record:
        with self._turn(ref.uid) as turn:
            while True:
                unprepares = turn.unprepares
                with self._metrics.phase("claim_read"):
                    claim = await self._reader.read(ref, deadline)
                allocation = read_allocation(claim, ref=ref, driver=self._driver)
                work = self._start(self._commit(allocation, turn, unprepares, deadline))
                done, _ = await asyncio.wait({work}, timeout=max(deadline - time.monotonic(), 0))
                if not done:
                    raise ClaimError(
                        Reason.DEADLINE,
                        f"claim {ref} is not prepared yet: the hardware takes its time. Work goes on, and what is "
                        "ready by then is found when the kubelet asks again",
                    )
                record = work.result()
                if record is not None:
                    return record
                # The claim was unprepared while we were reading it, so what we read may be of the past.

    async def _commit(self, allocation: Allocation, turn: _Turn, unprepares: int, deadline: float) -> Record | None:
        """Everything after the claim was read; None when an unprepare came in between."""
        with self._turn(allocation.claim.uid):
            async with turn.lock:
                if turn.unprepares != unprepares:
                    return None
                wanted = lambda: turn.unprepares == unprepares  # noqa: E731
                return await self._prepare_allocated(allocation, deadline, wanted)

    async def _prepare_allocated(self, allocation: Allocation, deadline: float, wanted: Callable[[], bool]) -> Record:
        claim = allocation.claim
        try:
            backend, devices = await self._devices()
        except BackendError as error:
            raise ClaimError(Reason.HARDWARE, f"claim {claim} cannot be prepared: {error}") from error
        known = self._records.read(claim.uid)
        same = known is not None and known.allocation == allocation.fingerprint and known.boot_id == self._boot_id
        if known is not None and same and known.state is State.PREPARED and _present(known, devices):
            if not self._settled(claim):
                self._write_spec(known, backend, devices)
            return known
        again = same and known is not None and known.state is State.PREPARING
        if known is not None and not again:
            await self._retire(known, deadline)
        if not again:
            # Of another allocation. Were it still there after a crash, the new record would be answered with it.
            self._remove_spec(claim)
        with self._metrics.phase("plan"):
            record = plan(
                allocation,
                devices=devices,
                pool=self._pool,
                driver=self._driver,
                boot_id=self._boot_id,
                prepared_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                metadata=allocation.metadata_directory if self._metadata else None,
            )
            if known is not None:
                record = replace(record, unknown=known.unknown)
            record = await self._with_existing_partitions(record)

        async def take() -> Record:
            if record.state is State.PREPARED:
                await self._claim_devices(record)
                return record
            return await self._change_hardware(record, backend, devices, deadline, wanted)

        record = await self._when_free(take, deadline)
        self._write_spec(record, backend, devices)
        if self._status:
            self._status.want(record)
        return record

    async def _retire(self, old: Record, deadline: float) -> None:
        """Undo what a claim had before: another allocation, another boot, or an unprepare that is not through."""
        if old.boot_id == self._boot_id and _makes(old):
            async with self._records.exclusive() as changes:
                if self._records.read(old.claim.uid) != old:
                    raise ClaimError(
                        Reason.REPLACED, f"claim {old.claim} is in the hands of another instance of the driver just now"
                    )
                self._remove_spec(old.claim)
                old = old.with_state(State.UNDOING)
                changes.put(old)
            undo = self._start_undo(old)
            await asyncio.wait({undo}, timeout=max(deadline - time.monotonic(), 0))
            if self._records.read(old.claim.uid) is not None:
                names = ", ".join(device.device for device in old.devices)
                raise ClaimError(
                    Reason.HARDWARE,
                    f"claim {old.claim} has a new allocation, but {names} of the former one could not be undone yet",
                )

    async def _when_free(self, take: Callable[[], Awaitable[Record]], deadline: float) -> Record:
        """Try again while another claim that holds a device may be ending.

        A pod that is deleted without grace is gone from the API before its containers are from the node, so its device
        may be allocated anew already. The kubelet would ask again only after more than a minute.
        """
        # A little before the deadline, so that the answer names the holder and not the deadline.
        until = min(deadline - 0.5, time.monotonic() + self._patience)
        while True:
            released = self._released
            try:
                return await take()
            except ClaimError as error:
                left = until - time.monotonic()
                if error.reason is not Reason.IN_USE or left <= 0:
                    raise
            with contextlib.suppress(TimeoutError):  # another instance may have released it, which nobody tells us
                async with asyncio.timeout(min(left, 1.0)):
                    await released.wait()

    async def _drop(self, claim: ClaimRef) -> None:
        """Remove a record; whoever waits for its devices looks again."""
        async with self._records.exclusive() as changes:
            self._remove_spec(claim)  # an instance that has just started may have restored it
            changes.remove(claim.uid)
        self._released.set()
        self._released = asyncio.Event()

    async def _claim_devices(self, record: Record) -> None:
        waiting = time.perf_counter()
        async with self._records.exclusive() as changes:
            self._metrics.phases.labels("lock_wait").observe(time.perf_counter() - waiting)
            for device in record.devices:
                check_overlap(record, self._records.held.rivals(device))
                if device.consumed:
                    amounts = self._published(device.device).get("capacity") or {}
                    check_capacity(
                        record, device, self._records.held, {name: amount["value"] for name, amount in amounts.items()}
                    )
            with self._metrics.phase("record"):
                changes.put(record)

    async def _change_hardware(
        self,
        record: Record,
        backend: Backend,
        devices: Mapping[str, Device],
        deadline: float,
        wanted: Callable[[], bool],
    ) -> Record:
        """Make what a record needs. Where a former try may have got somewhere, what is found there is ours."""
        async with self._hardware.turn(record, deadline=deadline):
            known = await self._on_disk(record)  # another instance may have had the call before us
            if known is not None and known.state is State.PREPARED and _present(known, devices):
                return known
            again = known is not None and known.state is not State.PREPARED
            with self._metrics.phase("hardware"):
                if not again:
                    await self._hardware.check_free(record, backend, self._known_partitions)
                if time.monotonic() >= deadline:  # nobody waits any more, and an unprepare may have gone elsewhere
                    raise ClaimError(Reason.DEADLINE, f"claim {record.claim}: GPU too slow, nothing has been changed")
                await self._claim_devices(record)
                try:
                    made = await self._hardware.make(record, backend, devices)
                    prepared = replace(record, devices=made, state=State.PREPARED)
                    if not (wanted() and await self._finish(prepared)):  # unprepared while the hardware was at it
                        raise ClaimError(Reason.REPLACED, f"claim {record.claim} was unprepared meanwhile")
                except ClaimError:
                    await self._take_back(record, backend)
                    raise
        return prepared

    async def _on_disk(self, record: Record) -> Record | None:
        """The record as it is now, if it is there and for the same allocation, with the index refreshed."""
        async with self._records.exclusive():
            known = self._records.read(record.claim.uid)
        same = known is not None and (known.allocation, known.boot_id) == (record.allocation, record.boot_id)
        return known if same else None

    async def _finish(self, record: Record) -> bool:
        """Store what has been made; not if the claim was unprepared meanwhile, here or by another instance."""
        async with self._records.exclusive() as changes:
            known = self._records.read(record.claim.uid)
            if known is None or known.state is not State.PREPARING or known.allocation != record.allocation:
                return False
            changes.put(record)
            return True

    async def _take_back(self, record: Record, backend: Backend) -> None:
        """After a failed change, in our turn: leave nothing behind, or a record that says what may be left."""
        try:
            await self._hardware.undo(record, backend, self._used_by_others(record))
        except ClaimError as error:
            logger.error("%s; what may be left is undone later", error)
            await self._store(record.with_state(State.UNDOING))
        else:
            await self._drop(record.claim)

    async def _unprepare(self, ref: ClaimRef) -> None:
        with self._turn(ref.uid) as turn:
            turn.unprepares += 1
            async with contextlib.AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(UNDO_PATIENCE):
                        await stack.enter_async_context(turn.lock)
                except TimeoutError:  # the hardware hangs in a prepare; that takes back what it makes when it ends
                    logger.error("claim %s is unprepared while its hardware does not answer", ref)
                await self._release(ref)

    async def _release(self, ref: ClaimRef) -> None:
        self._remove_spec(ref)
        if self._status:
            self._status.forget(ref)
        if self._metadata:
            self._metadata.remove(ref)
        record = self._records.read(ref.uid)
        if record is None:
            return
        if not _makes(record) or record.boot_id != self._boot_id:
            await self._drop(ref)
            return
        record = record.with_state(State.UNDOING)
        stored = None
        try:
            await self._store(record)
        except ClaimError as error:  # a full disk must not keep the pod; without the note only a crash would matter
            stored = error
        undo = self._start_undo(record, noted=stored is None)
        await asyncio.wait({undo}, timeout=UNDO_PATIENCE)
        if self._records.read(ref.uid) is not None:
            if stored is not None:
                raise stored
            logger.error("what was made for claim %s is not undone yet; the pod does not wait for it", ref)

    def _remove_spec(self, ref: ClaimRef) -> None:
        with self._about_spec("remove", ref):
            if self._specs.exists(ref.uid):  # a directory that is read-only refuses even what has nothing to do
                self._specs.remove(ref.uid)

    def _settled(self, ref: ClaimRef) -> bool:
        with self._about_spec("write", ref):
            return self._specs.settled(ref.uid)

    @contextlib.contextmanager
    def _about_spec(self, verb: str, ref: ClaimRef) -> Iterator[None]:
        """Say which file of which claim an error is about."""
        try:
            yield
        except OSError as error:
            path = self._specs.path(ref.uid)
            raise ClaimError(Reason.CDI, f"cannot {verb} CDI spec {path}: {error.strerror}") from error

    def _start_undo(self, record: Record, *, noted: bool = True) -> asyncio.Task[None]:
        """Undo a record in the background, or join the undo that is under way; ``noted``: the file says so too."""
        uid = record.claim.uid
        task = self._undoing.get(uid)
        if task is None:
            task = asyncio.create_task(self._undo(record, noted), name=f"undo {uid}")
            self._undoing[uid] = task
            task.add_done_callback(lambda _: self._undoing.pop(uid, None))
        return task

    async def _undo(self, record: Record, noted: bool) -> None:
        """Destroy what was made for a record, then remove it. Errors are logged; the record stays for the next try."""
        try:
            if record.boot_id != self._boot_id:  # what was made before a reboot is gone with it
                await self._drop(record.claim)
                return
            backend, _ = await self._devices()
            async with self._hardware.turn(record, deadline=time.monotonic() + UNDO_PATIENCE):
                known = await self._on_disk(record)
                if known is None or (noted and known.state is not State.UNDOING):
                    return  # another instance was quicker, and the device may be somebody else's by now
                await self._hardware.undo(record, backend, self._used_by_others(record))
                await self._drop(record.claim)
        except (ClaimError, BackendError) as error:
            logger.error("what was made for claim %s is not undone yet, trying again later: %s", record.claim, error)

    async def _store(self, record: Record) -> None:
        async with self._records.exclusive() as changes:
            changes.put(record)

    def _write_spec(self, record: Record, backend: Backend, devices: Mapping[str, Device]) -> None:
        with self._metrics.phase("cdi"):
            if self._metadata:
                self._metadata.write(record)
            content = self._render(record, backend, devices)
            with self._about_spec("write", record.claim):
                self._specs.write(record.claim.uid, content)

    def _render(self, record: Record, backend: Backend, devices: Mapping[str, Device]) -> bytes:
        try:
            return spec.render(
                self._driver,
                backend.common_edits(),
                {
                    spec.device_name(record.claim.uid, device.device, device.share_id): self._edits(
                        record, device, backend, devices
                    )
                    for device in record.devices
                },
            )
        except spec.SpecError as error:
            raise ClaimError(Reason.CDI, f"claim {record.claim}: {error}") from error
        except BackendError as error:
            raise ClaimError(Reason.HARDWARE, f"claim {record.claim}: {error}") from error

    def _edits(
        self, record: Record, device: PreparedDevice, backend: Backend, devices: Mapping[str, Device]
    ) -> ContainerEdits:
        edits = backend.device_edits(devices[device.device].gpu, device.partition)
        if self._metadata:
            edits = replace(edits, mounts=edits.mounts + self._metadata.edits(record, device).mounts)
        return edits

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
        devices = []
        for device in record.devices:
            if device.placement is not None and device.admin:
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

    def _used_by_others(self, record: Record) -> Callable[[PreparedDevice], bool]:
        """Whether another claim uses the same device, as a share."""

        def used(device: PreparedDevice) -> bool:
            return any(
                held.device == device.device and not held.admin
                for holder in self._records.held.of(device.gpu_uuid)
                if holder.claim.uid != record.claim.uid
                for held in holder.devices
            )

        return used

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = self._start(work)
        await asyncio.wait({task})
        return task.result()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work that goes on when the caller stops waiting: half-done is never left because a deadline passed.

        Wait for it with ``asyncio.wait``, which does not cancel it and is cheaper than a shield.
        """
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits gets it; asyncio need not complain for those who do not

    @contextlib.contextmanager
    def _turn(self, uid: str) -> Iterator[_Turn]:
        turn = self._turns.setdefault(uid, _Turn())
        turn.users += 1
        try:
            yield turn
        finally:
            turn.users -= 1
            if turn.users == 0:
                del self._turns[uid]


def _deadline(seconds_left: float | None) -> float:
    return time.monotonic() + min(seconds_left or MAX_DEADLINE, MAX_DEADLINE) - ANSWER_MARGIN


def _makes(record: Record) -> bool:
    """Whether hardware was changed for this claim in a way that has to be undone."""
    return any(device.placement is not None and not device.admin for device in record.devices)


def _present(record: Record, devices: Mapping[str, Device]) -> bool:
    """Whether the names of a record still stand for the same hardware."""
    return all(
        device.device in devices and devices[device.device].gpu.uuid == device.gpu_uuid for device in record.devices
    )
