"""One term of office: from the lease until it is lost, with nothing kept from before but what stands on the quotas."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from driver.base.supervised import supervised
from driver.cluster.accountant.books import Books
from driver.cluster.accountant.budget import read_quota
from driver.cluster.accountant.evict import Evictor
from driver.cluster.accountant.period import read_time
from driver.cluster.accountant.tell import Teller
from driver.cluster.accountant.weigh import Weigher
from driver.cluster.accountant.writing import Pace, Writer
from driver.cluster.read_objects import read_claim
from driver.kube import RESOURCE, Mirror, check_object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from driver.cluster.objects import Claim, Key
    from driver.kube import Api

logger = logging.getLogger(__name__)

PAGE = 500
"""Claims that an answer has at most: all of them would be many times what is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What an administrator chooses."""

    driver: str = "gpu.nvidia.com"
    evict: bool = False
    grace: int = 600
    """Seconds."""
    pace: Pace = field(default_factory=Pace)


class Count:
    """Watches, books and writer, tied together."""

    def __init__(self, api: Api, policy: Policy, *, now: Callable[[], int]) -> None:
        self.books = Books()
        self._driver = policy.driver
        self._now = now
        self._heard = 0
        """When the watch of the claims last told anything."""
        self._passed = 0
        self._claims = Mirror(
            api, f"{RESOURCE}/resourceclaims", page=PAGE, changed=self._claims_changed, check=self._keep_claim
        )
        self._quotas = Mirror(api, "/api/v1/resourcequotas", changed=self._quotas_changed)
        self._teller = Teller(api, now=now)
        self._weigher = Weigher(api, self.books, driver=policy.driver, now=now)
        self.writer = Writer(
            api,
            self.books,
            driver=policy.driver,
            now=now,
            took=self._took,
            in_step=self._in_step,
            heard=lambda: self._heard,
            teller=self._teller,
            pace=policy.pace,
        )
        self.evictor = (
            Evictor(api, self.books, self._teller, grace=policy.grace * 1000, now=now, in_step=self._in_step)
            if policy.evict
            else None
        )

    def not_ready(self) -> list[str]:
        """What is missing until the figures are those of the cluster."""
        mirrors = {"ResourceClaims": self._claims, "ResourceQuotas": self._quotas}
        lines = [f"{name} are not listed yet" for name, mirror in mirrors.items() if not mirror.synced.is_set()]
        lines += [f"{name}: {mirror.error}" for name, mirror in mirrors.items() if mirror.error]
        if self._weigher.problem:
            lines.append(f"ResourceSlices: {self._weigher.problem}")
        return lines

    async def run(self) -> None:
        """Count until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name, work in self.work():
                tasks.create_task(supervised(work, name=name), name=name)

    async def finish(self) -> None:
        """Write once more, so that who comes next has nothing to guess."""
        await self.writer.write_due(everything=True)

    def work(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """What goes on all the time, with its name."""
        yield "claims", self._claims.run
        yield "quotas", self._run_quotas
        yield "weights", self._weigher.run
        yield "events", self._teller.run
        yield "accounts", self.writer.run
        if self.evictor:
            yield "evictions", self.evictor.run

    async def _run_quotas(self) -> None:
        # Without the claims, an account would take all that it holds for gone.
        await self._claims.synced.wait()
        await self._quotas.run()

    def _in_step(self) -> bool:
        if self._claims.passed != self._passed:  # bookmarks tell that nothing has happened
            self._passed, self._heard = self._claims.passed, self._now()
        synced = self._claims.synced.is_set() and self._quotas.synced.is_set()
        return synced and self._claims.error is None and self._quotas.error is None

    def _keep_claim(self, obj: Any, what: str) -> dict[str, Any] | None:
        """Of a claim that holds anything of ours, a fraction of what was sent; there are many."""
        metadata = check_object(obj, what)["metadata"]
        claim = read_claim(obj, driver=self._driver)
        if claim is None:
            return None
        kept = {key: metadata.get(key, "") for key in ("namespace", "name", "resourceVersion")}
        return {"metadata": kept, "claim": claim, "since": _since(metadata, claim)}

    def _claims_changed(self, key: Key | None) -> None:
        now, before = self._now(), self._heard
        self._heard = now
        if key is not None:
            found = self._claims.objects.get(key) or {}
            self.books.put_claim(key, found.get("claim"), now, since=found.get("since", now))
            return
        claims = {key: (found["claim"], found["since"]) for key, found in self._claims.objects.items()}
        self.books.list_claims(claims, now, seen=before)

    def _quotas_changed(self, key: Key | None) -> None:
        if key is not None:
            obj = self._quotas.objects.get(key)
            quota = read_quota(obj, driver=self._driver) if obj else None
            self.books.put_quota(quota, key, self._now())
            return
        found = {key: read_quota(obj, driver=self._driver) for key, obj in self._quotas.objects.items()}
        self.books.list_quotas({key: quota for key, quota in found.items() if quota}, self._now())

    def _took(self, answer: dict[str, Any]) -> None:
        self._quotas.put(answer)
        metadata = answer["metadata"]
        self._quotas_changed((metadata.get("namespace", ""), metadata["name"]))


def _since(metadata: dict[str, Any], claim: Claim) -> int:
    """When it was allocated, by the scheduler's clock, which may go wrong: never before the claim was there."""
    created = read_time(metadata.get("creationTimestamp")) or 0
    return max(created, round(claim.since.timestamp() * 1000)) if claim.since else created
