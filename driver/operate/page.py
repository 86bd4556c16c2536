"""The pages of the driver that runs on this node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from driver.node import Settings

PATIENCE = 10.0
"""Seconds for a driver that hangs."""
LARGEST = 8 << 20
"""Bytes of a page."""


class PageError(Exception):
    """Why a page cannot be had."""


async def read_status(settings: Settings) -> dict[str, Any]:
    """What ``/status`` says. Raises PageError, also for the page of somebody else."""
    try:
        page = json.loads(await read_page(settings, "/status"))
    except ValueError as error:
        raise PageError(f"/status is not JSON: {error}") from None
    if not isinstance(page, dict) or page.get("driver") != settings.driver_name:
        raise PageError(f"port {settings.http_port} is not that of the driver {settings.driver_name}")
    return page


async def read_page(settings: Settings, path: str) -> str:
    """One page of the driver's HTTP port on this machine. Raises PageError."""
    if not settings.http_port:
        raise PageError("the driver has no HTTP port (--http-port 0)")
    url = f"http://127.0.0.1:{settings.http_port}{path}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
            session.get(url) as response,
        ):
            content = bytearray()
            async for chunk in response.content.iter_chunked(1 << 16):
                content += chunk
                if len(content) > LARGEST:
                    raise PageError(f"{url} has more than {LARGEST} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise PageError(f"{url}: {error or 'no answer in time'}") from None
    return content.decode(errors="replace")
