"""What the tests start in the place of ``python -m driver``."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.eventually import until
from tests.harness import Driver

if TYPE_CHECKING:
    from collections.abc import Mapping

CLIENT = Path(__file__).with_name("client.py")


class ForkedDriver(Driver):
    """A driver whose start takes next to no time of the processor."""

    async def _spawn(self, command: list[str], log: int, environment: Mapping[str, str]) -> Any:
        return await ForkedProcess.start(command[3:], log, environment)


class ForkedProcess:
    """As much of ``asyncio.subprocess.Process`` as the tests use."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ending = asyncio.create_task(self._end(reader, writer))

    @classmethod
    async def start(cls, arguments: list[str], log: int, environment: Mapping[str, str]) -> ForkedProcess:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(_server())
        os.umask(umask := os.umask(0o022))
        order = {"argv": arguments, "env": dict(environment), "cwd": str(Path.cwd()), "umask": umask}
        null = os.open(os.devnull, os.O_RDONLY)
        socket.send_fds(connection, [json.dumps(order).encode() + b"\n"], [null, log, log])
        os.close(null)
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        return cls(json.loads(await reader.readline())["pid"], reader, writer)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def wait(self) -> int:
        return await asyncio.shield(self._ending)

    async def _end(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        status: int = json.loads(await reader.readline())["status"]
        self.returncode = status
        writer.close()
        return status


def gpu_dra(*arguments: str) -> list[str]:
    """The command line of ``gpu-dra``, for commands that end by themselves."""
    return [sys.executable, "-I", "-S", str(CLIENT), _server(), *arguments]


@functools.cache
def _server() -> str:
    """The socket of this process's own server, which ends with it."""
    path = f"{tempfile.mkdtemp(prefix='gz-', dir='/tmp')}/s"
    server = subprocess.Popen([sys.executable, "-m", "tests.forked.server", path], stdin=subprocess.PIPE)
    _kept.append(server)

    def listens() -> bool:
        assert server.poll() is None, "the server that forks drivers has ended"
        return Path(path).exists()

    until(listens, what="the server that forks drivers has started")
    return path


_kept: list[subprocess.Popen[bytes]] = []
