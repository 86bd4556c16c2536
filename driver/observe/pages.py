"""The HTTP port: /metrics for Prometheus, /healthz, /readyz and /status for people and load balancers.

Any pod may reach it, so it bounds what it does for whom: see ``Doorman`` and ``Exposition``.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from driver.base.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.web_protocol import RequestHandler
    from prometheus_client import CollectorRegistry

MAX_CONNECTIONS = 64
CONNECTION_SECONDS = 20.0
REST = 4.0
"""Between two renderings, times the time that the last one took: others need the processor."""


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


class Exposition:
    """Renders metrics in a thread, one rendering at a time; all who come before it begins get the same."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._lock = asyncio.Lock()
        self._next: dict[str, asyncio.Task[bytes]] = {}
        """The rendering that has not begun yet, by content type."""

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics of now, and their content type, for an ``Accept`` header."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        if content_type not in self._next:
            self._next[content_type] = asyncio.create_task(self._render(encode, content_type), name="metrics")
        return await asyncio.shield(self._next[content_type]), content_type

    async def _render(self, encode: Callable[[CollectorRegistry], bytes], content_type: str) -> bytes:
        await self._lock.acquire()
        del self._next[content_type]
        started = time.monotonic()
        try:
            return await in_daemon_thread(lambda: encode(self._registry), name="metrics")
        finally:
            rest = REST * (time.monotonic() - started)
            asyncio.get_running_loop().call_later(rest, self._lock.release)


async def serve_pages(
    *,
    port: int,
    registry: CollectorRegistry,
    live: Callable[[], Awaitable[bool]],
    not_ready: Callable[[], list[str]],
    status: Callable[[], Mapping[str, Any]],
    connections: int = MAX_CONNECTIONS,
    seconds: float = CONNECTION_SECONDS,
) -> web.ServerRunner:
    """Start serving; ``cleanup`` of the returned runner ends it.

    ``not_ready`` lists what is missing, empty if nothing; ``status`` is what people want to know, as a JSON object. A
    connection has one request and lasts ``seconds`` at the most; beyond so many ``connections`` the oldest is cut.

    Raises OSError when the port is taken.
    """
    exposition = Exposition(registry)

    async def metrics(request: web.BaseRequest) -> web.Response:
        body, content_type = await exposition.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(_: web.BaseRequest) -> web.Response:
        alive = await live()
        return web.Response(text="ok\n" if alive else "our sockets do not answer\n", status=200 if alive else 503)

    async def readyz(_: web.BaseRequest) -> web.Response:
        missing = not_ready()
        return web.Response(text="\n".join(missing or ["ok"]) + "\n", status=503 if missing else 200)

    async def status_page(_: web.BaseRequest) -> web.Response:
        return web.json_response(status(), dumps=lambda value: json.dumps(value, indent=2) + "\n")

    pages = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz, "/status": status_page}

    async def answer(request: web.BaseRequest) -> web.Response:
        page = pages.get(request.path)
        if page is None:
            response = web.Response(text=f"there is {', '.join(pages)}\n", status=404)
        elif request.method not in {"GET", "HEAD"}:
            response = web.Response(text="GET is expected\n", status=405, headers={"Allow": "GET, HEAD"})
        else:
            response = await page(request)
        response.force_close()
        return response

    runner = web.ServerRunner(Doorman(answer, connections=connections, seconds=seconds))
    await runner.setup()
    await web.TCPSite(runner, host=None, port=port).start()
    return runner
