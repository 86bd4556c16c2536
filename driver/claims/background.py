"""Work that goes on when its caller stops waiting: half-done is never left because a deadline passed."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class Background:
    """What is under way."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._under_way)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work; wait for it with ``ended_within``, which does not cancel it and is cheaper than a shield."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    async def to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """What work comes to; it goes on if the caller goes."""
        task = self.start(work)
        await ended_within(task, math.inf)
        return task.result()

    async def settle(self, *, within: float) -> None:
        """Wait for all of it, so many seconds at the most."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=within)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits gets it; asyncio need not complain for those who do not


async def ended_within(work: asyncio.Task[Any], deadline: float) -> bool:
    """Whether work has ended by then (monotonic seconds); it goes on if not, or if we are cancelled."""
    await asyncio.sleep(0)  # most needs nothing but its first turn, and waiting takes longer than that
    if not work.done():
        await asyncio.wait({work}, timeout=None if deadline == math.inf else max(deadline - time.monotonic(), 0))
    return work.done()
