"""Device health as drivers stream it: the cache, the stream, and what it looks like in a pod's status."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from driver.sim.kubelet.plugins import go_code
from driver.sim.scheduler.objects import claim_name
from driver.wire import dra_health_v1_pb2, dra_health_v1_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from driver.sim.kubelet.claiminfo import ClaimInfo, Device
    from driver.sim.kubelet.options import Options
    from driver.sim.kubelet.plugins import Plugin

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 30.0
MESSAGE_LIMIT = 1024
_HEALTH = {1: "Healthy", 2: "Unhealthy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One device's health. ``updated`` is when the message came, in Unix seconds: the driver's own time is ignored."""

    health: str = "Unknown"
    message: str = ""
    timeout: float = DEFAULT_TIMEOUT
    updated: float = 0.0

    def same_as(self, other: Health) -> bool:
        """Whether nothing changed that a pod would show."""
        return (self.health, self.message, self.timeout) == (other.health, other.message, other.timeout)


class HealthCache:
    """Health by driver and (pool, device)."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._drivers: dict[str, dict[tuple[str, str], Health]] = {}

    def update(self, driver: str, devices: Mapping[tuple[str, str], Health]) -> set[tuple[str, str]]:
        """Take a driver's full list. Returns the (pool, device)s whose health, message or timeout changed."""
        now = self._clock()
        known = self._drivers.setdefault(driver, {})
        changed = set()
        for key, health in devices.items():
            if key not in known or not known[key].same_as(health):
                changed.add(key)
            known[key] = Health(health=health.health, message=health.message, timeout=health.timeout, updated=now)
        for key, health in known.items():
            # A device that is no longer reported lives on until its timeout.
            if key not in devices and health.health != "Unknown" and now - health.updated > health.timeout:
                known[key] = Health(timeout=health.timeout, updated=now)
                changed.add(key)
        return changed

    def get(self, driver: str, pool: str, device: str) -> Health:
        """What is known now; a report that is older than its timeout reads as Unknown."""
        health = self._drivers.get(driver, {}).get((pool, device), Health())
        return Health() if self._clock() - health.updated > health.timeout else health

    def clear(self, driver: str) -> None:
        """Forget a driver, whichever of its instances reported."""
        self._drivers.pop(driver, None)


class HealthWatcher:
    """Reads the stream of each plugin instance and tells ``changed(driver, devices)`` about news."""

    def __init__(
        self,
        *,
        cache: HealthCache,
        options: Options,
        changed: Callable[[str, set[tuple[str, str]]], None],
    ) -> None:
        self._cache = cache
        self._options = options
        self._changed = changed

    async def run(self, plugin: Plugin) -> None:
        """Keep a stream open until cancelled."""
        while True:
            await self._stream(plugin)
            await asyncio.sleep(self._options.health_reopen)

    async def _stream(self, plugin: Plugin) -> None:
        established = False
        try:
            stub = dra_health_v1_pb2_grpc.DRAResourceHealthStub(plugin.channel)
            async for message in stub.NodeWatchResources(dra_health_v1_pb2.NodeWatchResourcesRequest()):
                established = True
                changed = self._cache.update(plugin.driver, devices_of(message))
                if changed:
                    self._changed(plugin.driver, changed)
            logger.info("driver %s ended its health stream", plugin.driver)
        except grpc.aio.AioRpcError as error:
            # A stream that never reached the plugin must not wipe what another instance reports.
            established = established or error.code() is not grpc.StatusCode.UNAVAILABLE
            logger.warning(
                "health stream of driver %s at %s: rpc error: code = %s desc = %s",
                *(plugin.driver, plugin.endpoint, go_code(error.code()), error.details()),
            )
        finally:
            if established:
                self._cache.clear(plugin.driver)


def devices_of(message: Any) -> dict[tuple[str, str], Health]:
    """A NodeWatchResourcesResponse, messages cut to what a pod's status may hold."""
    return {
        (device.device.pool_name, device.device.device_name): Health(
            health=_HEALTH.get(device.health, "Unknown"),
            message=truncate(device.message),
            timeout=float(device.health_check_timeout_seconds)
            if device.health_check_timeout_seconds > 0
            else DEFAULT_TIMEOUT,
        )
        for device in message.devices
    }


def truncate(message: str) -> str:
    """At most 1024 bytes, cut without regard for characters, as the real kubelet does."""
    data = message.encode()
    if len(data) <= MESSAGE_LIMIT:
        return message
    return (data[: MESSAGE_LIMIT - 3] + b"...").decode(errors="replace")


def allocated_resources_status(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    claims: Mapping[tuple[str, str], ClaimInfo],
    cache: HealthCache,
) -> list[dict[str, Any]]:
    """``allocatedResourcesStatus`` of one container. Extended resources have none."""
    by_name: dict[str, dict[str, Any]] = {}
    namespace = pod["metadata"]["namespace"]
    for entry in (container.get("resources") or {}).get("claims") or []:
        named = next((one for one in pod["spec"].get("resourceClaims") or [] if one["name"] == entry["name"]), None)
        info = claims.get((namespace, (claim_name(pod, named) if named else None) or ""))
        if info is None:
            continue
        request = entry.get("request") or ""
        resources: dict[str, dict[str, Any]] = {}
        for driver, devices in info.drivers.items():
            for device in _relevant(devices, request.split("/")[0]):
                known = cache.get(driver, device.pool, device.name)
                identity = (
                    device.cdi_device_ids[0] if device.cdi_device_ids else f"{driver}/{device.pool}/{device.name}"
                )
                status = {"resourceID": identity, "health": known.health}
                if known.message:
                    status["message"] = known.message
                resources.setdefault(identity, status)
        if resources:
            name = f"claim:{entry['name']}" + (f"/{request}" if request else "")
            by_name[name] = {"name": name, "resources": list(resources.values())}
    return list(by_name.values())


def _relevant(devices: Iterable[Device], request: str) -> Iterable[Device]:
    return (device for device in devices if not request or not device.request_names or request in device.request_names)
