"""The way back: what was made for a claim is taken back when the claim ends, or as soon after as the hardware lets us.

A record in state ``UNDOING`` says what is left to do. Whoever finds one may do it; it can be done twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from driver.base.repeat_filter import RepeatFilter
from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.record import State, named
from driver.hardware import BackendError

if TYPE_CHECKING:
    from driver.claims.allocation import ClaimRef
    from driver.claims.common import Common
    from driver.claims.ledger.record import Record
    from driver.claims.ledger.records import Records
    from driver.hardware import Backend

logger = logging.getLogger(__name__)

# A pod's end does not wait longer for hardware that does not answer; the rest is done when it does.
PATIENCE = 20.0
AGAIN = 10.0


class Undo:
    """Takes back what records say was made. Undoing one record goes on while its caller has gone."""

    def __init__(self, common: Common) -> None:
        self._records = common.records
        self._specs = common.specs
        self._hardware = common.hardware
        self._devices = common.devices
        self.released = asyncio.Event()
        """Set, and replaced, when a claim has let go of its devices."""
        self.tasks: dict[str, asyncio.Task[None]] = {}
        """What is being undone, by claim UID."""
        self._repeats = RepeatFilter()

    async def leftovers(self) -> None:
        """See to it, for ever, that what could not be undone when a claim ended is undone when that is possible."""
        while True:
            try:
                await self._records.refresh(look=True)
            except ClaimError as error:
                if self._repeats.is_news("", str(error)):
                    logger.error("what is left to undo cannot be read, trying again: %s", error)
            else:
                self._repeats.over("")
            for record in self._records:
                if record.state is State.UNDOING:
                    self.start(record)
            await asyncio.sleep(AGAIN)

    async def retire(self, old: Record, deadline: float) -> None:
        """Undo what a claim had before: another allocation, another boot, or an unprepare that is not through."""
        if old.boot_id == self._records.boot_id and makes(old):
            async with self._records.exclusive() as changes:
                if self._records.read(old.claim.uid) != old:
                    raise ClaimError(
                        Reason.REPLACED, f"claim {old.claim} is in the hands of another instance of the driver just now"
                    )
                self._specs.remove(old.claim)
                old = old.with_state(State.UNDOING)
                changes.put(old)
            undo = self.start(old)
            await asyncio.wait({undo}, timeout=max(deadline - time.monotonic(), 0))
            if self._records.read(old.claim.uid) is not None:
                names = ", ".join(device.device for device in old.devices)
                raise ClaimError(
                    Reason.HARDWARE,
                    f"claim {old.claim} has a new allocation, but {names} of the former one could not be undone yet",
                )

    async def release(self, record: Record) -> None:
        """Undo the record of a claim that has ended, and wait for that only so long."""
        record = record.with_state(State.UNDOING)
        stored = None
        try:
            await self._store(record)
        except ClaimError as error:  # a full disk must not keep the pod; without the note only a crash would matter
            stored = error
        undo = self.start(record, noted=stored is None)
        await asyncio.wait({undo}, timeout=PATIENCE)
        if self._records.read(record.claim.uid) is not None:
            if stored is not None:
                raise stored
            logger.error("what was made for claim %s is not undone yet; the pod does not wait for it", record.claim)

    async def take_back(self, record: Record, backend: Backend) -> None:
        """After a failed change, with its GPUs locked: leave nothing behind, or a record that says what may be left."""
        try:
            await self._hardware.undo(record, backend, self._records.held)
        except ClaimError as error:
            logger.error("%s; what may be left is undone later", error)
            await self._store(record.with_state(State.UNDOING))
        else:
            await self.drop(record.claim)

    async def drop(self, claim: ClaimRef, *, ended: bool = False) -> None:
        """Remove a record; whoever waits for its devices looks again. ``ended``: only if the claim is not on again."""
        async with self._records.exclusive() as changes:
            if ended and (known := self._records.read(claim.uid)) is not None and known.state is not State.UNDOING:
                return
            self._specs.remove(claim)  # an instance that has just started may have restored it
            changes.remove(claim.uid)
        if self._repeats.over(claim.uid):
            logger.info("what was made for claim %s is undone now", claim)
        self.released.set()
        self.released = asyncio.Event()

    def start(self, record: Record, *, noted: bool = True) -> asyncio.Task[None]:
        """Undo a record in the background, or join the undo that is under way; ``noted``: the file says so too."""
        uid = record.claim.uid
        task = self.tasks.get(uid)
        if task is None:
            task = asyncio.create_task(self._undo(record, noted), name=f"undo {uid}")
            self.tasks[uid] = task
            task.add_done_callback(lambda _: self.tasks.pop(uid, None))
        return task

    async def _undo(self, record: Record, noted: bool) -> None:
        """Destroy what was made for a record, then remove it. Errors are logged; the record stays for the next try."""
        try:
            # What was made before a reboot is gone with it.
            if record.boot_id != self._records.boot_id or not makes(record):
                await self.drop(record.claim, ended=noted)
                return
            backend, _ = await self._devices.known()
            async with self._hardware.lock(record, deadline=time.monotonic() + PATIENCE):
                known = await on_disk(self._records, record)
                if known is None or (noted and known.state is not State.UNDOING):
                    return  # another instance was quicker, and the device may be somebody else's by now
                await self._hardware.undo(record, backend, self._records.held)
                await self.drop(record.claim)
        except (ClaimError, BackendError) as error:
            if self._repeats.is_news(record.claim.uid, str(error)):
                logger.error("what was made for claim %s is not undone yet, trying again: %s", record.claim, error)

    async def _store(self, record: Record) -> None:
        async with self._records.exclusive() as changes:
            changes.put(record)


async def on_disk(records: Records, record: Record) -> Record | None:
    """The record as it is now, if it is there and for the same allocation, with the index refreshed.

    What a damaged record held is for any allocation of the same devices.
    """
    async with records.exclusive():
        known = records.read(record.claim.uid)
    if known is None or known.boot_id != record.boot_id:
        return None
    salvaged = known.salvaged_from and not known.allocation and named(known.devices) == named(record.devices)
    return known if known.allocation == record.allocation or salvaged else None


def makes(record: Record) -> bool:
    """Whether hardware was changed for this claim in a way that has to be undone."""
    return any(
        not device.admin and (device.placement is not None or (device.sharing is not None and device.sharing.changes))
        for device in record.devices
    )
