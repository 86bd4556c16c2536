"""What the device health streams send: the whole list at once, again on every change, and as a heartbeat in between.

Without a heartbeat a healthy device reads as Unknown after its timeout, and a stream that ends wipes the health of the
whole driver, another instance's included. So a stream lasts until the process stops or the kubelet goes.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from types import ModuleType

    from driver.health.report import DeviceHealth

HEARTBEAT = 10.0
TIMEOUT = 30


class HealthFeed:
    """What the streams send; the node pokes it when a device's health may have changed."""

    def __init__(self, *, pool: str, devices: Callable[[], Iterable[DeviceHealth]]) -> None:
        self._pool = pool
        self._devices = devices
        self._changed = asyncio.Event()
        self._stopped = False

    def changed(self) -> None:
        """Send the list again now."""
        self._changed.set()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """End all streams: the process is about to go."""
        self._stopped = True
        self.changed()

    async def messages(self, pb: ModuleType) -> AsyncIterator[Any]:
        """The complete list of devices, in the messages of one version of the API."""
        while not self._stopped:
            changed = self._changed
            now = int(time.time())
            yield pb.NodeWatchResourcesResponse(
                devices=[
                    pb.DeviceHealth(
                        device=pb.DeviceIdentifier(pool_name=self._pool, device_name=device.name),
                        health=device.status,
                        last_updated_time=now,
                        health_check_timeout_seconds=TIMEOUT,
                        message=device.message,
                    )
                    for device in self._devices()
                ]
            )
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await changed.wait()
            except TimeoutError:
                continue
