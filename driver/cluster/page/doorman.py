"""Who may hold how many connections to the page, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from driver.base.connections import Connections

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from aiohttp.web_protocol import RequestHandler


class Doorman(web.Server):
    """A server whose connections are bounded: see ``Connections``."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        connections: int,
        seconds: float,
    ) -> None:
        super().__init__(handler, access_log=None)
        self._open = Connections(most=connections, seconds=seconds)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Note it, oldest first."""
        super().connection_made(handler, transport)
        self._open.add(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Forget it."""
        self._open.drop(handler)
        super().connection_lost(handler, exc)
