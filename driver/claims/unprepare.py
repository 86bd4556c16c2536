"""Unprepare: what a claim had is let go. Order of effects: CDI spec, hardware, record.

It asks the API server never, and waits for hardware and for the CDI root only so long: a pod can always end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from driver.claims.errors import ClaimError
from driver.claims.undo import PATIENCE, Undo, makes

if TYPE_CHECKING:
    from driver.claims.allocation import ClaimRef
    from driver.claims.common import Common

logger = logging.getLogger(__name__)


class Unprepare:
    """Ends claims, one call for each."""

    def __init__(self, common: Common, undo: Undo) -> None:
        self._records = common.records
        self._specs = common.specs
        self._locks = common.locks
        self._pods = common.pods
        self._status = common.told.status
        self._undo = undo

    async def run(self, ref: ClaimRef) -> None:
        """Unprepare a claim, after what is under way for it if that does not take too long. Raises ClaimError."""
        with self._locks.of(ref.uid) as claim:
            claim.unprepares += 1
            async with contextlib.AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(PATIENCE):
                        await stack.enter_async_context(claim.lock)
                except TimeoutError:  # the hardware hangs in a prepare; that takes back what it makes when it ends
                    logger.error("claim %s is unprepared while its hardware does not answer", ref)
                await self._release(ref)

    async def _release(self, ref: ClaimRef) -> None:
        record = self._records.read(ref.uid)
        if record is None and self._records.knows(ref.uid):  # somebody has removed it, or another instance ended it
            await self._records.refresh(look=True)
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
        self._pods.forget(ref.uid)
        if record is None:
            return
        if removed and (not makes(record) or record.boot_id != self._records.boot_id):
            await self._undo.drop(ref)
            return
        await self._undo.release(record)
