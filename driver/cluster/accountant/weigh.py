"""What claims weigh: their pools' slices are asked when a claim first names them, and nothing is kept but the answer.

A cluster's slices may be gigabytes; the devices that claims with a budget hold are few.
"""

from __future__ import annotations

import asyncio
import logging
import re
from fractions import Fraction
from typing import TYPE_CHECKING

from driver.base.backoff import Backoff
from driver.cluster.accountant.ledger import WHOLE
from driver.cluster.read_objects import read_slice
from driver.cluster.slice_weights import held_weight, weights
from driver.kube import RESOURCE, ApiError, check_list

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from driver.cluster.accountant.books import Books
    from driver.cluster.objects import Claim, Device, Key, Result
    from driver.kube import Api

logger = logging.getLogger(__name__)

AT_ONCE = 8
LOOK = 0.25
"""Seconds after which it is seen that there is something to weigh; hours do not notice."""
TRIES = 24
"""Times that a pool is asked for a device before it is taken for gone: five minutes, as its node may be restarting."""
_NAMED = re.compile(r"-mig-([1-7])g")

Pool = dict[str, tuple["Device", Fraction]]
"""Devices and what they weigh, by name."""


class Weigher:
    """Finds out what the books want to know."""

    def __init__(
        self,
        api: Api,
        books: Books,
        *,
        driver: str,
        now: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = api
        self._books = books
        self._driver = driver
        self._now = now
        self._sleep = sleep
        self._backoff = Backoff(multiplier=0.5, longest=15)
        self._tries: dict[Key, int] = {}
        self.problem = ""

    async def run(self) -> None:
        """Weigh what is not weighed, for ever."""
        while True:
            left = await self.weigh_all()
            failures = min(max(self._tries.values(), default=1), 6)
            await self._sleep(self._backoff.after(failures, None) if left else LOOK)

    async def weigh_all(self) -> bool:
        """Ask for all that is wanted, pool by pool; whether anything is left to be asked again."""
        by_pool: dict[str, list[tuple[Key, Claim]]] = {}
        for key in tuple(self._books.unweighed):
            claim = self._books.claims[key].claim
            by_pool.setdefault(claim.results[0].pool, []).append((key, claim))
        self._tries = {key: tries for key, tries in self._tries.items() if key in self._books.unweighed}
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(claims: list[tuple[Key, Claim]]) -> None:
            async with gate:
                pools: dict[str, Pool] = {}
                for key, claim in claims:
                    await self._weigh(key, claim, pools)

        await asyncio.gather(*map(one, by_pool.values()))
        return bool(self._books.unweighed)

    async def _weigh(self, key: Key, claim: Claim, pools: dict[str, Pool]) -> None:
        try:
            for name in {result.pool for result in claim.results} - pools.keys():
                pools[name] = await self._pool(name)
        except ApiError as error:
            self.problem = str(error)
            self._tries[key] = self._tries.get(key, 0) + 1
            return
        self.problem = ""
        total = Fraction(0)
        for result in claim.results:
            found = pools[result.pool].get(result.device)
            if found is None and self._tries.get(key, 0) < TRIES:
                self._tries[key] = self._tries.get(key, 0) + 1
                return
            if found is None:
                logger.warning(
                    "no slice has the device of a claim any more: it counts what its name says",
                    extra={"claim": "/".join(key), "pool": result.pool, "device": result.device},
                )
            total += held_weight(found[0], result, found[1]) if found else _by_name(result)
        self._books.weigh(key, claim, round(total * WHOLE), self._now())

    async def _pool(self, name: str) -> Pool:
        """Our devices of a pool, in the newest generation: the pool of a node has its name."""
        path = f"{RESOURCE}/resourceslices"
        params = {"fieldSelector": f"spec.driver={self._driver},spec.nodeName={name}"}
        listing = check_list(await self._api.get(path, params, timeout=30), f"GET {path}")
        slices = [read for item in listing["items"] if (read := read_slice(item, driver=self._driver))]
        slices = [found for found in slices if found.pool == name]
        newest = max((found.generation for found in slices), default=0)
        devices = [device for found in slices if found.generation == newest for device in found.devices]
        known = weights(devices)
        return {device.name: (device, known[device.name]) for device in devices}


def _by_name(result: Result) -> Fraction:
    """What a device weighs that nothing is known of any more: a partition its sevenths, all else a whole GPU."""
    if result.admin:
        return Fraction(0)
    part = _NAMED.search(result.device)
    return Fraction(int(part[1]), 7) if part else Fraction(1)
