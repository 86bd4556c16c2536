"""What the node publishes of its devices, made anew whenever something that it is made of has changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from driver.health import Severity, concerning
from driver.inventory.publisher import Pool
from driver.inventory.slices import build_slices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.health import Effects, HealthFeed
    from driver.inventory.catalogue import Device
    from driver.inventory.defects import Defects
    from driver.inventory.host_resources import HostResources
    from driver.inventory.known_devices import Devices
    from driver.inventory.neighbours import Coexistence
    from driver.inventory.publisher import Publisher
    from driver.inventory.slices import Slice
    from driver.observe import Metrics

_STATES = {Severity.UNUSABLE: "lost", Severity.DEGRADED: "degraded"}


class Publication:
    """Slices, the health stream and the metrics, in step with devices, conditions and other drivers on the node."""

    def __init__(
        self,
        *,
        driver_name: str,
        pool: str,
        effects: Effects,
        list_attributes: bool,
        host: HostResources,
        devices: Devices,
        defects: Defects,
        publisher: Publisher,
        coexistence: Coexistence,
        feed: HealthFeed,
        metrics: Metrics,
    ) -> None:
        """``effects``, ``list_attributes`` and ``host`` are those of ``build_slices``; ``begin`` begins to publish."""
        self._driver = driver_name
        self._pool = pool
        self._effects = effects
        self._list_attributes = list_attributes
        self._host = host
        self._devices = devices
        self._defects = defects
        self._publisher = publisher
        self._coexistence = coexistence
        self._feed = feed
        self._metrics = metrics
        self._begun = asyncio.Event()
        self._rendered: Mapping[str, Mapping[str, Any]] = {}
        self._rendered_of: tuple[Device, ...] = ()

    def device(self, name: str) -> Mapping[str, Any]:
        """A device as it is in the slices; empty where it is in none."""
        if self._rendered_of is not self._devices.offered:  # read a moment ago, and prepare is quicker than we are
            self._slices()
        return self._rendered.get(name, {})

    def begin(self) -> None:
        """Publish from now on: the GPUs' state is known, and the kubelet had its time to register us."""
        self._begun.set()
        self.renew()

    def renew(self) -> None:
        """Have what is known published soon, because it has changed."""
        self._devices.publish_again.set()

    async def run(self) -> None:
        """Publish when that is wanted, for ever. After an error another run begins with what could not be published."""
        await self._begun.wait()
        wanted = self._devices.publish_again
        while True:
            await wanted.wait()
            self._publish()
            wanted.clear()

    def _publish(self) -> None:
        offer = self._coexistence.offer(self._slices())
        self._publisher.desire(None if offer is None else Pool(name=self._pool, slices=tuple(offer)))
        self._feed.changed()
        self._count()

    def _slices(self) -> tuple[Slice, ...]:
        inventory = self._devices.inventory
        if inventory is None:
            return ()
        offered = self._devices.offered
        slices = build_slices(
            inventory,
            self._devices.conditions,
            driver_name=self._driver,
            devices=offered,
            effects=self._effects,
            list_attributes=self._list_attributes,
            host=self._host,
            pending=self._devices.pending,
            unpreparable=self._defects.blocking,
        )
        self._rendered = {device["name"]: device for spec in slices for device in spec.get("devices") or []}
        self._rendered_of = offered
        return slices

    def _count(self) -> None:
        states = {(kind, state): 0 for kind in ("gpu", "mig") for state in ("healthy", "degraded", "lost")}
        for device in self._devices.offered:
            known = concerning(self._devices.conditions.get(device.gpu.uuid, ()), device.part)
            worst = max((c.severity for c in known), default=Severity.INFORMATION)
            if device.defect is not None:
                worst = max(worst, Severity.DEGRADED)
            states[device.type, _STATES.get(worst, "healthy")] += 1
        for (kind, state), count in states.items():
            self._metrics.devices.labels(kind, state).set(count)
