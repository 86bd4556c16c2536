"""Keeps up to date who claims are reserved for, without a watch on all claims of the cluster.

A claim made from a template has one pod for good. Any other one may get more pods, and the kubelet tells a driver of
the first one only: those are read again now and then, a few at a time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from driver.base.repeat_filter import RepeatFilter
from driver.claims import is_of_one_pod, reserved_pods
from driver.kube import ApiError, claim_path, uid_of

if TYPE_CHECKING:
    from driver.claims import ClaimPods, ClaimRef, Records
    from driver.kube import Api

logger = logging.getLogger(__name__)

PERIOD = 15.0
FRESH = 30.0
"""Seconds for which what was read is good."""
AT_ONCE = 16
"""Claims that are read in one round."""


class PodRefresher:
    """Reads claims that may have got other pods."""

    def __init__(
        self, api: Api, records: Records, pods: ClaimPods, *, period: float = PERIOD, fresh: float = FRESH
    ) -> None:
        self._api = api
        self._records = records
        self._pods = pods
        self._period = period
        self._fresh = fresh
        self._repeats = RepeatFilter()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._period)

    async def refresh(self) -> None:
        """One round: those that were not read for longest."""
        claims = {record.claim.uid: record for record in self._records if not record.salvaged_from}
        self._pods.prune(claims)
        open_ = (uid for uid, record in claims.items() if not (record.of_one_pod and record.pods))
        ages = {uid: age for uid in open_ if (age := self._pods.age(uid)) is not None and age >= self._fresh}
        for uid in sorted(ages, key=lambda uid: -ages[uid])[:AT_ONCE]:
            try:
                await self._read(claims[uid].claim)
            except ApiError as error:
                if error.transient:  # the others would not be answered either
                    if self._repeats.is_news("", str(error)):
                        logger.warning("whose claims are is as it was last read: %s", error)
                    return
                # One that is gone, or may not be read, keeps its pods until it ends, and others have their turn.
                self._pods.set(uid, self._pods.known().get(uid, claims[uid].pods), of_one_pod=False)
        self._repeats.over("")

    async def _read(self, claim: ClaimRef) -> None:
        path = claim_path(claim.namespace, claim.name)
        found = await self._api.get(path)
        if uid_of(found, path) == claim.uid:
            self._pods.set(claim.uid, reserved_pods(found), of_one_pod=is_of_one_pod(found))
