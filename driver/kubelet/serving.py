"""All that this instance serves, and the order in which that starts and stops.

Start: the DRA socket, probes and pages; then, as soon as no other driver answers to our name, the registration socket,
because the kubelet dials the other as soon as it sees this one. Stop: the registration socket, and when the kubelet has
turned away and the calls under way are answered, the DRA socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from driver.kubelet.dra import DraService
from driver.kubelet.health_stream import add_health_streams
from driver.kubelet.probes import Liveness, ProbeService, serves
from driver.kubelet.server import (
    Calls,
    bind_tcp,
    bind_unix,
    new_public_server,
    new_server,
    remove_dead_socket,
)
from driver.observe import serve_pages
from driver.wire import dra_v1_pb2_grpc, pluginregistration_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    import grpc.aio

    from driver.claims import Engine
    from driver.health import HealthFeed
    from driver.kubelet.registration import RegistrationService
    from driver.observe import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where we are served."""

    dra_socket: Path
    registrar_socket: Path
    driver_name: str
    """With which the names of registration sockets begin."""
    health_port: int
    """0: none."""
    http_port: int
    """0: none."""


LINGER = 2.0
GRACE = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTimes:
    """Seconds."""

    linger: float = LINGER
    """After its registration socket is gone, the kubelet may send us calls until it sees that, once a second."""
    grace: float = GRACE
    """For calls under way, and then for work that goes on after its caller has gone."""


class Status(Protocol):
    """Whoever knows how the instance is."""

    def not_ready(self) -> list[str]:
        """What is missing, a line each."""
        ...

    def page(self) -> Mapping[str, Any]:
        """What a person wants to know at a glance, as JSON has it."""
        ...


class Serving:
    """A context in which this instance is served, but for the registration, which ``register`` begins."""

    def __init__(
        self,
        addresses: Addresses,
        *,
        engine: Engine,
        feed: HealthFeed,
        registration: RegistrationService,
        may_register: Callable[[], Awaitable[None]],
        status: Status,
        metrics: Metrics,
        times: StopTimes = StopTimes(),
    ) -> None:
        """``may_register`` returns as soon as no other driver answers to our name."""
        self._addresses = addresses
        self._engine = engine
        self._feed = feed
        self._registration = registration
        self._may_register = may_register
        self._status = status
        self._metrics = metrics
        self._times = times
        self._calls = Calls(metrics)
        self._live = Liveness(self._served)
        self._registrar: grpc.aio.Server | None = None
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Serve. Raises OSError where an address is taken."""
        async with contextlib.AsyncExitStack() as stack:
            self._remove_dead_sockets()
            await self._serve_dra(stack)
            # Last to start and first to stop of what ends at once: it may start at any time from now on.
            stack.push_async_callback(self._stop_registrar)
            await self._serve_probes(stack)
            await self._serve_pages(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def register(self) -> None:
        """Let the kubelet know of us, as soon as no other driver answers to our name. Raises OSError."""
        await self._may_register()
        registrar = self._registrar = new_server()
        services = self._calls.on(registrar)
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(self._registration, services)
        self._probes().add_to(services)  # tells who we are where our directory is not mounted
        bind_unix(registrar, self._addresses.registrar_socket)
        await registrar.start()

    async def _serve_dra(self, stack: contextlib.AsyncExitStack) -> None:
        dra = new_server()
        services = self._calls.on(dra)
        dra_v1_pb2_grpc.add_DRAPluginServicer_to_server(DraService(self._engine, self._metrics), services)
        add_health_streams(self._feed, services)
        self._probes().add_to(services)
        bind_unix(dra, self._addresses.dra_socket)
        await dra.start()
        stack.push_async_callback(self._stop_dra, dra)

    async def _serve_probes(self, stack: contextlib.AsyncExitStack) -> None:
        if not self._addresses.health_port:
            return
        server = new_public_server()
        self._probes().add_to(self._calls.on(server))
        bind_tcp(server, self._addresses.health_port)
        await server.start()
        stack.push_async_callback(server.stop, 0)

    async def _serve_pages(self, stack: contextlib.AsyncExitStack) -> None:
        if not self._addresses.http_port:
            return
        pages = await serve_pages(
            port=self._addresses.http_port,
            registry=self._metrics.registry,
            live=self._live,
            not_ready=self._status.not_ready,
            status=self._status.page,
        )
        stack.push_async_callback(pages.cleanup)

    async def _stop_registrar(self) -> None:
        if self._registrar is not None:
            await self._registrar.stop(0)

    async def _stop_dra(self, server: grpc.aio.Server) -> None:
        """Let the kubelet turn away, finish what is in flight, then go."""
        grace = self._times.grace
        if self._registration.registered:
            await asyncio.sleep(self._times.linger)
        stopping = asyncio.ensure_future(server.stop(grace))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._calls.idle.wait()
        self._feed.stop()
        await stopping
        await self._engine.settle(within=grace)

    def _probes(self) -> ProbeService:
        return ProbeService({"": self._live, "liveness": self._live, "readiness": self._ready})

    async def _served(self) -> bool:
        registrar = None if self._registrar is None else self._addresses.registrar_socket
        return await serves(registrar, self._addresses.dra_socket)

    async def _ready(self) -> bool:
        return not self._status.not_ready()

    def _remove_dead_sockets(self) -> None:
        """Sockets that killed predecessors left behind; the kubelet would dial them for ever."""
        where = self._addresses
        for path in where.dra_socket.parent.glob("dra*.sock"):
            remove_dead_socket(path)
        for path in where.registrar_socket.parent.glob(f"{where.driver_name}*-reg.sock"):
            remove_dead_socket(path)
