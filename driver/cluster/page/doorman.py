"""Who may hold how many connections to the page, and for how long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.web_protocol import RequestHandler


class Doorman(web.Server):
    """Cuts each connection when its time is over, and the oldest where there would be too many.

    Whoever sends a request at once is served, however many others hold connections.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        connections: int,
        seconds: float,
    ) -> None:
        super().__init__(handler, access_log=None)
        self._most = connections
        self._seconds = seconds
        self._open: dict[RequestHandler, tuple[asyncio.Transport, asyncio.TimerHandle]] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Note it, oldest first."""
        super().connection_made(handler, transport)
        end = asyncio.get_running_loop().call_later(self._seconds, self._cut, handler)
        self._open[handler] = (transport, end)
        if len(self._open) > self._most:
            self._cut(next(iter(self._open)))

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Forget it."""
        if handler in self._open:
            self._open.pop(handler)[1].cancel()
        super().connection_lost(handler, exc)

    def _cut(self, handler: RequestHandler) -> None:
        transport, end = self._open.pop(handler)
        end.cancel()
        transport.abort()  # what was not fetched by now is not waited for
