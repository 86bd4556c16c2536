"""Connections of whoever comes: how many are held, and for how long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable


class Connections:
    """Cuts each connection when its time is over, and the oldest where there would be too many.

    Whoever sends a request at once is served, however many others hold connections.
    """

    def __init__(self, *, most: int, seconds: float) -> None:
        """``most`` at the same time, each for so many ``seconds``."""
        self._most = most
        self._seconds = seconds
        self._open: dict[Hashable, tuple[asyncio.WriteTransport, asyncio.TimerHandle]] = {}

    def add(self, whose: Hashable, transport: asyncio.WriteTransport) -> None:
        """Note one that has come, oldest first."""
        end = asyncio.get_running_loop().call_later(self._seconds, self.cut, whose)
        self._open[whose] = (transport, end)
        if len(self._open) > self._most:
            self.cut(next(iter(self._open)))

    def drop(self, whose: Hashable) -> asyncio.WriteTransport | None:
        """Forget one; its transport, if it was known."""
        transport, end = self._open.pop(whose, (None, None))
        if end is not None:
            end.cancel()
        return transport

    def cut(self, whose: Hashable) -> None:
        """End one, if it is known: what was not fetched by now is not waited for."""
        if (transport := self.drop(whose)) is not None:
            transport.abort()

    def close(self) -> None:
        """Cut all, and whoever comes from now on: who was accepted already may come only then."""
        self._most = 0
        for whose in list(self._open):
            self.cut(whose)
