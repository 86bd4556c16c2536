"""Who goes on when: calls for one claim take turns, and all calls share the loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Turn:
    """What calls for one claim share. Lives only while one of them is under way."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    unprepares: int = 0
    """How often the claim was unprepared."""
    commits: int = 0
    """How often a call has begun to prepare what it had read."""


@dataclass(slots=True)
class Call:
    """One prepare of a claim, with how its turn was before the claim was read."""

    turn: Turn
    deadline: float
    """Monotonic seconds."""
    unprepares: int
    commits: int
    gone: bool = False
    """Nobody waits for it any more: an unprepare may be with another instance, so nothing is begun that it undoes."""

    @classmethod
    def begin(cls, turn: Turn, deadline: float) -> Call:
        """A call that is about to read its claim."""
        return cls(turn, deadline, turn.unprepares, turn.commits)

    @property
    def unprepared(self) -> bool:
        """Whether the claim was unprepared here meanwhile."""
        return self.turn.unprepares != self.unprepares

    @property
    def overtaken(self) -> bool:
        """Whether another call has begun to prepare meanwhile what it had read, perhaps later than we."""
        return self.turn.commits != self.commits

    @property
    def left(self) -> float:
        """Seconds to the deadline, 0 after it."""
        return max(self.deadline - time.monotonic(), 0)


class Turns:
    """The turns of all claims for which calls are under way."""

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}
        self._round = asyncio.Lock()

    @contextlib.contextmanager
    def of(self, uid: str) -> Iterator[Turn]:
        """The turn of a claim, for as long as a call for it takes."""
        turn = self._turns.setdefault(uid, Turn())
        turn.users += 1
        try:
            yield turn
        finally:
            turn.users -= 1
            if turn.users == 0:
                del self._turns[uid]

    async def let_others_start(self) -> None:
        """Of claims whose answers came together, go on with one in each round of the loop.

        Calls that come in meanwhile would wait for all of them else, and send their GETs together again.
        """
        if len(self._turns) > 1:
            await self._round.acquire()
            asyncio.get_running_loop().call_soon(self._round.release)
