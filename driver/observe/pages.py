"""The HTTP port: /metrics for Prometheus, /healthz and /readyz for people and load balancers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prometheus_client import CollectorRegistry


async def serve_pages(
    *,
    port: int,
    registry: CollectorRegistry,
    live: Callable[[], Awaitable[bool]],
    not_ready: Callable[[], list[str]],
) -> web.AppRunner:
    """Start serving; ``cleanup`` of the returned runner ends it. ``not_ready`` lists what is missing, empty if nothing.

    Raises OSError when the port is taken.
    """

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def healthz(_: web.Request) -> web.Response:
        alive = await live()
        return web.Response(text="ok\n" if alive else "our sockets do not answer\n", status=200 if alive else 503)

    async def readyz(_: web.Request) -> web.Response:
        missing = not_ready()
        return web.Response(text="\n".join(missing or ["ok"]) + "\n", status=503 if missing else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host=None, port=port).start()
    return runner
