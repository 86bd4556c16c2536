"""The end of pods whose namespace has used up its hours: only where it was asked for, after a time of grace.

Claims go one after the other, the newest first. Pods are evicted, not deleted: disruption budgets are heeded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.cluster.accountant.period import iso
from driver.kube import ApiError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from driver.cluster.accountant.books import Books, Budget, Known
    from driver.cluster.accountant.tell import Teller
    from driver.cluster.objects import Key
    from driver.kube import Api

logger = logging.getLogger(__name__)

ROUND = 5.0
"""Seconds between claims of one namespace."""
AGAIN = 60.0
"""Seconds after which a pod that is still there is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A pod that is to go."""

    budget: Budget
    namespace: str
    pod: str


def evict_at(budget: Budget, grace: int) -> int | None:
    """When evictions begin; None while there is something left."""
    account = budget.account
    return None if account is None or account.spent is None else account.spent + grace


def order(claims: Iterable[tuple[Key, Known]]) -> list[Known]:
    """Those that take anything, the oldest last."""
    taking = [known for _, known in claims if known.weight]
    return sorted(taking, key=lambda known: known.since, reverse=True)


class Evictor:
    """Warns, waits, and evicts."""

    def __init__(
        self,
        api: Api,
        books: Books,
        teller: Teller,
        *,
        grace: int,
        now: Callable[[], int],
        in_step: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``grace`` in milliseconds."""
        self._api = api
        self._books = books
        self._teller = teller
        self._grace = grace
        self._now = now
        self._in_step = in_step
        self._clock = clock
        self._sleep = sleep
        self._warned: dict[Key, int] = {}
        self._asked: dict[Key, float] = {}
        """When a pod was asked to go."""

    async def run(self) -> None:
        """Evict what is due, for ever."""
        while True:
            if self._in_step():
                await self.round()
            await self._sleep(ROUND)

    async def round(self) -> None:
        """The pods of one claim in each namespace."""
        now, clock = self._now(), self._clock()
        self._asked = {key: at for key, at in self._asked.items() if clock - at < AGAIN}
        for due in self._due(now):
            self._asked[due.namespace, due.pod] = clock
            await self._evict(due)

    def _due(self, now: int) -> list[Due]:
        found: dict[str, list[Due]] = {}
        for budget in self._books.budgets.values():
            namespace, at = budget.quota.key[0], evict_at(budget, self._grace)
            if at is None:
                self._warned.pop(budget.quota.key, None)
                continue
            if self._warned.get(budget.quota.key) != at:
                self._warned[budget.quota.key] = at
                text = f"the GPU hours are used up: pods that hold GPUs are evicted from {iso(at)} on, the oldest last"
                self._teller.tell(budget.quota, "Warning", "GpuEvictionAhead", text)
            if now < at or namespace in found:
                continue
            for known in order(self._books.open_claims(namespace)):
                pods = [pod for pod in known.claim.pods if (namespace, pod) not in self._asked]
                if pods:
                    found[namespace] = [Due(budget=budget, namespace=namespace, pod=pod) for pod in pods]
                    break
        return [due for pods in found.values() for due in pods]

    async def _evict(self, due: Due) -> None:
        path = f"/api/v1/namespaces/{due.namespace}/pods/{due.pod}/eviction"
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": due.pod, "namespace": due.namespace},
        }
        try:
            await self._api.request("POST", path, body=body)
        except ApiError as error:
            if error.status != 404:
                logger.warning("pod %s/%s was not evicted: %s", due.namespace, due.pod, error)
            return
        text = f"pod {due.pod} was evicted: the GPU hours of its namespace are used up"
        self._teller.tell(due.budget.quota, "Warning", "GpuHoursEvicted", text)
