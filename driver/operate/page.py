"""The pages of the driver that runs on this node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from driver.kube import Access, Http

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
    host = f"http://127.0.0.1:{settings.http_port}"
    http = Http(connections=1)
    try:
        with await http.send("GET", Access(host=host), path, headers="", timeout=PATIENCE) as answer:
            return (await answer.read(LARGEST)).decode(errors="replace")
    except (TimeoutError, OSError, ValueError) as error:
        raise PageError(f"{host}{path}: {str(error) or 'no answer in time'}") from None
    finally:
        await http.close()
