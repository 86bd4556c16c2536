"""What follows each reading of the devices, as long as the agent runs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from driver.claims import Engine, Records, StatusWriter
    from driver.inventory import Devices

RENEWAL_RETRY = 10.0
"""Seconds until CDI specs that could not be brought to what the hardware is are tried again."""


async def renew_specs(engine: Engine, devices: Devices, *, retry: float = RENEWAL_RETRY) -> None:
    """Keep the CDI specs of claims as they should be, for ever; those of earlier processes first."""
    await devices.present.wait()
    while True:
        devices.specs_again.clear()
        await engine.restore()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(retry if engine.unsettled else None):
                await devices.specs_again.wait()


async def catch_up_statuses(status: StatusWriter, records: Records, devices: Devices) -> None:
    """Write what earlier processes have not got to, once the devices are known."""
    await devices.present.wait()
    await status.catch_up(records)
