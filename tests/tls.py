"""TLS in front of a server of tests, with certificates that change while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class TlsFront:
    """Ends TLS, and hands everything on to a port of this machine."""

    def __init__(self, target: int, names: tuple[str, ...] = ("127.0.0.1",)) -> None:
        self._target, self._names = target, names
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.sni_callback = lambda _socket, name, _context: self.asked_names.append(name)
        self._writers: set[asyncio.StreamWriter] = set()
        self.asked_names: list[str | None] = []
        self.port = 0
        self.authority: trustme.CA
        self.change_authority()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> bytes:
        """The certificate that clients have to trust now."""
        return self.authority.cert_pem.bytes()

    def change_authority(self) -> None:
        """Have a certificate of another authority from now on; who is connected is cut."""
        self.authority = trustme.CA()
        self.authority.issue_cert(*self._names).configure_cert(self._context)
        for writer in self._writers:
            writer.transport.abort()

    def require(self, clients: trustme.CA) -> None:
        """Let nobody in without a certificate of this authority."""
        clients.configure_trust(self._context)
        self._context.verify_mode = ssl.CERT_REQUIRED

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[TlsFront]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self
            for writer in self._writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


def put(path: Path, content: bytes) -> Path:
    """Replace a file as a whole, as the kubelet does."""
    staged = path.with_suffix(".new")
    staged.write_bytes(content)
    staged.replace(path)
    return path
