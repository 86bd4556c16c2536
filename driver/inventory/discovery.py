"""The way from the hardware to the slices: open the backend, read it, publish, and again when something has changed.

What fails is tried again until it succeeds, whether or not anything else happens; what was known before stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from driver.base.backoff import Backoff
from driver.base.repeat_filter import RepeatFilter
from driver.base.threads import in_daemon_thread
from driver.hardware import BackendError, Defect, ProfileError
from driver.health import Monitor, tell_difference
from driver.inventory.held import HoldingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from driver.hardware import Backend
    from driver.health import Conditions, ConditionStore
    from driver.inventory.defects import Defects
    from driver.inventory.known_devices import Devices
    from driver.inventory.offer import Offer
    from driver.inventory.publication import Publication
    from driver.kube import NodeEvents

logger = logging.getLogger(__name__)

T = TypeVar("T")

CLOCK = 0.001
"""A timer may come so many seconds early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds."""

    retry: float = 10.0
    """The longest pause before something that failed is tried again."""
    unread: float = 15.0
    """What is known of the GPUs is out of date when they could not be read again for so long."""
    registration: float = 3.0
    """A kubelet that runs registers us within two seconds; without one, slices do no harm."""


class Discovery:
    """Keeps ``devices`` and what is published in step with the hardware, from the first read to the end of the process.

    At most one backend is open, and it is closed at the end.
    """

    def __init__(
        self,
        *,
        open_backend: Callable[[], Backend],
        devices: Devices,
        offer: Offer,
        publication: Publication,
        defects: Defects,
        store: ConditionStore,
        events: NodeEvents,
        registered: Callable[[], Awaitable[None]],
        patience: Patience = Patience(),
    ) -> None:
        """Args are what they are called, but for these.

        open_backend: blocks; raises BackendError where there is no usable driver, ProfileError where there never will
            be one.
        registered: returns when the kubelet has registered the driver.
        """
        self._open_backend = open_backend
        self._devices = devices
        self._offer = offer
        self._publication = publication
        self._defects = defects
        self._store = store
        self._events = events
        self._registered = registered
        self._patience = patience
        self._backoff = Backoff(multiplier=patience.retry / 16, longest=patience.retry)
        self._repeats = RepeatFilter()
        self._unread_since: float | None = None
        """When the attempts began of which none has succeeded yet, in monotonic seconds."""

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
            inventory_changed=self._devices.read_again.set,
        )
        self._devices.conditions = monitor.conditions
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(monitor.run(), name="monitor")
            await monitor.first_reading.wait()  # or a GPU would be published as healthy for a moment
            # A pod that arrives before the registration fails and waits for more than a minute.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience.registration):
                    await self._registered()
            self._publication.begin()
            while True:
                await self._devices.read_again.wait()
                self._devices.read_again.clear()
                await self._read(backend)
                monitor.gpu_uuids = self._uuids()
                self._publication.renew()

    async def _read(self, backend: Backend) -> None:
        await self._until_it_succeeds(lambda: self._offer.read(backend))
        self._unread_since = None
        if self._repeats.over(""):
            logger.info("the GPUs can be read again")
        self._defects.found("hardware")
        self._defects.found("driver", *(self._devices.inventory.defects if self._devices.inventory else ()))

    async def _until_it_succeeds(self, attempt: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        while True:
            try:
                return await self._patiently(attempt())
            except ProfileError:
                raise
            except (BackendError, HoldingsError) as error:
                problem = str(error)
            except Exception as error:
                problem = f"reading the GPUs failed unexpectedly, a bug of the driver: {error!r:.500}"
                if problem != self._devices.problem:
                    logger.exception("unexpected error")
            failures += 1
            self._failed(problem)
            await asyncio.sleep(min(self._backoff.after(failures, None), self._next_word()))

    async def _patiently(self, work: Awaitable[T]) -> T:
        """What comes of it, however long that takes: a call that hangs cannot be ended, but it can be said."""
        if self._unread_since is None:
            self._unread_since = time.monotonic()
        task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=self._next_word())
            if not done:
                waited = time.monotonic() - self._unread_since
                self._failed(f"the GPUs' driver has not answered for {waited:.0f} s, and is waited for")
            return await task
        finally:
            task.cancel()  # no more than: nobody waits for it

    @property
    def _unread(self) -> float:
        """For how many seconds no attempt has succeeded."""
        return 0.0 if self._unread_since is None else time.monotonic() - self._unread_since

    def _next_word(self) -> float:
        """Seconds until what is known is out of date; after that, until it is worth another word."""
        left = self._patience.unread - self._unread
        return left if left > 0 else self._patience.unread

    def _failed(self, problem: str) -> None:
        if self._repeats.is_news("", problem):
            if self._devices.inventory is None:
                logger.error("%s; asking again until it answers", problem)
                self._events.warn("NoUsableDriver", problem)
            else:
                logger.error("the inventory cannot be read again, the last one stays until it can: %s", problem)
        self._devices.fail(problem)
        if self._devices.inventory is None or self._unread < self._patience.unread - CLOCK:
            return
        why = f"nothing new is known of the GPUs, and what is published of them may be wrong: {problem}"
        if self._defects.found("hardware", Defect(kind="unread", why=why, blocks=True)):
            self._publication.renew()

    def _conditions_changed(self, conditions: Conditions) -> None:
        before, self._devices.conditions = self._devices.conditions, conditions
        self._publication.renew()
        names = {gpu.uuid: gpu.name for gpu in self._devices.inventory.gpus} if self._devices.inventory else {}
        tell_difference(self._events, before, conditions, names=names)

    def _uuids(self) -> tuple[str, ...]:
        inventory = self._devices.inventory
        return tuple(gpu.uuid for gpu in inventory.gpus) if inventory else ()
