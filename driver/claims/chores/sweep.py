"""What nobody will ever ask for again: records of claims that are gone, CDI specs and other files without a record.

A claim counts as gone only when the API server says so by UID. It is asked once after each registration with the
kubelet: a kubelet that remembers its claims unprepares them itself, and one that has forgotten them has been started
anew. Even when a claim is gone its containers may still run, for instance after a forced deletion while the kubelet is
away: its devices are let go only when that has been so for a while and no process is on them, or when the node has
rebooted since. A CDI spec whose record was lost does not tell its name, so that nobody can be asked; a container
that restarts needs it, so what it names is held as carefully. What a damaged record leaves is held until the kubelet
unprepares it, or somebody who knows more deletes the damaged file.

Here goes, too, what killed instances left half-written while another lived on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from driver.base import files
from driver.claims.allocation import is_of_one_pod, reserved_pods
from driver.claims.errors import ClaimError
from driver.claims.ledger.damage import UNKNOWN
from driver.kube import Api, ApiError, claim_path, uid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from driver.claims.allocation import ClaimRef
    from driver.claims.common import Common
    from driver.claims.engine import Engine
    from driver.claims.metadata import MetadataFiles

logger = logging.getLogger(__name__)

PERIOD = 300.0
LET_GO_PERIOD = 10.0
GRACE = 600.0


class Sweeper:
    """Looks through the records every few minutes."""

    def __init__(
        self,
        common: Common,
        *,
        api: Api,
        engine: Engine,
        metadata: MetadataFiles,
        registered_at: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args are what they are called, but for these.

        metadata: also where new claims get no such files, there may be those of earlier ones.
        registered_at: when the kubelet took us last, by the same clock.
        """
        self._api = api
        self._records = common.records
        self._specs = common.specs.directory
        self._devices = common.devices
        self._engine = engine
        self._metadata = metadata
        self._pods = common.pods
        self._registered_at = registered_at
        self._clock = clock
        self._gone_since: dict[str, float] = {}

    async def run(self) -> None:
        """Sweep for ever, first after one period: a kubelet that has just started asks for its claims by then."""
        while True:
            # Not in step with the drivers of other nodes.
            for _ in range(int(PERIOD / LET_GO_PERIOD * (1 + random.random()))):  # noqa: S311
                await asyncio.sleep(LET_GO_PERIOD)
                await self._try(self.let_go())
            await self._try(self.sweep())
            await self._try(self.tidy())

    async def _try(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (ApiError, ClaimError, OSError) as error:
            logger.warning("looking for stale records failed, trying again later: %s", error)

    async def let_go(self) -> None:
        """Release what is only held because of a damaged record, where an operator has deleted that."""
        for record in self._records:
            if record.salvaged_from == str(self._specs.path(record.claim.uid)):
                continue  # of a lost record; that somebody has removed the spec does not end containers
            if record.salvaged_from and files.status(record.salvaged_from) is None:
                logger.warning("%s was deleted: what claim UID %s held is free", record.salvaged_from, record.claim.uid)
                await self._engine.release(record.claim)

    async def tidy(self) -> None:
        """Remove what other instances left half-written when they were killed."""
        await self._records.tidy()
        self._specs.tidy()

    async def sweep(self) -> None:
        """One look at everything. Raises ApiError when the API server does not answer; then nothing is touched."""
        now = self._clock()
        self._records.hold_by_specs()
        damaged = self._records.quarantine.by_uid().keys()
        for record in self._records:
            uid = record.claim.uid
            nameless = record.claim.name == UNKNOWN and bool(record.salvaged_from)  # nobody can ask for it
            if nameless and uid in damaged:
                continue
            if not nameless and not await self._gone(record.claim):
                self._gone_since.pop(uid, None)
                continue
            since = self._gone_since.setdefault(uid, now)
            gpus = [device.gpu_uuid for device in record.devices if not device.admin]
            if record.boot_id == self._records.boot_id and not await self._unused_since(since, gpus):
                continue
            logger.warning("claim %s (UID %s) is gone: its record is removed", record.claim, uid)
            await self._engine.release(record.claim)
        known = {record.claim.uid for record in self._records} | damaged
        strays = (self._specs.claim_uids() | self._metadata.claim_uids()) - known
        self._gone_since = {uid: since for uid, since in self._gone_since.items() if uid in known | strays}
        for uid in strays:
            self._sweep_stray(uid, now)

    def _sweep_stray(self, uid: str, now: float) -> None:
        """Remove files of a claim without a record, and without a device that the node has."""
        if self._records.read(uid) is not None:
            return
        early = self._clock() - self._gone_since.setdefault(uid, now) < GRACE
        if self._specs.exists(uid) and (early or not self._devices.nameable()):  # nobody can tell yet what it names
            return
        logger.warning("CDI spec %s or device metadata belong to no claim: removed", self._specs.path(uid))
        self._specs.remove(uid)
        self._metadata.discard(uid)

    async def _gone(self, claim: ClaimRef) -> bool:
        if self._pods.read_since(claim.uid, self._registered_at()):
            return False
        try:
            found = await self._api.get(claim_path(claim.namespace, claim.name))
        except ApiError as error:
            if error.status == 404:
                return True
            raise
        if uid_of(found, f"claim {claim}") != claim.uid:
            return True
        self._pods.set(claim.uid, reserved_pods(found), of_one_pod=is_of_one_pod(found))
        return False

    async def _unused_since(self, since: float, gpus: Iterable[str]) -> bool:
        return self._clock() - since >= GRACE and all([await self._devices.idle(gpu) for gpu in gpus])
