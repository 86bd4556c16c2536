"""A driver as a process of its own, started as users start it: the cluster knows it only by its sockets and its log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

PORTS = range(10_000, 30_000)
"""Below those that the kernel gives to connections."""


class DriverProcess:
    """``gpu-dra run`` with JSON logs in a file."""

    def __init__(self, flags: Sequence[str], *, log: Path, pod_uid: str = "") -> None:
        self.pod_uid = pod_uid
        self.http_port = free_port()
        self.health_port = free_port()
        self.log_path = log
        self._process: asyncio.subprocess.Process | None = None
        self._command = [
            *gpu_dra("run"),
            f"--pod-uid={pod_uid}",
            f"--http-port={self.http_port}",
            f"--health-port={self.health_port}",
            "--log-format=json",
            *flags,
        ]

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        if self._process is None:
            raise RuntimeError("the driver has not been started")
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, None while the process runs."""
        return self._process.returncode if self._process else None

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the HTTP port. Raises aiohttp.ClientError when there is nobody."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.http_port}{path}") as response,
        ):
            return response.status, await response.text()

    @property
    def log(self) -> str:
        """Everything that the driver has logged."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def lines(self) -> Iterable[dict[str, Any]]:
        """The log, line by line; a line that is not JSON (a traceback of the interpreter) counts as a message."""
        for line in self.log.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                yield {"message": line, "level": "error"}

    async def start(self) -> DriverProcess:
        """Start the process; it is up when it registers. A kubeconfig of the caller's own cluster is not passed on."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
        with self.log_path.open("ab") as log:
            self._process = await self._spawn(self._command, log.fileno(), environment)
        return self

    async def _spawn(self, command: list[str], log: int, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            # A terminal's Ctrl-C is for who started us: that one ends us. No session of its own, though: Linux gives
            # each session as much of the processors, and many drivers would leave a control plane beside them nothing.
            process_group=0,
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def ended(self, *, within: float = 30.0) -> int:
        """The exit status, once there is one. Raises TimeoutError."""
        if self._process is None:
            raise RuntimeError("the driver has not been started")
        async with asyncio.timeout(within):
            return await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM, and wait for the end."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """SIGKILL; nothing to do if the process has ended or was never started."""
        if self._process is not None and self._process.returncode is None:
            self.signal(signal.SIGKILL)
            await self.ended()


def gpu_dra(*arguments: str) -> list[str]:
    """The command line of ``gpu-dra`` in the interpreter that we run in."""
    return [sys.executable, "-m", "driver", *arguments]


def free_port() -> int:
    """A TCP port of this machine that nobody listens on, and that no connection gets meanwhile."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 - not a secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
