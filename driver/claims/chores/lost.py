"""CDI specs that somebody removed under a running driver, which are written again before a container restarts.

The kubelet does not ask again for a claim that it knows as prepared, while every container that starts needs the spec.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from driver.base.repeat_filter import RepeatFilter
from driver.claims.errors import ClaimError
from driver.claims.ledger.record import State
from driver.hardware import BackendError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from driver.cdi import SpecDirectory
    from driver.claims.ledger.record import Record
    from driver.claims.ledger.records import Records

logger = logging.getLogger(__name__)

PERIOD = 2.0


class LostSpecs:
    """Compares the CDI root with the records: one listing for each look, and nothing else while nothing is lost."""

    def __init__(
        self,
        *,
        records: Records,
        specs: SpecDirectory,
        boot_id: str,
        restore: Callable[[set[str]], Awaitable[list[Record]]],
        warn: Callable[[str, str], None],
        period: float = PERIOD,
    ) -> None:
        """``restore`` writes the missing specs of the claims with these UIDs, those that are still prepared."""
        self._records = records
        self._specs = specs
        self._boot_id = boot_id
        self._restore = restore
        self._warn = warn
        self._period = period
        self._missing: set[str] = set()
        self._repeats = RepeatFilter()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self._period)
            try:
                await self.check()
            except (ClaimError, BackendError, OSError) as error:
                if self._repeats.is_news("", str(error)):
                    logger.error("CDI specs cannot be looked after, trying again: %s", error)
            else:
                self._repeats.over("")

    async def check(self) -> None:
        """One look. What is missing for the first time may be a claim that begins or ends just now."""
        missing = self._find_missing()
        lost, self._missing = missing & self._missing, missing
        restored = await self._restore(lost) if lost else []
        if restored:
            claims = ", ".join(str(record.claim) for record in restored[:5])
            more = f" and {len(restored) - 5} more" if len(restored) > 5 else ""
            self._warn(
                "LostCdiSpec",
                f"the CDI specs of {claims}{more} were gone from {self._specs.root} and were written again; see what "
                "removes files there: a container that starts without its spec fails",
            )

    def _find_missing(self) -> set[str]:
        prepared = {
            record.claim.uid
            for record in self._records
            if record.boot_id == self._boot_id and record.state is State.PREPARED
        }
        if not prepared:
            return prepared
        try:
            return prepared - self._specs.claim_uids()
        except FileNotFoundError:  # with the whole directory
            return prepared
