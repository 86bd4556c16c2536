"""The lock of each claim, and what calls for one claim know of each other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class ClaimLock:
    """What calls for one claim share. Lives only while one of them is under way."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    unprepares: int = 0
    """How often the claim was unprepared."""
    commits: int = 0
    """How often a call has begun to prepare what it had read."""


@dataclass(slots=True)
class Call:
    """One prepare of a claim, with how its lock was before the claim was read."""

    claim: ClaimLock
    deadline: float
    """Monotonic seconds."""
    held: contextlib.ExitStack
    """What ends with the call, or with the work that it leaves to a task of its own."""
    unprepares: int
    commits: int
    gone: bool = False
    """Nobody waits for it any more: an unprepare may be with another instance, so nothing is begun that it undoes."""

    async def lock(self) -> None:
        """Have the claim to oneself from now on. Raises TimeoutError when others do not let go before the deadline."""
        if self.claim.users == 1:  # at once
            await self.claim.lock.acquire()
        else:
            async with asyncio.timeout(self.left):
                await self.claim.lock.acquire()
        self.held.callback(self.claim.lock.release)

    @property
    def unprepared(self) -> bool:
        """Whether the claim was unprepared here meanwhile."""
        return self.claim.unprepares != self.unprepares

    @property
    def overtaken(self) -> bool:
        """Whether another call has begun to prepare meanwhile what it had read, perhaps later than we."""
        return self.claim.commits != self.commits

    @property
    def left(self) -> float:
        """Seconds to the deadline, 0 after it."""
        return max(self.deadline - time.monotonic(), 0)


class ClaimLocks:
    """The locks of all claims for which calls are under way."""

    def __init__(self) -> None:
        self._locks: dict[str, ClaimLock] = {}
        self._round = asyncio.Lock()

    @contextlib.contextmanager
    def call(self, uid: str, deadline: float) -> Iterator[Call]:
        """A prepare that is about to read its claim, and is to answer by ``deadline``, in monotonic seconds."""
        with contextlib.ExitStack() as held:
            claim = held.enter_context(self.of(uid))
            yield Call(claim, deadline, held, claim.unprepares, claim.commits)

    @contextlib.contextmanager
    def of(self, uid: str) -> Iterator[ClaimLock]:
        """The lock of a claim, for as long as a call for it takes; to be locked by whoever changes something."""
        lock = self._locks.setdefault(uid, ClaimLock())
        lock.users += 1
        try:
            yield lock
        finally:
            lock.users -= 1
            if lock.users == 0:
                del self._locks[uid]

    async def let_others_start(self) -> None:
        """Of claims whose answers came together, go on with one in each round of the loop.

        Calls that come in meanwhile would wait for all of them else, and send their GETs together again.
        """
        if len(self._locks) > 1:
            await self._round.acquire()
            asyncio.get_running_loop().call_soon(self._round.release)
