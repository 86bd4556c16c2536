"""MPS daemons of prepared claims are kept alive: one that has died is started again, with an Event that says so.

It runs outside of our container and belongs to the record, not to the instance of the driver that started it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from driver.base.repeat_filter import RepeatFilter
from driver.base.threads import in_daemon_thread
from driver.claims.errors import ClaimError
from driver.claims.ledger.record import State
from driver.claims.undo import on_disk
from driver.hardware import BackendError, Sharer, sharer

if TYPE_CHECKING:
    from driver.claims.common import Common
    from driver.claims.ledger.record import Record
    from driver.hardware import Backend

logger = logging.getLogger(__name__)

PERIOD = 5.0
SWEEP_PERIOD = 3600.0
PATIENCE = 20.0


class Supervisor:
    """Looks after the daemons of all prepared claims."""

    def __init__(self, common: Common) -> None:
        self._records = common.records
        self._hardware = common.hardware
        self._devices = common.devices
        self._events = common.told.events
        self._down: set[str] = set()
        """Daemons of which it has been said that they are down."""
        self._repeats = RepeatFilter()

    async def run(self) -> None:
        """Look every few seconds, for ever."""
        next_sweep = 0.0
        while True:
            try:
                if time.monotonic() >= next_sweep:
                    await self.sweep()
                    next_sweep = time.monotonic() + SWEEP_PERIOD
                await self.check()
            except (ClaimError, BackendError, OSError) as error:
                if self._repeats.is_news("", str(error)):
                    logger.error("MPS daemons cannot be looked after, trying again: %s", error)
            else:
                if self._repeats.over(""):
                    logger.info("MPS daemons are looked after again")
            await asyncio.sleep(PERIOD)

    async def sweep(self) -> None:
        """Remove directories of daemons that no record knows: a reboot ends daemons without anybody's doing."""
        await self._records.refresh()
        shared = (device.sharing for record in self._records for device in record.devices)
        keep = {sharing.daemon for sharing in shared if sharing is not None}
        backend, _ = await self._devices.known()
        if isinstance(backend, Sharer):
            await in_daemon_thread(lambda: backend.sweep_mps(keep))

    async def check(self) -> None:
        """One look at every daemon. Raises ClaimError or BackendError where nothing can be known."""
        wanted = {}
        for record in self._records:
            if record.boot_id == self._records.boot_id and record.state is State.PREPARED:
                for device in record.devices:
                    if device.sharing is not None and device.sharing.daemon:
                        wanted[device.sharing.daemon] = record
        if not wanted:
            return
        backend, _ = await self._devices.known()
        for daemon, record in wanted.items():
            if sharer(backend).mps_runs(daemon):
                self._down.discard(daemon)
                self._repeats.over(daemon)
            else:
                await self._revive(daemon, record, backend)
        for daemon in self._down - wanted.keys():
            self._repeats.over(daemon)
        self._down &= wanted.keys()

    async def _revive(self, daemon: str, record: Record, backend: Backend) -> None:
        names = ", ".join(device.device for device in record.devices)
        try:
            async with self._hardware.lock(record, deadline=time.monotonic() + PATIENCE):
                known = await on_disk(self._records, record)
                if known is None or known.state is not State.PREPARED or sharer(backend).mps_runs(daemon):
                    return  # it has ended meanwhile, or another instance was quicker
                # With its mode, which is lost when the kernel driver is reloaded.
                await self._hardware.share(known, backend, self._records.held)
        except ClaimError as error:
            if daemon not in self._down:
                self._down.add(daemon)
                self._events.warn(
                    "MpsDaemonDown", f"the MPS daemon of {names} has died and cannot be started again: {error}"
                )
            if self._repeats.is_news(daemon, str(error)):
                logger.error("MPS daemon %s cannot be started again, trying again: %s", daemon, error)
            return
        self._down.discard(daemon)
        self._repeats.over(daemon)
        logger.warning("MPS daemon %s of %s had died and was started again", daemon, names)
        self._events.warn(
            "MpsDaemonRestarted",
            f"the MPS daemon of {names} had died and was started again: programs that computed through it have failed, "
            f"new ones of claim {record.claim} work",
        )
