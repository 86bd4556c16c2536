"""HTTP/1.1 to a server, as little of it as the API server needs: each prepare waits for this.

asyncio connects and does TLS, llhttp (``httptools``) takes answers apart, and what is between them is here and in
``connection``. It costs less than half of what a client for everything does: docs/performance.md has the numbers.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from driver.kube.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.kube.connection import Answer
    from driver.kube.credentials import Access

IDLE = 60.0
"""Seconds that a connection is kept for the next request; API servers close theirs after 90 (since Kubernetes 1.23)."""
FAMILIES = 0.25
"""Seconds after which another address of a name is tried as well."""
REPEATED = frozenset({"GET", "PUT", "DELETE"})
"""What is sent again, once, when a connection that was kept turns out to be closed: twice is as good as once."""


class RefusedError(Exception):
    """TLS came to nothing: the server's certificate is not what was expected, or ours is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """How to get to a server; connections are kept by it."""

    host: str
    port: int
    context: ssl.SSLContext | None
    name: str
    """Which the server's certificate has to have."""
    proxy: str | None = field(repr=False)

    @classmethod
    def of(cls, access: Access) -> _Route:
        """Raises ValueError for a port that is none."""
        url = urlsplit(access.host)
        host = url.hostname or ""
        return cls(
            host=host,
            port=url.port or (443 if url.scheme == "https" else 80),
            context=(access.context or ssl.create_default_context()) if url.scheme == "https" else None,
            name=access.server_name or host,
            proxy=access.proxy,
        )


class Http:
    """Requests to a server and the connections that are kept for the next one. To be closed."""

    def __init__(self, *, connections: int) -> None:
        """``connections``: at the same time; more requests wait for others to end."""
        self._slots = asyncio.Semaphore(connections)
        self._kept: dict[_Route, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._access: Access | None = None
        self._route: _Route
        self._prefix = ""
        self._fixed = ""
        self._tidy: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._tidy is not None:
            self._tidy.cancel()
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)

    async def send(
        self, method: str, access: Access, path: str, *, headers: str, body: bytes | None = None, timeout: float
    ) -> Answer:
        """Send a request; its answer, once the head of that is here. No redirect is followed.

        Args:
            method: in capitals.
            access: to whom, and by whom.
            path: with the query.
            headers: more of them, each with its end of line.
            body: None for none.
            timeout: seconds from now to the end of the answer's body.

        Raises RefusedError, OSError and ValueError for what is no answer, TimeoutError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if access is not self._access:
            self._go_to(access)
        route = self._route
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        target = quote(path, safe="/?&=%:@!$'()*+,;~[]|")
        head = f"{method} {self._prefix}{target} HTTP/1.1\r\n{self._fixed}{headers}{length}\r\n"
        request = head.encode("latin-1") + (body or b"")
        if self._slots.locked():
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
        else:
            await self._slots.acquire()
        try:
            answer = await self._ask(request, route, deadline, again=method in REPEATED)
        except BaseException:
            self._slots.release()
            raise
        answer.then(self._slots.release)
        return answer

    async def _ask(self, request: bytes, route: _Route, deadline: float, *, again: bool) -> Answer:
        if (kept := self._take(route)) is not None:
            try:
                return await self._exchange(kept, request, deadline)
            except ConnectionError:
                if not again:
                    raise
        async with asyncio.timeout_at(deadline):
            connection = await self._connect(route, deadline)
        return await self._exchange(connection, request, deadline)

    @staticmethod
    async def _exchange(connection: Connection, request: bytes, deadline: float) -> Answer:
        answer = connection.ask(request, deadline)
        try:
            await answer.started()
        except BaseException:
            answer.close()
            raise
        return answer

    def _go_to(self, access: Access) -> None:
        """What is the same in all requests to a server."""
        route, url = _Route.of(access), urlsplit(access.host)
        lines = [f"Host: {url.netloc}"]
        if access.authorization:
            lines.append(f"Authorization: {access.authorization}")
        self._prefix = url.path.rstrip("/")
        if route.proxy and route.context is None:  # which is to forward each request
            self._prefix = f"{url.scheme}://{url.netloc}{self._prefix}"
            lines += _proxy_authorization(route.proxy)
        self._fixed = "".join(f"{line}\r\n" for line in lines)
        self._access, self._route = access, route

    def _take(self, route: _Route) -> Connection | None:
        """A connection that was kept, the one that was used last."""
        kept = self._kept.get(route)
        while kept:
            connection = kept.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, route: _Route, deadline: float) -> Connection:
        loop = asyncio.get_running_loop()

        def made() -> Connection:
            return Connection(loop, idle=lambda idle: self._keep(route, idle), known=self._open)

        try:
            if route.proxy is None:
                _, connection = await loop.create_connection(
                    made,
                    route.host,
                    route.port,
                    ssl=route.context,
                    server_hostname=route.name if route.context else None,
                    happy_eyeballs_delay=FAMILIES,
                )
            else:
                connection = await self._through_proxy(route, route.proxy, made, deadline)
        except ssl.SSLError as error:
            raise RefusedError(str(error)) from error
        return connection

    async def _through_proxy(
        self, route: _Route, proxy: str, made: Callable[[], Connection], deadline: float
    ) -> Connection:
        loop, url = asyncio.get_running_loop(), urlsplit(proxy)
        host, secure = url.hostname or "", url.scheme == "https"
        context = (route.context or ssl.create_default_context()) if secure else None
        port = url.port or (443 if secure else 80)
        _, connection = await loop.create_connection(
            made, host, port, ssl=context, server_hostname=host if secure else None, happy_eyeballs_delay=FAMILIES
        )
        if route.context is None:
            return connection
        server = f"[{route.host}]:{route.port}" if ":" in route.host else f"{route.host}:{route.port}"
        lines = [f"CONNECT {server} HTTP/1.1", f"Host: {server}", *_proxy_authorization(proxy)]
        try:
            answer = connection.ask("".join(f"{line}\r\n" for line in [*lines, ""]).encode(), deadline, tunnel=True)
            await answer.started()
            if answer.status != 200:
                raise OSError(f"the proxy {host}:{port} refuses: {answer.status} {answer.reason[:100]}")
            await connection.secure(route.context, route.name)
        except BaseException:
            connection.abort()
            raise
        return connection

    def _keep(self, route: _Route, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._kept.setdefault(route, []).append(connection)
        if self._tidy is None:
            self._tidy = loop.call_later(IDLE, self._tidy_up)

    def _tidy_up(self) -> None:
        """Close what has been of no use for long."""
        loop = asyncio.get_running_loop()
        until = loop.time() - IDLE
        for connections in self._kept.values():
            for connection in connections:
                if connection.idle_since <= until:
                    connection.usable = False
                    connection.transport.close()
        self._kept = {
            route: usable
            for route, connections in self._kept.items()
            if (usable := [connection for connection in connections if connection.usable])
        }
        self._tidy = loop.call_later(IDLE / 4, self._tidy_up) if self._kept else None


def _proxy_authorization(proxy: str) -> list[str]:
    url = urlsplit(proxy)
    if url.username is None:
        return []
    user = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return [f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}"]
