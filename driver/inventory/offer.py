"""What the node offers at the moment: hardware, settings and claims brought together, and said when it is less."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from driver.base.threads import in_daemon_thread
from driver.inventory.catalogue import Catalogue, foreign_slots, survey
from driver.inventory.options import Partitioning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.hardware import Backend, Gpu, Inventory
    from driver.inventory.catalogue import Hold
    from driver.inventory.held import Holdings
    from driver.inventory.known_devices import Devices
    from driver.inventory.name_store import NameStore
    from driver.inventory.options import Options
    from driver.kube import NodeEvents
    from driver.observe import Metrics

logger = logging.getLogger(__name__)

LOCK_PATIENCE = 5.0
"""Seconds to wait for another instance that is changing records; it needs milliseconds, and we come again."""
GONE = "it does not show up any more, and stays in its slices until the claims that hold it have ended"


class Offer:
    """Keeps ``devices`` up to date: ``read`` reads everything, whenever ``devices`` say that this is needed."""

    def __init__(
        self,
        *,
        options: Options,
        devices: Devices,
        holdings: Holdings,
        names: NameStore,
        metrics: Metrics,
        events: NodeEvents,
        lock_patience: float = LOCK_PATIENCE,
    ) -> None:
        self._options = options
        self._devices = devices
        self._holdings = holdings
        self._names = names
        self._metrics = metrics
        self._events = events
        self._lock_patience = lock_patience
        self.problems: Mapping[str, str] = {}
        """By GPU UUID, or by setting: why less is offered than was asked for."""

    async def read(self, backend: Backend) -> None:
        """Read the hardware, and settle what of it is offered.

        Raises BackendError, or HoldingsError where what claims hold cannot be known; then everything stays as it was.
        """
        before = await self._holdings.held(within=self._lock_patience)
        inventory = self._names.apply(await in_daemon_thread(backend.inventory))
        # Claims come and go meanwhile; whose a partition is, is written down before it is made.
        after = await self._holdings.held(within=self._lock_patience)
        foreign = foreign_slots(inventory, before.partitions | after.partitions)
        gone = self._gone(inventory, after.by_gpu)
        inventory = replace(inventory, gpus=(*inventory.gpus, *gone))
        found = survey(inventory, self._options.with_withheld(foreign), after.by_gpu)
        self._report(found)
        self._devices.update(
            backend,
            inventory,
            found.by_name(),
            offered=found.devices,
            pending={**found.pending, **{gpu.uuid: GONE for gpu in gone}},
            options=self._options,
        )
        if self._holdings.hold_by_specs():  # so that what they hold is not taken for foreign
            await self.read(backend)

    def without_partitions(self) -> None:
        """The cluster does not count partitions: without that, what overlaps would be given away together."""
        message = (
            "GPUs are offered as a whole only: the API server drops counters, DRAPartitionableDevices is off there"
        )
        logger.error("%s", message)
        self._events.tell("Warning", "PartitionsNotOffered", message)
        self._options = self._options.without(Partitioning.DYNAMIC)
        self._devices.read_again.set()

    def _gone(self, inventory: Inventory, held: Mapping[str, tuple[Hold, ...]]) -> tuple[Gpu, ...]:
        known = self._devices.inventory
        present = {gpu.uuid for gpu in inventory.gpus}
        away = (gpu for gpu in (known.gpus if known else ()) if gpu.uuid in held and gpu.uuid not in present)
        return tuple(replace(gpu, index=-1, minor=None) for gpu in away)  # its numbers may be another's by now

    def _report(self, found: Catalogue) -> None:
        """Say what is new in the log and as Events; the metric and the status page have what is."""
        for subject, problem in found.problems.items():
            if self.problems.get(subject) == problem:
                continue
            if subject.startswith("gpus["):  # other nodes with the same file may have what it is about
                logger.warning("the config file's %s changes nothing here: %s", subject, problem)
                self._events.tell(
                    "Normal", "ConfigMatchesNoGpu", f"{subject} of the config file changes nothing: {problem}"
                )
            else:
                logger.error("GPU %s is not offered as asked for: %s", subject, problem)
                self._events.tell("Warning", "GpuNotOffered", f"GPU {subject} is not offered as asked for: {problem}")
        for uuid, why in found.pending.items():
            if self._devices.pending.get(uuid) != why:
                logger.warning("GPU %s is not offered as the settings say yet: %s", uuid, why)
        for subject in self.problems.keys() | found.problems.keys():
            self._metrics.not_offered.labels(subject).set(subject in found.problems)
        self._metrics.pending.set(len(found.pending))
        self.problems = dict(found.problems)
