"""The HTTP port: /metrics for Prometheus, /healthz, /readyz and /status for people and load balancers.

Any pod may reach it, so it bounds what it does for whom: see ``PageServer`` and ``Exposition``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from prometheus_client.exposition import choose_encoder

from driver.base.connections import Connections
from driver.base.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
CONNECTION_SECONDS = 20.0
MAX_HEAD = 1 << 14
"""Bytes of a request's head."""
REST = 4.0
"""Between two renderings, times the time that the last one took: others need the processor."""
ALLOWED = "Allow: GET, HEAD\r\n"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is looked at of a request."""

    method: str
    path: str
    """Without the query."""
    accept: str = ""

    @classmethod
    def parse(cls, head: bytes) -> Request:
        """Raises ValueError for what is not HTTP/1."""
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(version)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return cls(method=method, path=unquote(urlsplit(target).path), accept=headers.get("accept", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer."""

    body: bytes
    status: int = 200
    content_type: str = TEXT

    def encode(self, *, method: str) -> bytes:
        """With its head, as what was asked by ``method``; the connection ends with it."""
        head = (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\nConnection: close\r\n{ALLOWED if self.status == 405 else ''}\r\n"
        )
        return head.encode("latin-1") + (b"" if method == "HEAD" else self.body)


class PageServer:
    """One request for each connection, and connections that are bounded: see ``Connections``."""

    def __init__(self, answer: Callable[[Request], Awaitable[Response]], *, connections: int, seconds: float) -> None:
        self._answer = answer
        self._open = Connections(most=connections, seconds=seconds)
        self._server: asyncio.Server

    async def listen(self, port: int) -> None:
        """Serve on all addresses. Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._serve, host=None, port=port, limit=MAX_HEAD)

    @property
    def addresses(self) -> list[Any]:
        """Where it listens."""
        return [socket.getsockname() for socket in self._server.sockets]

    async def cleanup(self) -> None:
        """End, and cut who is connected."""
        self._server.close()
        self._open.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer, writer.transport)
        try:
            writer.write(await self._respond(await reader.readuntil(b"\r\n\r\n")))
            writer.close()
            await writer.wait_closed()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # who is cut, goes, or sends no end of a head
        finally:
            self._open.cut(writer)

    async def _respond(self, head: bytes) -> bytes:
        try:
            request = Request.parse(head)
        except ValueError:
            return Response(body=b"HTTP/1.1 is expected\n", status=400).encode(method="")
        try:
            response = await self._answer(request)
        except Exception:
            logger.exception("%s could not be answered", request.path[:100])
            response = Response(body=b"a bug of the driver; its log has the details\n", status=500)
        return response.encode(method=request.method)


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
) -> PageServer:
    """Start serving; ``cleanup`` of what is returned ends it.

    ``not_ready`` lists what is missing, empty if nothing; ``status`` is what people want to know, as a JSON object. A
    connection has one request and lasts ``seconds`` at the most; beyond so many ``connections`` the oldest is cut.

    Raises OSError when the port is taken.
    """
    exposition = Exposition(registry)

    async def metrics(request: Request) -> Response:
        body, content_type = await exposition.render(request.accept)
        return Response(body=body, content_type=content_type)

    async def healthz(_: Request) -> Response:
        alive = await live()
        return _text("ok" if alive else "our sockets do not answer", status=200 if alive else 503)

    async def readyz(_: Request) -> Response:
        missing = not_ready()
        return _text("\n".join(missing or ["ok"]), status=503 if missing else 200)

    async def status_page(_: Request) -> Response:
        return Response(body=f"{json.dumps(status(), indent=2)}\n".encode(), content_type="application/json")

    pages = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz, "/status": status_page}

    async def answer(request: Request) -> Response:
        page = pages.get(request.path)
        if page is None:
            return _text(f"there is {', '.join(pages)}", status=404)
        if request.method not in {"GET", "HEAD"}:
            return _text("GET is expected", status=405)
        return await page(request)

    server = PageServer(answer, connections=connections, seconds=seconds)
    await server.listen(port)
    return server


def _text(text: str, *, status: int) -> Response:
    return Response(body=f"{text}\n".encode(), status=status)
