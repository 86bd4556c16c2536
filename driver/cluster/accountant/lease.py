"""Who counts: one of several accountants, by a Lease. Two that both believe it is them do no harm, see ``writing``."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from driver.cluster.accountant.period import iso
from driver.kube import ApiError, check_object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from driver.kube import Api

logger = logging.getLogger(__name__)

DURATION = 15.0
"""Seconds without a sign of life after which another takes over."""
RENEW = 3.0
DEADLINE = 10.0
"""Seconds without a renewal after which the holder stops by itself: sooner than anybody takes over."""


class LeaseLostError(Exception):
    """Somebody else counts now, or may."""


class Lease:
    """One Lease object. What another's record says of the time is not believed, only that it changes."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        now: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``now``: the API server's time, for people who look at the object."""
        self._api = api
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{name}"
        self._name = name
        self._identity = identity
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._seen: tuple[str, float] | None = None
        """Version of the record, and when it was first seen."""
        self.held = False

    async def acquire(self) -> None:
        """Wait until it is ours."""
        while not await self._take():
            await self._sleep(RENEW)
        self.held = True
        logger.info("this instance counts now", extra={"identity": self._identity})

    async def keep(self) -> None:
        """Renew it for ever. Raises LeaseLostError."""
        renewed = self._clock()
        while True:
            await self._sleep(RENEW)
            try:
                kept = await self._take()
            except ApiError as error:
                logger.warning("the lease was not renewed: %s", error)
                if self._clock() - renewed < DEADLINE:
                    continue
                kept = False
            if not kept:
                self.held = False
                raise LeaseLostError("the lease is lost: another instance may count now")
            renewed = self._clock()

    async def give_back(self) -> None:
        """So that another need not wait. Does its best."""
        if not self.held:
            return
        self.held = False
        try:
            found = check_object(await self._api.get(self._path), self._path)
            if _spec(found).get("holderIdentity") == self._identity:
                await self._write(found, holder="")
        except ApiError as error:
            logger.info("the lease was not given back: %s", error)

    async def _take(self) -> bool:
        """Make it ours, or ours for longer. Raises ApiError where it is not known whose it is."""
        try:
            found = check_object(await self._api.get(self._path, timeout=5), self._path)
        except ApiError as error:
            if error.status != 404:
                raise
            return await self._create()
        holder, version = _spec(found).get("holderIdentity") or "", found["metadata"]["resourceVersion"]
        if holder not in {"", self._identity}:
            if self._seen is None or self._seen[0] != version:
                self._seen = version, self._clock()
            if self._clock() - self._seen[1] < DURATION:
                return False
        try:
            await self._write(found, holder=self._identity)
        except ApiError as error:
            if error.status == 409:  # somebody was faster
                return False
            raise
        return True

    async def _create(self) -> bool:
        body = {"metadata": {"name": self._name}, "spec": self._record(self._identity, changes=0)}
        try:
            await self._api.request("POST", self._collection, body=body, timeout=5)
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        return True

    async def _write(self, found: dict[str, Any], *, holder: str) -> None:
        spec = _spec(found)
        before, changes = spec.get("holderIdentity"), spec.get("leaseTransitions")
        changes = changes if isinstance(changes, int) else 0
        record = self._record(holder, changes=changes + (holder != before))
        if holder == before and "acquireTime" in spec:
            record["acquireTime"] = spec["acquireTime"]
        await self._api.request("PUT", self._path, body={**found, "spec": record}, timeout=5)

    def _record(self, holder: str, *, changes: int) -> dict[str, Any]:
        now = iso(self._now()).replace("Z", "000Z")  # microseconds
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": round(DURATION),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": changes,
        }


def _spec(found: dict[str, Any]) -> dict[str, Any]:
    spec = found.get("spec")
    return spec if isinstance(spec, dict) else {}
