"""``grpc.health.v1`` for the kubelet's probes: are we really served, and are we of use?"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from driver.inventory import CHANNEL_OPTIONS, PROBE_TIMEOUT
from driver.wire import dra_v1_pb2, dra_v1_pb2_grpc, pluginregistration_pb2, pluginregistration_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from driver.kubelet.server import MeasuredServer

logger = logging.getLogger(__name__)

Status = health_pb2.HealthCheckResponse

WATCH_INTERVAL = 5.0
MAX_WATCHES = 64
FRESH = 1.0
"""Seconds for which the answer of a probe counts."""


async def serves(registrar_socket: Path | None, dra_socket: Path) -> bool:
    """Dial both sockets as the kubelet would: GetInfo, and a NodePrepareResources without claims.

    Without a registration socket only the other: before we register.
    """
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            if registrar_socket is not None:
                async with grpc.aio.insecure_channel(f"unix:{registrar_socket}", options=CHANNEL_OPTIONS) as channel:
                    registration = pluginregistration_pb2_grpc.RegistrationStub(channel)
                    await registration.GetInfo(pluginregistration_pb2.InfoRequest())
            async with grpc.aio.insecure_channel(f"unix:{dra_socket}", options=CHANNEL_OPTIONS) as channel:
                plugin = dra_v1_pb2_grpc.DRAPluginStub(channel)
                await plugin.NodePrepareResources(dra_v1_pb2.NodePrepareResourcesRequest())
    except (grpc.aio.AioRpcError, TimeoutError) as error:
        logger.warning("liveness: our own sockets do not answer: %s", error)
        return False
    return True


class Liveness:
    """Whether we are served, for all who ask: one probe at a time, whose answer counts for a moment."""

    def __init__(self, probe: Callable[[], Awaitable[bool]], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._probe = probe
        self._clock = clock
        self._asked: asyncio.Task[bool] | None = None
        self._fresh_until = 0.0

    async def __call__(self) -> bool:
        """The answer of the probe that is under way or has just ended, or else of a new one."""
        if self._asked is None or (self._asked.done() and self._clock() >= self._fresh_until):
            self._asked = asyncio.create_task(self._ask(), name="liveness")
        return await asyncio.shield(self._asked)  # others wait for it too

    async def _ask(self) -> bool:
        try:
            return await self._probe()
        finally:
            self._fresh_until = self._clock() + FRESH


class ProbeService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Services by name, each with a question that is asked at every check."""

    def __init__(self, services: Mapping[str, Callable[[], Awaitable[bool]]]) -> None:
        self._services = services
        self._watches = 0

    def add_to(self, server: grpc.aio.Server | MeasuredServer) -> None:
        """Serve on this server."""
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    async def Check(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> health_pb2.HealthCheckResponse:
        """SERVING or NOT_SERVING; NOT_FOUND for a service that we do not have."""
        question = self._services.get(request.service)
        if question is None:
            known = ", ".join(repr(name) for name in self._services)
            await context.abort(grpc.StatusCode.NOT_FOUND, f"this service is not known; known are {known}")
        return Status(status=Status.SERVING if await question() else Status.NOT_SERVING)

    async def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now and after each change; RESOURCE_EXHAUSTED where too many watch already."""
        if self._watches >= MAX_WATCHES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHES} watch already; use Check")
        self._watches += 1
        try:
            async for status in self._statuses(self._services.get(request.service)):
                yield Status(status=status)
        finally:
            self._watches -= 1

    async def _statuses(self, question: Callable[[], Awaitable[bool]] | None) -> AsyncIterator[int]:
        last = None
        while True:
            if question is None:
                status = Status.SERVICE_UNKNOWN
            else:
                status = Status.SERVING if await question() else Status.NOT_SERVING
            if status != last:
                yield status
                last = status
            await asyncio.sleep(WATCH_INTERVAL)
