"""A real Prometheus, for what the chart gives it: it scrapes a driver, and pages that stand for Kubernetes' own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml
from aiohttp import web

from driver.sim.process import free_port
from tests.eventually import eventually
from tests.needs import PROMETHEUS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

INTERVAL = "1s"


class Prometheus:
    """The server's API."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def series(self, query: str) -> list[dict[str, Any]]:
        """What a query has at this moment. Raises AssertionError with what the server says against it."""
        return await self._ask("query", {"query": query})

    async def over_time(self, query: str, *, start: float, end: float) -> list[dict[str, Any]]:
        """What a query has in that time, a value for each second."""
        return await self._ask("query_range", {"query": query, "start": str(start), "end": str(end), "step": "1"})

    async def _ask(self, what: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        async with self._session.get(f"{self._url}/api/v1/{what}", params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", f"{answer['error']}\n{parameters['query']}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with self._session.get(f"{self._url}/-/ready") as response:
                return response.status == 200
        return False


@contextlib.asynccontextmanager
async def prometheus(
    root: Path, *, jobs: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]
) -> AsyncIterator[Prometheus]:
    """A server that scrapes and evaluates every second, ready to be asked; gone at the end."""
    assert PROMETHEUS is not None
    (root / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    every = {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
    config = root / "prometheus.yaml"
    config.write_text(yaml.safe_dump({"global": every, "rule_files": ["rules.yaml"], "scrape_configs": jobs}))
    port = free_port()
    with (root / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            PROMETHEUS,
            f"--config.file={config}",
            f"--storage.tsdb.path={root / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession() as session:
            server = Prometheus(f"http://127.0.0.1:{port}", session)

            async def up() -> bool:
                assert process.returncode is None, (root / "prometheus.log").read_text()
                return await server.ready()

            await eventually(up)
            yield server
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def counting_page(*series: str) -> AsyncIterator[str]:
    """The address of a page on which all these series count one more each time that somebody reads it."""
    reads = 0

    async def read(_: web.Request) -> web.Response:
        nonlocal reads
        reads += 1
        return web.Response(text="".join(f"{one} {reads}\n" for one in series))

    app = web.Application()
    app.router.add_get("/metrics", read)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port := free_port())
        await site.start()
        yield f"127.0.0.1:{port}"
    finally:
        await runner.cleanup()
