"""What is set for the sake of memory is what the interpreter looks at."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from typing import TYPE_CHECKING

from driver.node import memory

if TYPE_CHECKING:
    import pytest


async def test_a_connection_over_tls_reads_into_a_small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SSLProtocol, "max_size", SSLProtocol.max_size)  # back to that afterwards

    memory.begin()

    context = ssl.create_default_context()
    connection = SSLProtocol(asyncio.get_running_loop(), asyncio.Protocol(), context, None, server_hostname="server")
    assert len(connection._ssl_buffer) == memory.TLS_BUFFER
