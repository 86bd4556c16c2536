"""The plugin manager: sockets in the registry directory, and the registration dance with each of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from asyncinotify import Inotify, Mask

from driver.sim.kubelet.plugins import check_services, connect, go_code
from driver.wire import pluginregistration_pb2 as registration
from driver.wire import pluginregistration_pb2_grpc as registration_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from driver.sim.kubelet.metrics import KubeletMetrics
    from driver.sim.kubelet.options import Options
    from driver.sim.kubelet.plugins import PluginStore

logger = logging.getLogger(__name__)

PLUGIN_TYPE = "DRAPlugin"
CREATED = Mask.CREATE | Mask.MOVED_TO
EVENTS = CREATED | Mask.DELETE
"""A file that is renamed away is not seen as removed; the real kubelet does not see it either."""


class RegistrationError(Exception):
    """A socket could not be registered; it is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registered:
    sighting: int
    driver: str
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    at: float
    delay: float


class PluginManager:
    """Keeps the store of plugins equal to the sockets in ``registry_dir``, which it creates."""

    def __init__(self, *, registry_dir: Path, store: PluginStore, options: Options, metrics: KubeletMetrics) -> None:
        self._registry_dir = registry_dir
        self._store = store
        self._options = options
        self._sightings = itertools.count(1)
        self._desired: dict[Path, int] = {}
        """Socket -> number of its latest sighting; a socket that was replaced has a new one."""
        self._actual: dict[Path, _Registered] = {}
        self._operations: dict[Path, asyncio.Task[None]] = {}
        self._failures: dict[Path, _Failure] = {}
        metrics.watch_plugins(self._states)

    async def run(self) -> None:
        """Watch and reconcile until cancelled."""
        self._registry_dir.mkdir(parents=True, exist_ok=True)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch())
                group.create_task(self._reconcile_forever())
        finally:
            tasks = list(self._operations.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        with Inotify() as inotify:
            self._traverse(inotify, self._registry_dir)
            async for event in inotify:
                if event.mask & Mask.Q_OVERFLOW:
                    self._traverse(inotify, self._registry_dir)
                elif event.path is None or event.name is None:
                    continue
                elif event.mask & CREATED:
                    self._created(inotify, event.path)
                elif event.mask & Mask.DELETE:
                    self._desired.pop(event.path, None)

    def _traverse(self, inotify: Inotify, directory: Path) -> None:
        # The watch comes first: what appears during the scan is then seen at least once.
        with contextlib.suppress(OSError):
            inotify.add_watch(directory, EVENTS)
            for path in sorted(directory.iterdir()):
                self._created(inotify, path)

    def _created(self, inotify: Inotify, path: Path) -> None:
        if path.name.startswith("."):
            return
        try:
            mode = path.stat().st_mode
        except OSError:
            return
        if stat.S_ISDIR(mode):
            self._traverse(inotify, path)
        elif stat.S_ISSOCK(mode):
            self._desired[path] = next(self._sightings)

    async def _reconcile_forever(self) -> None:
        while True:
            self._reconcile()
            await asyncio.sleep(self._options.reconcile_period)

    def _reconcile(self) -> None:
        for path, registered in list(self._actual.items()):
            if self._desired.get(path) != registered.sighting:
                self._start(path, deregister=registered)
        for path, sighting in list(self._desired.items()):
            known = self._actual.get(path)
            if known is None or known.sighting != sighting:
                self._start(path, sighting=sighting)
        for path in set(self._failures) - set(self._desired) - set(self._operations):
            del self._failures[path]

    def _start(self, path: Path, *, sighting: int = 0, deregister: _Registered | None = None) -> None:
        """Start an operation, unless one is running for this socket or the last failure is too fresh."""
        now = asyncio.get_running_loop().time()
        failure = self._failures.get(path)
        if path in self._operations or (failure and now < failure.at + failure.delay):
            return
        work = self._deregister(path, deregister) if deregister else self._register(path, sighting)
        task = asyncio.create_task(work, name=f"registration {path.name}")
        self._operations[path] = task
        task.add_done_callback(lambda done: self._finished(path, done))

    def _finished(self, path: Path, task: asyncio.Task[None]) -> None:
        self._operations.pop(path, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._failures.pop(path, None)
            return
        before = self._failures.get(path)
        delay = min(
            before.delay * 2 if before else self._options.registration_backoff, self._options.registration_backoff_max
        )
        self._failures[path] = _Failure(at=asyncio.get_running_loop().time(), delay=delay)
        if isinstance(error, RegistrationError):
            logger.warning("%s; no retries permitted for %.1f s", error, delay)
        else:
            logger.error("registration of %s failed", path, exc_info=error)

    async def _deregister(self, path: Path, registered: _Registered) -> None:
        self._actual.pop(path, None)
        await self._store.remove(registered.driver, registered.endpoint)
        logger.info("deregistered driver %s at %s", registered.driver, registered.endpoint)

    async def _register(self, path: Path, sighting: int) -> None:
        channel = connect(str(path), self._options)
        try:
            await self._introduce(path, sighting, channel)
        finally:
            await channel.close()

    async def _introduce(self, path: Path, sighting: int, channel: grpc.aio.Channel) -> None:
        try:
            await asyncio.wait_for(channel.channel_ready(), self._options.dial_timeout)
        except TimeoutError:
            raise RegistrationError(f"RegisterPlugin error -- dial failed at socket {path}") from None
        stub = registration_grpc.RegistrationStub(channel)
        try:
            info = await stub.GetInfo(registration.InfoRequest(), timeout=self._options.get_info_timeout)
        except grpc.aio.AioRpcError as error:
            raise RegistrationError(
                f"RegisterPlugin error -- GetInfo failed at socket {path}: {_text(error)}"
            ) from error
        if info.type != PLUGIN_TYPE:
            refusal = f"RegisterPlugin error -- no handler registered for plugin type: {info.type} at socket {path}"
            await self._notify(path, stub, error=refusal)
            raise RegistrationError(refusal)
        endpoint = info.endpoint or str(path)
        services = tuple(info.supported_versions)
        try:
            check_services(info.name, endpoint, services)
        except ValueError as error:
            await self._notify(path, stub, error=f"RegisterPlugin error -- plugin validation failed with err: {error}")
            raise RegistrationError(f"RegisterPlugin error -- plugin validation failed: {error}") from error
        try:
            self._store.add(info.name, endpoint, services)
        except ValueError as error:
            refusal = f"RegisterPlugin error -- plugin registration failed with err: {error}"
            await self._notify(path, stub, error=refusal)
            raise RegistrationError(refusal) from error
        # From here on the removal of the socket is a deregistration, also while the plugin is being told.
        self._actual[path] = _Registered(sighting=sighting, driver=info.name, endpoint=endpoint)
        try:
            await self._notify(path, stub)
        except BaseException:
            self._actual.pop(path, None)
            await self._store.remove(info.name, endpoint)
            raise
        logger.info("registered driver %s at %s", info.name, endpoint)

    async def _notify(self, path: Path, stub: registration_grpc.RegistrationStub, *, error: str = "") -> None:
        status = registration.RegistrationStatus(plugin_registered=not error, error=error)
        try:
            await stub.NotifyRegistrationStatus(status, timeout=self._options.notify_timeout)
        except grpc.aio.AioRpcError as failure:
            what = f"failed to send {'error' if error else 'registration status'} at socket {path}"
            raise RegistrationError(f"RegisterPlugin error -- {what}, err: {error}: {_text(failure)}") from failure

    def _states(self) -> Iterator[tuple[str, str]]:
        for path in self._actual:
            yield str(path), "actual_state_of_world"
        for path in self._desired:
            yield str(path), "desired_state_of_world"


def _text(error: grpc.aio.AioRpcError) -> str:
    return f"rpc error: code = {go_code(error.code())} desc = {error.details()}"
