"""The flow from hardware to slices on fake GPUs, without a process, an API server or a kubelet."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from driver.base import layout
from driver.base.supervised import supervised
from driver.claims.ledger.holdings import RecordedHoldings
from driver.claims.ledger.quarantine import Quarantine
from driver.claims.ledger.records import Records
from driver.hardware.fake import profile
from driver.hardware.fake.fake_backend import FakeBackend
from driver.health.store import ConditionStore
from driver.health.taints import DEFAULT_EFFECTS
from driver.inventory import Defects, Discovery, Patience, Publication
from driver.inventory.host_resources import HostResources
from driver.inventory.known_devices import Devices
from driver.inventory.name_store import NameStore
from driver.inventory.offer import Offer
from driver.inventory.options import DeviceOptions, Options, Partitioning
from driver.observe.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from driver.hardware.model import Gpu, Inventory

BOOT = "boot-1"
NODE = "node-1"
DRIVER = "gpu.nvidia.com"


class Hardware(FakeBackend):
    """Fake GPUs whose inventory fails as often as the test says."""

    def __init__(self, directory: Path, name: str) -> None:
        super().__init__(profile.load_profile(name), name=name, state_dir=directory, boot_id=BOOT)
        self.trouble: Exception | None = None
        self.changed: Callable[[Gpu], Gpu] = lambda gpu: gpu
        self.hangs, self.goes_on = threading.Event(), threading.Event()
        self.reads = 0
        self.closed = 0

    def inventory(self) -> Inventory:
        self.reads += 1
        if self.hangs.is_set():
            self.hangs.clear()
            self.goes_on.wait(20)
        if self.trouble is not None:
            raise self.trouble
        inventory = super().inventory()
        return replace(inventory, gpus=tuple(map(self.changed, inventory.gpus)))

    def close(self) -> None:
        self.closed += 1
        super().close()


class Said:
    """Events that were told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def tell(self, kind: str, reason: str, message: str) -> None:
        self.events.append((kind, reason, message))

    def warn(self, reason: str, message: str) -> None:
        self.tell("Warning", reason, message)

    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.events]


class Outside:
    """Who takes what is published: in the place of publisher, health feed and neighbours."""

    def __init__(self) -> None:
        self.pools: list[Any] = []
        self.troubles = 0
        """How many attempts to publish fail from now on."""

    def desire(self, pool: Any) -> None:
        self.pools.append(pool)

    def changed(self) -> None: ...

    def offer(self, slices: Any) -> Any:
        if self.troubles:
            self.troubles -= 1
            raise ValueError("a device that nobody expects")
        return slices


class World:
    """One node."""

    def __init__(self, directory: Path, *, name: str, partitioning: str, unread: float) -> None:
        self.hardware = Hardware(directory, name)
        self.opening: list[Exception] = []
        """What opening fails with, one after the other."""
        self.opened = 0
        self.said, self.outside, self.devices = Said(), Outside(), Devices()
        self.metrics = Metrics(driver_name=DRIVER)
        self.records = Records(
            directory / layout.CLAIMS,
            boot_id=BOOT,
            quarantine=Quarantine(directory / layout.QUARANTINE, lambda *_: None),
            changed=lambda record: self.devices.claim_changed(record.devices),
        )
        outside: Any = self.outside
        events: Any = self.said
        self.offer = Offer(
            options=Options(default=DeviceOptions(partitioning=Partitioning(partitioning))),
            devices=self.devices,
            holdings=RecordedHoldings(self.records),
            names=NameStore(directory, boot_id=BOOT),
            metrics=self.metrics,
            events=events,
            lock_patience=0.01,
        )
        self.defects = Defects(events=events, metrics=self.metrics)
        self.publication = Publication(
            driver_name=DRIVER,
            pool=NODE,
            effects=DEFAULT_EFFECTS,
            list_attributes=False,
            host=HostResources(),
            devices=self.devices,
            defects=self.defects,
            publisher=outside,
            coexistence=outside,
            feed=outside,
            metrics=self.metrics,
        )
        self.discovery = Discovery(
            open_backend=self._open,
            devices=self.devices,
            offer=self.offer,
            publication=self.publication,
            defects=self.defects,
            store=ConditionStore(directory, boot_id=BOOT),
            events=events,
            registered=asyncio.Event().wait,
            patience=Patience(retry=0.02, unread=unread, registration=0.01),
        )

    def _open(self) -> Hardware:
        if self.opening:
            raise self.opening.pop(0)
        self.opened += 1
        return self.hardware

    @property
    def published(self) -> Mapping[str, Mapping[str, Any]]:
        """Devices as last published, by name."""
        pool = self.outside.pools[-1] if self.outside.pools else None
        slices = pool.slices if pool is not None else ()
        return {device["name"]: device for one in slices for device in one.get("devices") or ()}

    def taints(self, device: str) -> set[tuple[str, str, str]]:
        """Keys without the driver's name, values and effects."""
        found = self.published[device].get("taints") or ()
        return {(t["key"].removeprefix(f"{DRIVER}/"), t.get("value", ""), t["effect"]) for t in found}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        await self.records.open()
        tasks = [
            asyncio.create_task(supervised(part.run, name="part", sleep=lambda _: asyncio.sleep(0.01)))
            for part in (self.discovery, self.publication)
        ]
        try:
            yield self
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def new_world(tmp_path: Path) -> Any:
    def new(*, name: str = "h100x8", partitioning: str = "none", unread: float = 60) -> World:
        return World(tmp_path, name=name, partitioning=partitioning, unread=unread)

    return new


@pytest.fixture
async def world(new_world: Any) -> World:
    made: World = new_world()
    return made
