"""A work queue: each key once, one after the other, again with backoff after a failed write."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic, TypeVar

from driver.kube import ApiError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 5.0
CONFLICT = 409

KeyT = TypeVar("KeyT", bound="Hashable")


class WorkQueue(Generic[KeyT]):
    """Keys of what has to be looked at."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ready: asyncio.Queue[KeyT] = asyncio.Queue()
        self._queued: set[KeyT] = set()
        self._timers: dict[KeyT, asyncio.TimerHandle] = {}
        self._failures: dict[KeyT, int] = {}

    def add(self, key: KeyT) -> None:
        """Have the key looked at soon; nothing if it waits already."""
        if key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: KeyT, delay: float) -> None:
        """Have the key looked at in ``delay`` seconds; replaces an earlier appointment."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(max(delay, 0), self._due, key)

    async def run(self, sync: Callable[[KeyT], Awaitable[float | None]]) -> None:
        """Call ``sync`` for each key for ever; it returns the seconds after which to look again, if at all.

        ApiErrors are retried. Anything else is a defect and ends the queue.
        """
        try:
            while True:
                key = await self._ready.get()
                self._queued.discard(key)
                try:
                    again = await sync(key)
                except ApiError as error:
                    failures = self._failures[key] = self._failures.get(key, 0) + 1
                    level = logging.DEBUG if error.status == CONFLICT else logging.WARNING
                    logger.log(level, "%s %s: %s; trying again", self._name, key, error)
                    pause = min(FIRST_PAUSE * 2 ** min(failures, 10), LONGEST_PAUSE)
                    self.add_after(key, max(pause, error.retry_after or 0))
                    continue
                self._failures.pop(key, None)
                if again is not None:
                    self.add_after(key, again)
        finally:
            for timer in self._timers.values():
                timer.cancel()

    def _due(self, key: KeyT) -> None:
        self._timers.pop(key, None)
        self.add(key)
