"""The flow of usage: what claims hold, how long, and how much of it they use, as metrics of the node."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from driver.base import layout
from driver.base.repeat_filter import RepeatFilter
from driver.claims import ClaimError
from driver.usage.accounts import Accounts
from driver.usage.collector import UsageCollector
from driver.usage.processes import Processes
from driver.usage.refresh_pods import PodRefresher
from driver.usage.sampler import INTERVAL, Sampler

if TYPE_CHECKING:
    from pathlib import Path

    from driver.claims import Common
    from driver.inventory import Lead
    from driver.kube import Api

logger = logging.getLogger(__name__)

SETTLE_PERIOD = 60.0
LOOK_PERIOD = 2.0
"""Seconds between two looks at who tells."""


class Usage:
    """What goes on all the time for it. Of several instances on a node the one that publishes tells."""

    def __init__(
        self, common: Common, *, api: Api, lead: Lead, plugin_dir: Path, proc: Path, interval: float = INTERVAL
    ) -> None:
        """``proc`` is the node's; ``interval`` is in seconds."""
        records = common.records
        self._devices = common.devices
        self._lead = lead
        self._interval = interval
        self._accounts = Accounts(records, plugin_dir / layout.ACCOUNTS)
        self._sampler = Sampler(common.devices, Processes(proc), interval=interval)
        self._refresher = PodRefresher(api, records, common.pods)
        self._ended = records.ended
        self._repeats = RepeatFilter()
        common.told.metrics.registry.register(
            UsageCollector(common, sampler=self._sampler, accounts=self._accounts, tells=self._tells)
        )

    def _tells(self) -> bool:
        return not self._lead.is_elsewhere()

    async def measure(self) -> None:
        """Measure the GPUs, for ever, as long as this instance tells."""
        await self._devices.present.wait()
        while True:
            if self._tells():
                await self._sampler.sample(within=self._interval)
            await asyncio.sleep(self._interval)

    async def account(self) -> None:
        """Add up what has ended, for ever: once a minute, when so many have, and first when this instance tells.

        Where it begins with less than another has told, Prometheus takes that for a restart and counts all of it anew.
        """
        while True:
            if not self._tells():
                self._accounts.rest()
                await asyncio.sleep(LOOK_PERIOD)
                continue
            settled = await self._settled()
            for _ in range(int(SETTLE_PERIOD / LOOK_PERIOD)):
                await asyncio.sleep(LOOK_PERIOD)
                if not self._tells() or (settled and self._ended.are_many):
                    break

    async def _settled(self) -> bool:
        try:
            await self._accounts.settle()
        except (ClaimError, OSError) as error:
            if self._repeats.is_news("", str(error)):
                logger.error("how long claims held their GPUs cannot be added up, trying again: %s", error)
            return False
        self._repeats.over("")
        return True

    async def follow_pods(self) -> None:
        """Keep up, for ever, with who claims are reserved for."""
        await self._refresher.run()
