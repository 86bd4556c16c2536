"""The way from the hardware to the slices: open the backend, read it, publish, and again when something has changed.

What fails is tried again until it succeeds, whether or not anything else happens; what was known before stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from driver.claims.errors import ClaimError
from driver.devices.backend import BackendError
from driver.devices.profile import ProfileError
from driver.health.monitor import Monitor
from driver.kube.backoff import Backoff
from driver.said import Said
from driver.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from driver.devices.backend import Backend
    from driver.devices.present import Devices
    from driver.health.conditions import Conditions
    from driver.health.store import ConditionStore
    from driver.inventory.publication import Publication
    from driver.kube.events import NodeEvents
    from driver.slices.offer import Offer

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds."""

    retry: float = 10.0
    """The longest pause before something that failed is tried again."""
    answer: float = 30.0
    """A driver that does not answer at all in this time hangs: it is waited for, and said to be silent."""
    registration: float = 3.0
    """A kubelet that runs registers us within two seconds; without one, slices do no harm."""


class Discovery:
    """Keeps ``devices`` and what is published in step with the hardware, from the first look to the end of the process.

    At most one backend is open, and it is closed at the end.
    """

    def __init__(
        self,
        *,
        open_backend: Callable[[], Backend],
        devices: Devices,
        offer: Offer,
        publication: Publication,
        store: ConditionStore,
        events: NodeEvents,
        changed: asyncio.Event,
        registered: Callable[[], Awaitable[None]],
        patience: Patience = Patience(),
    ) -> None:
        """Args are what they are called, but for these.

        open_backend: blocks; raises BackendError where there is no usable driver, ProfileError where there never will
            be one.
        changed: set by whoever knows that the inventory, or what claims keep of it, is not what it was.
        registered: returns when the kubelet has registered the driver.
        """
        self._open_backend = open_backend
        self._devices = devices
        self._offer = offer
        self._publication = publication
        self._store = store
        self._events = events
        self._changed = changed
        self._registered = registered
        self._patience = patience
        self._backoff = Backoff(multiplier=patience.retry / 16, longest=patience.retry)
        self._said = Said()

    async def run(self) -> None:
        """Ends only by cancellation. Raises ProfileError."""
        backend = await self._until_it_succeeds(lambda: in_daemon_thread(self._open_backend))
        try:
            await self._read(backend)
            await self._follow(backend)
        finally:
            backend.close()

    async def _follow(self, backend: Backend) -> None:
        monitor = Monitor(
            backend,
            store=self._store,
            gpu_uuids=self._uuids(),
            changed=self._conditions_changed,
            inventory_changed=self._changed.set,
        )
        self._publication.conditions = monitor.conditions
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(monitor.run(), name="monitor")
            await monitor.first_look.wait()  # or a GPU would be published as healthy for a moment
            # A pod that arrives before the registration fails and waits for more than a minute.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience.registration):
                    await self._registered()
            self._publication.begin()
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._read(backend)
                monitor.gpu_uuids = self._uuids()
                self._publication.renew()

    async def _read(self, backend: Backend) -> None:
        await self._until_it_succeeds(lambda: self._offer.read(backend))
        if self._said.over(""):
            logger.info("the GPUs can be read again")

    async def _until_it_succeeds(self, attempt: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        while True:
            try:
                return await self._patiently(attempt())
            except ProfileError:
                raise
            except (BackendError, ClaimError) as error:
                problem = str(error)
            except Exception as error:
                problem = f"reading the GPUs failed unexpectedly, a bug of the driver: {error!r:.500}"
                if problem != self._devices.problem:
                    logger.exception("unexpected error")
            failures += 1
            self._failed(problem)
            await asyncio.sleep(self._backoff.after(failures, None))

    async def _patiently(self, work: Awaitable[T]) -> T:
        """What comes of it, however long that takes: a call that hangs cannot be ended, but it can be said."""
        task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=self._patience.answer)
            if not done:
                self._failed(f"the GPUs' driver has not answered for {self._patience.answer:.0f} s, and is waited for")
            return await task
        finally:
            task.cancel()  # no more than: nobody waits for it

    def _failed(self, problem: str) -> None:
        if self._said.is_news("", problem):
            if self._devices.inventory is None:
                logger.error("%s; asking again until it answers", problem)
                self._events.warn("NoUsableDriver", problem)
            else:
                logger.error("the inventory cannot be read again, the last one stays until it can: %s", problem)
        self._devices.fail(problem)

    def _conditions_changed(self, conditions: Conditions) -> None:
        self._publication.conditions = conditions
        self._publication.renew()

    def _uuids(self) -> tuple[str, ...]:
        inventory = self._devices.inventory
        return tuple(gpu.uuid for gpu in inventory.gpus) if inventory else ()
