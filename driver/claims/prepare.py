"""The prepare engine: what happens between the kubelet's call and our answer, for each claim by itself.

Order of effects of a prepare: record, then CDI spec, then the answer. Of an unprepare: CDI spec, then record. A process
that dies between two of them leaves a record from which the kubelet's next call, whichever it is, comes out right.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity

from driver.cdi import spec
from driver.claims.allocation import Allocation, ClaimRef, check_ref, read_allocation
from driver.claims.errors import ClaimError, Reason
from driver.claims.plan import check_overlap, plan
from driver.devices.backend import BackendError
from driver.kube.client import RESOURCE, Api, ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from driver.cdi.directory import SpecDirectory
    from driver.claims.record import PreparedDevice, Record
    from driver.claims.records import Records
    from driver.devices.backend import Backend
    from driver.devices.model import Gpu
    from driver.observe.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The kubelet gives a call 45 s and tries again only after more than a minute, so we use the time but answer within it.
ANSWER_MARGIN = 3.0
MAX_DEADLINE = 45.0
# One GET is quick or it is stuck: a new connection is tried rather than the whole deadline spent on a dead one.
READ_TIMEOUT = 8.0
CONCURRENT_READS = 48


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
        devices: Callable[[], Awaitable[tuple[Backend, Mapping[str, Gpu]]]],
        driver_name: str,
        pool: str,
        boot_id: str,
        metrics: Metrics,
    ) -> None:
        self._api = api
        self._records = records
        self._specs = specs
        self._devices = devices
        self._driver = driver_name
        self._pool = pool
        self._boot_id = boot_id
        self._metrics = metrics
        self._turns: dict[str, _Turn] = {}
        self._reads = asyncio.Semaphore(CONCURRENT_READS)

    async def prepare(
        self, claims: Iterable[tuple[str, str, str]], *, seconds_left: float | None
    ) -> dict[str, tuple[PreparedDevice, ...] | ClaimError]:
        """Prepare claims given as (namespace, name, uid), all at once. Answers for each UID, whatever happens."""
        deadline = time.monotonic() + min(seconds_left or MAX_DEADLINE, MAX_DEADLINE) - ANSWER_MARGIN

        async def one(ref: ClaimRef) -> tuple[PreparedDevice, ...]:
            return (await self._prepare(ref, deadline)).devices

        return await self._each("prepare", claims, one)

    async def unprepare(self, claims: Iterable[tuple[str, str, str]]) -> dict[str, ClaimError | None]:
        """Unprepare claims given as (namespace, name, uid). A claim that was never prepared is a success.

        Asks neither the API server nor the hardware's driver: a pod can always end.
        """
        return await self._each("unprepare", claims, self._unprepare)

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

        answers = await asyncio.gather(*(answer(uid, namespace, name) for uid, (namespace, name) in by_uid.items()))
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
                    claim = await self._read_claim(ref, deadline)
                async with turn.lock:
                    if turn.unprepares == unprepares:
                        return await self._prepare_allocated(read_allocation(claim, ref=ref, driver=self._driver))
                    # The claim was unprepared while we were reading it, so what we read may be of the past.

    async def _prepare_allocated(self, allocation: Allocation) -> Record:
        claim = allocation.claim
        record = self._records.read(claim.uid)
        try:
            backend, gpus = await self._devices()
        except BackendError as error:
            raise ClaimError(Reason.HARDWARE, f"claim {claim} cannot be prepared: {error}") from error
        if (
            record is None
            or record.allocation != allocation.fingerprint
            or record.boot_id != self._boot_id
            or not self._present(record, gpus)
        ):
            with self._metrics.phase("plan"):
                record = plan(
                    allocation,
                    gpus=gpus,
                    pool=self._pool,
                    driver=self._driver,
                    boot_id=self._boot_id,
                    prepared_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                )
                content = self._render(record, backend, gpus)
            await self._claim_devices(record)
        elif self._specs.settled(claim.uid):
            return record
        else:
            content = self._render(record, backend, gpus)
        with self._metrics.phase("cdi"):
            try:
                self._specs.write(claim.uid, content)
            except OSError as error:
                path = self._specs.path(claim.uid)
                raise ClaimError(Reason.CDI, f"cannot write CDI spec {path}: {error.strerror}") from error
        return record

    async def restore(self) -> None:
        """Write the specs of prepared claims that are missing; call it once the devices are known.

        A kubelet does not ask again for a claim that it knows as prepared, while a container that restarts needs the
        spec.
        """
        backend, gpus = await self._devices()
        for record in self._records:
            if record.boot_id != self._boot_id or not self._present(record, gpus):
                continue
            with self._turn(record.claim.uid) as turn:
                async with turn.lock:
                    try:
                        if self._records.read(record.claim.uid) == record and not self._specs.settled(record.claim.uid):
                            self._specs.write(record.claim.uid, self._render(record, backend, gpus))
                            logger.warning("wrote a lost CDI spec again", extra={"claim": str(record.claim)})
                    except (ClaimError, OSError) as error:
                        logger.error("the CDI spec of claim %s cannot be restored: %s", record.claim, error)

    async def _claim_devices(self, record: Record) -> None:
        waiting = time.perf_counter()
        async with self._records.exclusive() as changes:
            self._metrics.phases.labels("lock_wait").observe(time.perf_counter() - waiting)
            for device in record.devices:
                check_overlap(record, self._records.holders(device.gpu_uuid))
            with self._metrics.phase("record"):
                changes.put(record)

    async def _unprepare(self, ref: ClaimRef) -> None:
        with self._turn(ref.uid) as turn:
            async with turn.lock:
                try:
                    self._specs.remove(ref.uid)
                except OSError as error:
                    path = self._specs.path(ref.uid)
                    raise ClaimError(Reason.CDI, f"cannot remove CDI spec {path}: {error.strerror}") from error
                if self._records.read(ref.uid) is not None:
                    async with self._records.exclusive() as changes:
                        changes.remove(ref.uid)
                turn.unprepares += 1

    async def _read_claim(self, ref: ClaimRef, deadline: float) -> dict[str, Any]:
        """GET the claim, again and again while the API server is away, as long as the kubelet waits."""
        path = f"{RESOURCE}/namespaces/{ref.namespace}/resourceclaims/{ref.name}"
        backoff = tenacity.wait_random_exponential(multiplier=0.05, max=2)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(backoff(state), getattr(error, "retry_after", None) or 0)

        try:
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception(lambda error: isinstance(error, ApiError) and error.transient),
                wait=wait,
                stop=lambda state: time.monotonic() + state.upcoming_sleep >= deadline,
                reraise=True,
            ):
                with attempt:
                    async with self._reads:
                        left = max(deadline - time.monotonic(), 0.1)
                        return await self._api.get(path, timeout=min(READ_TIMEOUT, left))
        except ApiError as error:
            if error.status == 404:
                raise ClaimError(Reason.NOT_FOUND, f"claim {ref} does not exist (any more)") from error
            if error.status in {401, 403}:
                raise ClaimError(
                    Reason.API,
                    f"the driver may not read claim {ref}; its ServiceAccount needs the verb 'get' on "
                    f"'resourceclaims' of resource.k8s.io: {error}",
                ) from error
            raise ClaimError(Reason.API, f"cannot read claim {ref}: {error}") from error
        raise AssertionError("tenacity ends with a result or an error")

    def _render(self, record: Record, backend: Backend, gpus: Mapping[str, Gpu]) -> bytes:
        try:
            return spec.render(
                self._driver,
                backend.common_edits(),
                {
                    spec.device_name(record.claim.uid, device.device, device.share_id): backend.device_edits(
                        gpus[device.device]
                    )
                    for device in record.devices
                },
            )
        except spec.SpecError as error:
            raise ClaimError(Reason.CDI, f"claim {record.claim}: {error}") from error

    @staticmethod
    def _present(record: Record, gpus: Mapping[str, Gpu]) -> bool:
        """Whether the names of a record still stand for the same hardware."""
        return all(device.device in gpus and gpus[device.device].uuid == device.gpu_uuid for device in record.devices)

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
