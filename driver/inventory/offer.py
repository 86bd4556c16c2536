"""What the node offers at the moment: hardware, settings and claims brought together, and said when it is less."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from driver.base.threads import in_daemon_thread
from driver.inventory.catalogue import Catalogue, foreign_slots, survey
from driver.inventory.holdings import Held
from driver.inventory.options import Partitioning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Literal

    from driver.hardware import Backend, Gpu, Inventory
    from driver.inventory.catalogue import Device, Hold
    from driver.inventory.holdings import HeldDevice, Holdings
    from driver.inventory.name_store import NameStore
    from driver.inventory.options import DeviceOptions, Options
    from driver.inventory.present import Devices
    from driver.observe import Metrics

logger = logging.getLogger(__name__)

LOCK_PATIENCE = 5.0
"""Seconds to wait for another instance that is changing records; it needs milliseconds, and we come again."""
GONE = "it does not show up any more, and stays in its slices until the claims that hold it have ended"


class Offer:
    """Keeps ``devices`` up to date. ``read`` looks at everything; what happens in between says when to look again."""

    def __init__(
        self,
        *,
        options: Options,
        devices: Devices,
        names: NameStore,
        boot_id: str,
        metrics: Metrics,
        tell: Callable[[Literal["Normal", "Warning"], str, str], None],
        look_again: Callable[[], None],
        lock_patience: float = LOCK_PATIENCE,
    ) -> None:
        """``tell`` gets type, reason and message of an Event; ``look_again`` asks for another ``read``, soon."""
        self._options = options
        self._devices = devices
        self._names = names
        self._boot_id = boot_id
        self._metrics = metrics
        self._tell = tell
        self._look_again = look_again
        self._lock_patience = lock_patience
        self._offered: Mapping[str, DeviceOptions] = {}
        """By GPU UUID: by which settings it is offered."""
        self.holdings: Holdings | None = None
        """What the node's claims hold, once they have been read."""
        self.problems: Mapping[str, str] = {}
        """By GPU UUID, or by setting: why less is offered than was asked for."""
        self.pending: Mapping[str, str] = {}
        """By GPU UUID: why it is not yet offered as the settings say."""

    async def read(self, backend: Backend) -> None:
        """Read the hardware, and settle what of it is offered.

        Raises BackendError, or HoldingsError where what claims hold cannot be known; then everything stays as it was.
        """
        before = await self._claims()
        inventory = self._names.apply(await in_daemon_thread(backend.inventory))
        # Claims come and go meanwhile; whose a partition is, is written down before it is made.
        after = await self._claims()
        foreign = foreign_slots(inventory, before.partitions | after.partitions)
        gone = self._gone(inventory, after.by_gpu)
        inventory = replace(inventory, gpus=(*inventory.gpus, *gone))
        found = survey(inventory, self._options.with_withheld(foreign), after.by_gpu)
        self._report(found)
        self.pending = {**found.pending, **{gpu.uuid: GONE for gpu in gone}}
        self._offered = {device.gpu.uuid: device.offered for device in found.devices}
        self._devices.update(backend, inventory, found.by_name(), offered=found.devices)
        if self.holdings is not None and self.holdings.salvage():  # so that what they hold is not taken for foreign
            await self.read(backend)

    def nameable(self) -> Mapping[str, Device]:
        """Devices that a CDI spec of ours may be about, whoever seems to have made what is in their place."""
        inventory = self._devices.inventory
        return survey(inventory, self._options).by_name() if inventory is not None else {}

    def claim_changed(self, devices: Iterable[HeldDevice]) -> None:
        """A claim has got or let go of these; called on the hot path."""
        for device in devices:
            uuid = device.gpu_uuid
            if uuid in self.pending or (device.offered is not None and device.offered != self._offered.get(uuid)):
                self._look_again()
                return

    def without_partitions(self) -> None:
        """The cluster does not count partitions: without that, what overlaps would be given away together."""
        message = (
            "GPUs are offered as a whole only: the API server drops counters, DRAPartitionableDevices is off there"
        )
        logger.error("%s", message)
        self._tell("Warning", "PartitionsNotOffered", message)
        self._options = self._options.without(Partitioning.DYNAMIC)
        self._look_again()

    def _gone(self, inventory: Inventory, held: Mapping[str, tuple[Hold, ...]]) -> tuple[Gpu, ...]:
        known = self._devices.inventory
        present = {gpu.uuid for gpu in inventory.gpus}
        away = (gpu for gpu in (known.gpus if known else ()) if gpu.uuid in held and gpu.uuid not in present)
        return tuple(replace(gpu, index=-1, minor=None) for gpu in away)  # its numbers may be another's by now

    async def _claims(self) -> Held:
        return Held() if self.holdings is None else await self.holdings.held(within=self._lock_patience)

    def _report(self, found: Catalogue) -> None:
        """Say what is new in the log and as Events; the metric and the status page have what is."""
        for subject, problem in found.problems.items():
            if self.problems.get(subject) == problem:
                continue
            if subject.startswith("gpus["):  # other nodes with the same file may have what it is about
                logger.warning("the config file's %s changes nothing here: %s", subject, problem)
                self._tell("Normal", "ConfigMatchesNoGpu", f"{subject} of the config file changes nothing: {problem}")
            else:
                logger.error("GPU %s is not offered as asked for: %s", subject, problem)
                self._tell("Warning", "GpuNotOffered", f"GPU {subject} is not offered as asked for: {problem}")
        for uuid, why in found.pending.items():
            if self.pending.get(uuid) != why:
                logger.warning("GPU %s is not offered as the settings say yet: %s", uuid, why)
        for subject in self.problems.keys() | found.problems.keys():
            self._metrics.not_offered.labels(subject).set(subject in found.problems)
        self._metrics.pending.set(len(found.pending))
        self.problems = dict(found.problems)
