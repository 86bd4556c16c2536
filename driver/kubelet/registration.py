"""The registration service: who we are, where we are served, and whether the kubelet took us."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from driver.wire import pluginregistration_pb2 as pb
from driver.wire import pluginregistration_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import grpc.aio

    from driver.observe import Metrics

logger = logging.getLogger(__name__)

# The kubelet takes the first that it knows.
SERVICES = ("v1.DRAPlugin", "v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth")


class RegistrationService(pluginregistration_pb2_grpc.RegistrationServicer):
    """Answers from memory: the kubelet waits one second for it, also right after our start."""

    def __init__(
        self, *, driver_name: str, endpoint: Path, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._info = pb.PluginInfo(
            type="DRAPlugin", name=driver_name, endpoint=str(endpoint), supported_versions=SERVICES
        )
        self._metrics = metrics
        self._clock = clock
        self._confirmed = asyncio.Event()
        self._taken_at = float("inf")

    @property
    def registered(self) -> bool:
        """Whether the kubelet's last word was that it took us."""
        return self._confirmed.is_set()

    def taken_at(self) -> float:
        """When the kubelet took us last, by the clock; it does that again after each of its starts."""
        return self._taken_at

    def not_ready(self) -> list[str]:
        """What is missing, in a line; nothing once the kubelet took us."""
        return [] if self.registered else ["kubelet: not registered"]

    async def wait(self) -> None:
        """Return as soon as the kubelet took us."""
        await self._confirmed.wait()

    async def GetInfo(  # noqa: N802
        self,
        request: pb.InfoRequest,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> pb.PluginInfo:
        """Type, name, endpoint and services."""
        return self._info

    async def NotifyRegistrationStatus(  # noqa: N802
        self,
        request: pb.RegistrationStatus,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> pb.RegistrationStatusResponse:
        """Take note. The kubelet itself tries again after a failure."""
        self._metrics.registered.set(request.plugin_registered)
        if request.plugin_registered:
            self._taken_at = self._clock()
            self._confirmed.set()
            logger.info("registered with the kubelet")
        else:
            self._confirmed.clear()
            logger.error("the kubelet refused the registration: %s", request.error)
        return pb.RegistrationStatusResponse()
