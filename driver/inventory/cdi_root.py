"""The directory without which nothing can be prepared."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from driver.hardware import Defect

if TYPE_CHECKING:
    from driver.cdi import SpecDirectory
    from driver.inventory.defects import Defects
    from driver.inventory.publication import Publication

PERIOD = 10.0


async def watch_cdi_root(
    specs: SpecDirectory, *, defects: Defects, publication: Publication, period: float = PERIOD
) -> None:
    """See, for ever, whether CDI specs can be written; while they cannot, no new claim gets a device of this node."""
    while True:
        found = []
        try:
            specs.probe()
        except OSError as error:
            why = f"CDI specs cannot be written: {error.filename}: {error.strerror}"
            found.append(Defect(kind="cdi-root", why=why, blocks=True))
        if defects.found("cdi", *found):
            publication.renew()
        await asyncio.sleep(period)
