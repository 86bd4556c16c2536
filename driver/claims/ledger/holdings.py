"""What claims hold, for those who decide what the node offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.claims.errors import ClaimError
from driver.claims.ledger.holders import holds
from driver.inventory import Held, HoldingsError

if TYPE_CHECKING:
    from driver.claims.ledger.records import Records


class RecordedHoldings:
    """By the records of this boot."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def held(self, *, within: float) -> Held:
        """What claims hold now. Raises HoldingsError."""
        try:
            async with self._records.exclusive(within=within):  # looks at what another instance has written
                records = [record for record in self._records if record.boot_id == self._records.boot_id]
        except ClaimError as error:
            raise HoldingsError(str(error)) from error
        partitions = {
            (device.gpu_uuid, device.placement.profile, device.placement.start)
            for record in records
            for device in record.devices
            if device.placement is not None
        }
        return Held(partitions=partitions, by_gpu=holds(records))

    def hold_by_specs(self) -> bool:
        """Write records where they are damaged or gone, by what CDI specs name; whether there were any."""
        return self._records.hold_by_specs()
