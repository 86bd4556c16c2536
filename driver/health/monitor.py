"""Watches the hardware, and keeps the conditions of all GPUs."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, NoReturn

from driver.base.repeat_filter import RepeatFilter
from driver.base.threads import in_daemon_thread
from driver.hardware import Cause, Cleared, Event, Fault, InventoryChanged, Occurred, Watcher
from driver.health.conditions import Conditions, difference, fold
from driver.health.report import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from driver.hardware import Backend
    from driver.health.store import ConditionStore

logger = logging.getLogger(__name__)

WAIT_SECONDS = 5.0
"""How long one call of the backend lasts when nothing happens."""
HUNG_SECONDS = 30.0
"""How much later than asked for a call may return before we say that nobody watches the GPUs."""
FAILURES_BEFORE_REPORT = 3
"""One failure is no reason to write slices; three in a row, some three seconds, are."""
FIRST_BACKOFF = 0.5
MAX_BACKOFF = 30.0
PACE = 0.05
"""Pause between two calls, so that a storm of events cannot take the whole processor."""
UNWATCHED_SECONDS = 60.0
"""How often the GPUs of a backend that does not tell what happens are read again."""
NOT_WATCHED = "the hardware's error events cannot be read"
_BLIND = Fault(cause=Cause.UNMONITORED, detail=NOT_WATCHED)


class Monitor:
    """Supervised watch over one backend. ``conditions`` is the present state; ``changed`` is called after each change.

    A backend that fails is tried again for ever, with backoff; meanwhile every GPU counts as unmonitored. A backend
    that hangs blocks a daemon thread and nothing else: not the event loop, and not the end of the process.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        store: ConditionStore,
        gpu_uuids: Iterable[str],
        changed: Callable[[Conditions], None] = lambda _conditions: None,
        inventory_changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        wait_seconds: float = WAIT_SECONDS,
        hung_seconds: float = HUNG_SECONDS,
        first_backoff: float = FIRST_BACKOFF,
        unwatched_seconds: float = UNWATCHED_SECONDS,
    ) -> None:
        self._backend = backend
        self._store = store
        self._changed = changed
        self._inventory_changed = inventory_changed
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._hung_seconds = hung_seconds
        self._first_backoff = first_backoff
        self._unwatched_seconds = unwatched_seconds
        self._unsaved = False
        self._save_error = ""
        self._repeats = RepeatFilter()
        self.gpu_uuids = tuple(gpu_uuids)
        """The node's GPUs; to be set again when the inventory is read again."""
        self.conditions: Conditions = store.load()
        self.first_reading = asyncio.Event()
        """Set once the backend has reported its present faults, or has failed to."""

    async def run(self) -> None:
        """Watch for ever. Ends only by cancellation, at once, even if the backend hangs."""
        if isinstance(self._backend, Watcher):
            await self._watch(self._backend)
        logger.warning("these GPUs do not tell what happens to them, so their health is unknown")
        while True:
            self._apply(self._blind())
            self.first_reading.set()
            await asyncio.sleep(self._unwatched_seconds)

    async def _watch(self, watcher: Watcher) -> NoReturn:
        failures = 0
        while True:
            started = time.monotonic()
            try:
                events = await self._wait_for_events(watcher)
                self._apply((*self._seeing(), *events))
            except Exception as error:  # noqa: BLE001 - whatever a backend does, the watch goes on
                failures += 1
                pause = min(self._first_backoff * 2 ** (failures - 1), MAX_BACKOFF) * random.uniform(0.8, 1.2)  # noqa: S311
                words = str(error) or repr(error)
                if self._repeats.is_news("", words):
                    logger.error("watching the GPUs failed, trying again in %.1f s: %s", pause, words)
                if failures >= FAILURES_BEFORE_REPORT:
                    self._apply(self._blind())
                self.first_reading.set()
                await asyncio.sleep(pause)
                continue
            if failures:
                logger.info("the GPUs are watched again")
                failures = 0
                self._repeats.over("")
            self.first_reading.set()
            early = not events and time.monotonic() - started < self._wait_seconds / 2
            await asyncio.sleep(self._wait_seconds / 2 if early else PACE)

    async def _wait_for_events(self, watcher: Watcher) -> tuple[Event, ...]:
        call = in_daemon_thread(lambda: watcher.wait_for_events(self._wait_seconds))
        try:
            done, _ = await asyncio.wait({call}, timeout=self._wait_seconds + self._hung_seconds)
            if not done:
                logger.error("the backend has hung for %.0f s; no error of a GPU can be seen", self._hung_seconds)
                self._apply(self._blind())
                self.first_reading.set()
            return await call
        finally:
            call.cancel()  # no more than: nobody waits for it

    def _blind(self) -> tuple[Event, ...]:
        # Perhaps more has gone than the events: whoever reads the inventory again sees.
        return (InventoryChanged(), *(Occurred(gpu_uuid=uuid, fault=_BLIND) for uuid in self.gpu_uuids))

    def _seeing(self) -> tuple[Event, ...]:
        """Takes back what ``_blind`` said, also in an earlier process."""
        faults = {uuid: frozenset(c.fault for c in present) for uuid, present in self.conditions.items()}
        return tuple(Cleared(gpu_uuid=uuid, remaining=f - {_BLIND}) for uuid, f in faults.items() if _BLIND in f)

    def _apply(self, events: Iterable[Event]) -> None:
        before = self.conditions
        for event in events:
            if isinstance(event, InventoryChanged):
                self._call(self._inventory_changed)
            self.conditions = fold(self.conditions, event, self._clock(), rules=self._store.rules)
        changed = self.conditions is not before and self.conditions != before
        if changed:
            _log_difference(before, self.conditions)
        if changed or self._unsaved:
            self._save()
        if changed:
            self._call(lambda: self._changed(self.conditions))

    def _save(self) -> None:
        try:
            self._store.save(self.conditions)
        except OSError as error:
            self._unsaved = True  # tried again after each wait
            problem = error.strerror or str(error)  # not the name of the temporary file, which is another each time
            if problem != self._save_error:
                logger.error("conditions are not saved, taints may begin anew after a restart: %s", error)
            self._save_error = problem
        else:
            self._unsaved = False
            self._save_error = ""

    def _call(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception:
            logger.exception("telling others of a change failed")


def _log_difference(before: Conditions, after: Conditions) -> None:
    for uuid, condition, begins in difference(before, after):
        if begins:
            logger.warning("%s: %s (%s)", uuid, describe(condition), condition.severity.name.lower())
        else:
            logger.info("%s: no longer: %s (%s)", uuid, describe(condition), condition.severity.name.lower())
