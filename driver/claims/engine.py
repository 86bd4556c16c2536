"""The engine: the kubelet's calls, one answer for each claim, and what goes on beside them."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

from driver.claims.allocation import ClaimRef, check_ref
from driver.claims.background import Background
from driver.claims.chores.renew import Renewal
from driver.claims.chores.supervise import Supervisor
from driver.claims.errors import ClaimError, Reason
from driver.claims.prepare import Prepare, Prepared
from driver.claims.read import ClaimReader
from driver.claims.undo import Undo
from driver.claims.unprepare import Unprepare

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Set

    from driver.claims.common import Common
    from driver.claims.ledger.record import PreparedDevice, Record
    from driver.kube import Api

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The kubelet gives a call 45 s and tries again only after more than a minute, so we use the time but answer within it.
ANSWER_MARGIN = 3.0
MAX_DEADLINE = 45.0


class Engine:
    """Prepares and unprepares claims. Stateless between calls but for the files: any instance may get any call."""

    def __init__(self, common: Common, *, api: Api) -> None:
        self._records = common.records
        self._metrics = common.told.metrics
        self._background = Background()
        self._undo = Undo(common)
        self._renewal = Renewal(common)
        self._supervisor = Supervisor(common)
        reader = ClaimReader(api, driver=common.terms.driver)
        self._prepare = Prepare(
            common, reader=reader, undo=self._undo, renewal=self._renewal, background=self._background
        )
        self._unprepare = Unprepare(common, self._undo)

    async def prepare(
        self, claims: Iterable[tuple[str, str, str]], *, seconds_left: float | None
    ) -> dict[str, tuple[PreparedDevice, ...] | ClaimError]:
        """Prepare claims given as (namespace, name, uid), all at once. Answers for each UID, whatever happens."""
        deadline = _deadline(seconds_left)

        async def one(ref: ClaimRef) -> Prepared:
            return await self._prepare.run(ref, deadline)

        outcomes = await self._each("prepare", claims, one)
        return {uid: one if isinstance(one, ClaimError) else one.devices for uid, one in outcomes.items()}

    async def unprepare(self, claims: Iterable[tuple[str, str, str]]) -> dict[str, ClaimError | None]:
        """Unprepare claims given as (namespace, name, uid). A claim that was never prepared is a success.

        Asks the API server never, and waits for hardware only so long: a pod can always end.
        """
        return await self._each("unprepare", claims, self.release)

    async def release(self, ref: ClaimRef) -> None:
        """Unprepare a claim of which nobody will ask that again."""
        await self._background.to_its_end(self._unprepare.run(ref))

    async def restore(self) -> list[Record]:
        """Bring the specs of prepared claims to what the hardware is; the records of those that were written.

        To be called whenever the devices were read; waits for them. Raises BackendError.
        """
        return await self._renewal.run()

    @property
    def unsettled(self) -> Set[str]:
        """UIDs of claims whose specs are not what they should be, although that was tried; worth another try."""
        return self._renewal.failed

    async def undo_leftovers(self) -> None:
        """See to it, for ever, that what could not be undone when a claim ended is undone when that is possible."""
        await self._undo.leftovers()

    async def watch_mps(self) -> None:
        """See to it, for ever, that the MPS daemons of prepared claims run."""
        await self._supervisor.run()

    async def settle(self, *, within: float) -> None:
        """Wait for work that goes on after its caller has gone, so many seconds at the most."""
        await self._background.settle(within=within)

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
        if isinstance(outcome, Prepared) and not outcome.anew and not logger.isEnabledFor(logging.DEBUG):
            return  # a kubelet that starts asks for every claim of its node
        about: dict[str, Any] = {
            "claim": f"{namespace[:63]}/{name[:253]}",
            "claim_uid": uid[:63],
            "duration_ms": round(seconds * 1000, 3),
        }
        if isinstance(outcome, ClaimError):
            self._metrics.errors.labels(operation, outcome.reason).inc()
            logger.warning("%s failed: %s", operation, outcome, extra={**about, "reason": str(outcome.reason)})
        elif isinstance(outcome, Prepared):
            about["devices"] = [device.device for device in outcome.devices]
            if outcome.anew:
                logger.info("prepared claim", extra=about)
            else:
                logger.debug("claim was prepared already", extra=about)
        else:
            logger.info("unprepared claim", extra=about)


def _deadline(seconds_left: float | None) -> float:
    given = MAX_DEADLINE if seconds_left is None else min(seconds_left, MAX_DEADLINE)
    return time.monotonic() + given - ANSWER_MARGIN
