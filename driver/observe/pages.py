"""The HTTP port: /metrics for Prometheus, /healthz, /readyz and /status for people and load balancers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from prometheus_client import CollectorRegistry


async def serve_pages(
    *,
    port: int,
    registry: CollectorRegistry,
    live: Callable[[], Awaitable[bool]],
    not_ready: Callable[[], list[str]],
    status: Callable[[], Mapping[str, Any]],
) -> web.AppRunner:
    """Start serving; ``cleanup`` of the returned runner ends it.

    ``not_ready`` lists what is missing, empty if nothing; ``status`` is what people want to know, as a JSON object.

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

    async def status_page(_: web.Request) -> web.Response:
        return web.json_response(status(), dumps=lambda value: json.dumps(value, indent=2) + "\n")

    app = web.Application()
    pages = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz, "/status": status_page}
    app.add_routes([web.get(path, handler) for path, handler in pages.items()])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host=None, port=port).start()
    return runner
