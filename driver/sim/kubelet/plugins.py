"""Registered plugin instances: their connections, which of them is called, and what happens when none is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from driver.kube import RESOURCE, ApiError
from driver.sim.kubelet.claiminfo import DraError
from driver.wire import dra_v1_pb2 as dra

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from driver.kube import Api
    from driver.sim.kubelet.metrics import KubeletMetrics
    from driver.sim.kubelet.options import Options

logger = logging.getLogger(__name__)

T = TypeVar("T")
SERVICES = ("v1.DRAPlugin",)


class Plugin:
    """One instance of a driver: one connection for everything, watched without pause."""

    def __init__(
        self,
        *,
        driver: str,
        endpoint: str,
        services: tuple[str, ...],
        options: Options,
        metrics: KubeletMetrics,
        connection_changed: Callable[[], None],
    ) -> None:
        self.driver = driver
        self.endpoint = endpoint
        self.services = services
        self.service = check_services(driver, endpoint, services)
        self.connected = False
        self._closed = False
        self._options = options
        self._metrics = metrics
        self._connection_changed = connection_changed
        self.channel = connect(endpoint, options)
        self._watcher = asyncio.create_task(self._watch_connection(), name=f"connection {endpoint}")

    async def prepare(self, claims: list[dra.Claim]) -> dra.NodePrepareResourcesResponse:
        """Call NodePrepareResources. Raises DraError with the gRPC status as text."""
        request = dra.NodePrepareResourcesRequest(claims=claims)
        return await self._call("NodePrepareResources", request, dra.NodePrepareResourcesResponse)

    async def unprepare(self, claims: list[dra.Claim]) -> dra.NodeUnprepareResourcesResponse:
        """Call NodeUnprepareResources. Raises DraError with the gRPC status as text."""
        request = dra.NodeUnprepareResourcesRequest(claims=claims)
        return await self._call("NodeUnprepareResources", request, dra.NodeUnprepareResourcesResponse)

    async def close(self) -> None:
        """End the connection; calls in flight fail with ``Canceled``."""
        self._closed = True
        self._watcher.cancel()
        await asyncio.gather(self._watcher, return_exceptions=True)
        self.connected = False
        await self.channel.close()

    async def _call(self, method: str, request: Any, response_type: type[T]) -> T:
        package = self.service.removesuffix(".DRAPlugin")
        path = f"/k8s.io.kubelet.pkg.apis.dra.{package}.DRAPlugin/{method}"
        call = self.channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,  # type: ignore[attr-defined]
        )
        started, code = time.monotonic(), "Canceled"
        try:
            response: T = await call(request, timeout=self._options.rpc_timeout)
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = go_code(error.code())
            details = error.details() or ""
            if code == "DeadlineExceeded" and "Deadline Exceeded" in details:  # ours, not one that the plugin sent
                details = "context deadline exceeded"
            raise DraError(f"rpc error: code = {code} desc = {details}") from error
        except (asyncio.CancelledError, grpc.aio.UsageError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (not self._closed or (task and task.cancelling())):
                raise
            raise DraError("rpc error: code = Canceled desc = grpc: the client connection is closing") from error
        finally:
            self._metrics.grpc_operations.labels(self.driver, path, code).observe(time.monotonic() - started)
        return response

    async def _watch_connection(self) -> None:
        while True:
            state = self.channel.get_state(try_to_connect=True)
            connected = state is grpc.ChannelConnectivity.READY
            if connected is not self.connected:
                self.connected = connected
                logger.info("driver %s at %s: %sconnected", self.driver, self.endpoint, "" if connected else "dis")
                self._connection_changed()
            await self.channel.wait_for_state_change(state)


class PluginStore:
    """The instances of all drivers in the order of their registration. ``run_health`` is started for each of them."""

    def __init__(
        self,
        *,
        api: Api,
        node_name: str,
        options: Options,
        metrics: KubeletMetrics,
        run_health: Callable[[Plugin], Awaitable[None]],
    ) -> None:
        self._options = options
        self._metrics = metrics
        self._run_health = run_health
        self._wiper = _Wiper(api=api, node_name=node_name, options=options)
        self._plugins: dict[str, list[Plugin]] = {}
        self._health: dict[Plugin, asyncio.Task[None]] = {}

    def get(self, driver: str) -> Plugin:
        """The most recently registered connected instance, else the most recently registered one. Raises DraError."""
        plugins = self._plugins.get(driver)
        if not plugins:
            raise DraError(f"DRA driver {driver} is not registered")
        return next((plugin for plugin in reversed(plugins) if plugin.connected), plugins[-1])

    @property
    def instances(self) -> list[Plugin]:
        """All registered instances."""
        return [plugin for plugins in self._plugins.values() for plugin in plugins]

    def add(self, driver: str, endpoint: str, services: tuple[str, ...]) -> None:
        """Register an instance and start to connect. Raises ValueError, the text is for the plugin."""
        check_services(driver, endpoint, services)
        plugins = self._plugins.setdefault(driver, [])
        if any(plugin.endpoint == endpoint for plugin in plugins):
            raise ValueError(f"endpoint {endpoint} already registered for DRA driver plugin {driver}")
        plugin = Plugin(
            driver=driver,
            endpoint=endpoint,
            services=services,
            options=self._options,
            metrics=self._metrics,
            connection_changed=lambda: self._sync(driver),
        )
        plugins.append(plugin)
        self._health[plugin] = asyncio.create_task(_never_fail(self._run_health(plugin)), name=f"health {endpoint}")
        self._sync(driver)

    async def remove(self, driver: str, endpoint: str) -> None:
        """Forget an instance and close its connection."""
        plugins = self._plugins.get(driver, [])
        gone = next((plugin for plugin in plugins if plugin.endpoint == endpoint), None)
        if gone is None:
            return
        plugins.remove(gone)
        if not plugins:
            del self._plugins[driver]
        self._sync(driver)
        await self._stop(gone)

    @property
    def pending_wipes(self) -> set[str]:
        """Drivers whose slices will be deleted, or have been, because no instance is connected."""
        return self._wiper.pending

    async def wipe_all(self) -> None:
        """Delete the slices of the whole node: at start no driver is there to serve them."""
        await self._wiper.wipe(None)

    async def close(self) -> None:
        """End everything."""
        await self._wiper.close()
        plugins, self._plugins = self.instances, {}
        await asyncio.gather(*(self._stop(plugin) for plugin in plugins))

    async def _stop(self, plugin: Plugin) -> None:
        health = self._health.pop(plugin)
        health.cancel()
        await asyncio.gather(health, return_exceptions=True)
        await plugin.close()

    def _sync(self, driver: str) -> None:
        self._wiper.sync(driver, usable=any(plugin.connected for plugin in self._plugins.get(driver, [])))


class _Wiper:
    """Deletes the slices of drivers that had no connected instance for a while."""

    def __init__(self, *, api: Api, node_name: str, options: Options) -> None:
        self._api = api
        self._node_name = node_name
        self._options = options
        self._pending: dict[str, asyncio.Task[None]] = {}
        """One per driver until it is usable again, also after the wipe: there is only one wipe per absence."""

    @property
    def pending(self) -> set[str]:
        """Drivers that are not usable."""
        return set(self._pending)

    def sync(self, driver: str, *, usable: bool) -> None:
        """Start or stop the clock of a driver; a clock that runs is not started again."""
        if usable:
            if task := self._pending.pop(driver, None):
                task.cancel()
        elif driver not in self._pending:
            self._pending[driver] = asyncio.create_task(self._later(driver), name=f"wipe slices of {driver}")

    async def wipe(self, driver: str | None) -> None:
        """Delete the slices of the node, or those of one driver, until the API server has done it."""
        selector = f"spec.nodeName={self._node_name}" + (f",spec.driver={driver}" if driver else "")
        delay = self._options.wipe_backoff
        while True:
            try:
                await self._api.get(f"/api/v1/nodes/{self._node_name}")
                await self._api.request("DELETE", f"{RESOURCE}/resourceslices", params={"fieldSelector": selector})
            except ApiError as error:
                logger.warning("cannot delete ResourceSlices (%s), trying again: %s", selector, error)
                await asyncio.sleep(delay * (1 + 0.2 * random.random()))  # noqa: S311
                delay = min(delay * 2, 300)
            else:
                logger.info("deleted ResourceSlices (%s)", selector)
                return

    async def close(self) -> None:
        """Stop all clocks."""
        tasks, self._pending = list(self._pending.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _later(self, driver: str) -> None:
        await asyncio.sleep(self._options.wiping_delay)
        await self.wipe(driver)


def connect(path: str, options: Options) -> grpc.aio.Channel:
    """A channel of its own to a unix socket, not one that the library shares between users of the same address."""
    return grpc.aio.insecure_channel(
        f"unix:{path}",
        options=[
            ("grpc.default_authority", "localhost"),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", int(options.connect_backoff * 1000)),
            ("grpc.max_reconnect_backoff_ms", int(options.connect_backoff_max * 1000)),
            ("grpc.enable_retries", 0),
        ],
    )


def check_services(driver: str, endpoint: str, services: tuple[str, ...]) -> str:
    """The first entry of a plugin's list that the kubelet knows. Raises ValueError, the text is for the plugin."""
    for service in services:
        if service in SERVICES:
            return service
    why = f"none of services supported by the plugin ({_quoted(services)}) are supported by the kubelet"
    if not services:
        why = "empty list of supported gRPC services (aka supported versions)"
    raise ValueError(f"invalid supported gRPC versions of DRA driver plugin {driver} at endpoint {endpoint}: {why}")


def go_code(code: grpc.StatusCode) -> str:
    """A status code as Go spells it, which is how it stands in events and metric labels."""
    if code is grpc.StatusCode.OK:
        return "OK"
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return code.name.title().replace("_", "")


def _quoted(words: tuple[str, ...]) -> str:
    return "[" + " ".join(f'"{word}"' for word in words) + "]"


async def _never_fail(work: Awaitable[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        try:
            await work
        except Exception:
            logger.exception("health stream handling ended")
