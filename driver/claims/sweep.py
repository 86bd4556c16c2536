"""What nobody will ever ask for again: records of claims that are gone, and CDI specs without a record.

A claim counts as gone only when the API server says so by UID. Even then its containers may still run, for instance
after a forced deletion while the kubelet is away: its devices are let go only when that has been so for a while and no
process is on them, or when the node has rebooted since.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from driver.claims.errors import ClaimError
from driver.kube.client import RESOURCE, Api, ApiError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from driver.cdi.directory import SpecDirectory
    from driver.claims.allocation import ClaimRef
    from driver.claims.record import Record
    from driver.claims.records import Records

logger = logging.getLogger(__name__)

PERIOD = 300.0
GRACE = 600.0


class Sweeper:
    """Looks through the records every few minutes. ``release`` unprepares a claim, ``idle`` says whether a GPU is."""

    def __init__(
        self,
        *,
        api: Api,
        records: Records,
        specs: SpecDirectory,
        boot_id: str,
        release: Callable[[ClaimRef], Awaitable[None]],
        idle: Callable[[str], Awaitable[bool]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._records = records
        self._specs = specs
        self._boot_id = boot_id
        self._release = release
        self._idle = idle
        self._clock = clock
        self._gone_since: dict[str, float] = {}

    async def run(self) -> None:
        """Sweep for ever, first after one period: a kubelet that has just started asks for its claims by then."""
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self.sweep()
            except (ApiError, ClaimError, OSError) as error:
                logger.warning("looking for stale records failed, trying again later: %s", error)

    async def sweep(self) -> None:
        """One look at everything. Raises ApiError when the API server does not answer; then nothing is touched."""
        now = self._clock()
        for record in self._records:
            uid = record.claim.uid
            if not await self._gone(record.claim):
                self._gone_since.pop(uid, None)
                continue
            since = self._gone_since.setdefault(uid, now)
            if record.boot_id == self._boot_id and (now - since < GRACE or not await self._unused(record)):
                continue
            logger.warning("claim %s (UID %s) is gone: its record is removed", record.claim, uid)
            await self._release(record.claim)
        known = {record.claim.uid for record in self._records} | self._records.quarantined_uids()
        self._gone_since = {uid: since for uid, since in self._gone_since.items() if uid in known}
        for uid in self._specs.claim_uids() - known:
            if self._records.read(uid) is None:
                logger.warning("CDI spec %s belongs to no claim: removed", self._specs.path(uid))
                self._specs.remove(uid)

    async def _gone(self, claim: ClaimRef) -> bool:
        try:
            found = await self._api.get(f"{RESOURCE}/namespaces/{claim.namespace}/resourceclaims/{claim.name}")
        except ApiError as error:
            if error.status == 404:
                return True
            raise
        return bool(found["metadata"]["uid"] != claim.uid)

    async def _unused(self, record: Record) -> bool:
        return all([await self._idle(device.gpu_uuid) for device in record.devices if not device.admin])
