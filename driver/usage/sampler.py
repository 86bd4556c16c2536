"""Measures the GPUs at intervals, whoever asks and however often. A GPU that hangs holds up nobody but itself."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from driver.base.repeat_filter import RepeatFilter
from driver.base.threads import in_daemon_thread
from driver.hardware import BackendError, Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.hardware import Measurement
    from driver.inventory import Devices
    from driver.usage.processes import Processes

logger = logging.getLogger(__name__)

INTERVAL = 10.0
STALE = 3.5
"""Intervals after which what was measured is not true any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one GPU has told, and whose its processes are."""

    measurement: Measurement
    pods: Mapping[int, str] = field(default_factory=dict)
    """UIDs of pods by process id."""
    all_seen: bool = False
    """Whether a process that is not told of does not exist."""
    taken: float = 0.0
    """Monotonic seconds."""


class Sampler:
    """Keeps a sample of each GPU. ``samples`` may be called from any thread."""

    def __init__(
        self,
        devices: Devices,
        processes: Processes,
        *,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = devices
        self._processes = processes
        self.interval = interval
        self._clock = clock
        self._samples: dict[str, Sample] = {}
        self._under_way: dict[str, asyncio.Future[Sample]] = {}
        """By GPU UUID: calls that have not come back, perhaps since long."""
        self._repeats = RepeatFilter()

    def samples(self) -> dict[str, Sample]:
        """By GPU UUID, those that are fresh."""
        since = self._clock() - STALE * self.interval
        return {uuid: sample for uuid, sample in dict(self._samples).items() if sample.taken >= since}

    async def sample(self, *, within: float) -> None:
        """Measure every GPU that is not being measured still, and wait for that so many seconds at the most."""
        inventory = self._devices.inventory
        if inventory is None:
            return
        backend, _ = await self._devices.known()
        if not isinstance(backend, Meter):
            return
        present = {gpu.uuid for gpu in inventory.gpus}
        self._samples = {uuid: sample for uuid, sample in self._samples.items() if uuid in present}
        for uuid in present - self._under_way.keys():
            future = in_daemon_thread(lambda uuid=uuid: self._measure(backend, uuid), name="meter")  # type: ignore[misc]
            self._under_way[uuid] = future
            future.add_done_callback(lambda done, uuid=uuid: self._done(uuid, done))  # type: ignore[misc]
        if self._under_way:
            await asyncio.wait(tuple(self._under_way.values()), timeout=within)

    def _measure(self, backend: Meter, uuid: str) -> Sample:
        measurement = backend.measure(uuid)
        uses = (measurement.whole, *measurement.partitions.values())
        pids = [process.pid for use in uses for process in use.processes or ()]
        return Sample(
            measurement=measurement,
            pods=self._processes.pods(pids),
            all_seen=self._processes.all_seen(),
            taken=self._clock(),
        )

    def _done(self, uuid: str, done: asyncio.Future[Sample]) -> None:
        self._under_way.pop(uuid, None)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._samples[uuid] = done.result()
            self._repeats.over(uuid)
        elif self._repeats.is_news(uuid, str(error)):
            level = logging.WARNING if isinstance(error, BackendError) else logging.ERROR
            logger.log(level, "what is used of %s is not known: %s", uuid, error)
