"""What follows each reading of the devices."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from driver.inventory.known_devices import Devices
from driver.node.follow_devices import renew_specs
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Engine:
    """Counts how often specs were brought to what the hardware is."""

    def __init__(self) -> None:
        self.restored = 0
        self.unsettled: set[str] = set()

    async def restore(self) -> None:
        self.restored += 1


@contextlib.asynccontextmanager
async def renewing(engine: Any, devices: Devices) -> AsyncIterator[None]:
    task = asyncio.create_task(renew_specs(engine, devices, retry=0.01))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def read(devices: Devices) -> None:
    backend: Any = None
    inventory: Any = None
    devices.update(backend, inventory, {})


async def test_specs_are_renewed_once_for_each_reading() -> None:
    engine, devices = Engine(), Devices()
    async with renewing(engine, devices):
        await settled()
        assert engine.restored == 0

        read(devices)
        await eventually(lambda: engine.restored == 1)
        await settled()
        assert engine.restored == 1

        read(devices)
        await eventually(lambda: engine.restored == 2)


async def test_specs_that_are_not_what_they_should_be_are_tried_again_without_a_reading() -> None:
    engine, devices = Engine(), Devices()
    engine.unsettled = {"a claim"}
    async with renewing(engine, devices):
        read(devices)

        await eventually(lambda: engine.restored > 3)
