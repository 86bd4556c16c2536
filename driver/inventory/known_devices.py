"""What is known of the node's devices: the backend, once it could be opened, what it last read, and what is offered."""

from __future__ import annotations

import asyncio
import logging
from types import MappingProxyType
from typing import TYPE_CHECKING

from driver.base.threads import in_daemon_thread
from driver.hardware import BackendError, watcher
from driver.health import DeviceHealth, report_health
from driver.inventory.catalogue import survey
from driver.inventory.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from driver.hardware import Backend, Inventory
    from driver.health import Conditions
    from driver.inventory.catalogue import Device
    from driver.inventory.held import HeldDevice
    from driver.inventory.options import DeviceOptions

logger = logging.getLogger(__name__)


class Devices:
    """Shared by the flows of the driver: the inventory's writes it, all read it, each may ask for another reading."""

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self.by_name: Mapping[str, Device] = {}
        """Devices that claims may name."""
        self.offered: tuple[Device, ...] = ()
        """What is published, in order of publication."""
        self.inventory: Inventory | None = None
        self.problem = "the driver has just started and does not know its GPUs yet"
        """Why there is no inventory, for whoever needs one."""
        self.pending: Mapping[str, str] = {}
        """By GPU UUID: why it is not yet offered as the settings say."""
        self.conditions: Conditions = {}
        """What is wrong with the GPUs at the moment."""
        self._options = Options()
        self._settings: Mapping[str, DeviceOptions] = {}
        """By GPU UUID: by which settings it is offered."""
        self._read = asyncio.Event()
        """Set once the hardware was read, however that ended."""
        self.present = asyncio.Event()
        """Set once there is an inventory."""
        self.read_again = asyncio.Event()
        """Set by whoever knows that the hardware, or what claims keep of it, is not what was read."""
        self.publish_again = asyncio.Event()
        """Set by whoever has changed something that slices are made of."""
        self.specs_again = asyncio.Event()
        """Set with each inventory, and by whoever knows that CDI specs are not what they should be."""

    def update(
        self,
        backend: Backend,
        inventory: Inventory,
        devices: Mapping[str, Device],
        *,
        offered: tuple[Device, ...] | None = None,
        pending: Mapping[str, str] = MappingProxyType({}),
        options: Options | None = None,
    ) -> None:
        """Take over what was read: devices that claims may name, and which of them are offered (None: all).

        ``options`` are those by which devices get their names; without them, as a node has them without settings.
        """
        self._backend = backend
        self.by_name = devices
        self.offered = tuple(devices.values()) if offered is None else offered
        self.pending = pending
        self._options = options or Options()
        self._settings = {device.gpu.uuid: device.offered for device in self.offered}
        self.inventory = inventory
        self.present.set()
        self.specs_again.set()
        self._read.set()

    def fail(self, problem: str) -> None:
        """The hardware cannot be read; what was read before stays."""
        self.problem = problem
        self._read.set()

    def not_ready(self) -> list[str]:
        """Why there is no inventory, in a line; nothing if there is one."""
        return [f"devices: {self.problem}"] if self.inventory is None else []

    async def known(self) -> tuple[Backend, Mapping[str, Device]]:
        """The backend and the devices by name; waits until the hardware was read once, however that ends.

        Raises BackendError when there is no inventory.
        """
        if not self._read.is_set():
            await self._read.wait()
        if self._backend is None:
            raise BackendError(self.problem)
        return self._backend, self.by_name

    def nameable(self) -> Mapping[str, Device]:
        """Devices that a CDI spec of ours may be about, whoever seems to have made what is in their place."""
        return {} if self.inventory is None else survey(self.inventory, self._options).by_name()

    def health(self) -> tuple[DeviceHealth, ...]:
        """Health of every device that is offered."""
        return report_health(self.offered, self.conditions)

    def claim_changed(self, devices: Iterable[HeldDevice]) -> None:
        """A claim has got or let go of these; called on the hot path."""
        for device in devices:
            uuid = device.gpu_uuid
            if uuid in self.pending or (device.offered is not None and device.offered != self._settings.get(uuid)):
                self.read_again.set()
                return

    async def idle(self, gpu_uuid: str) -> bool:
        """Whether no process uses a GPU; where the hardware cannot tell, somebody may."""
        try:
            backend, _ = await self.known()
            return await in_daemon_thread(lambda: watcher(backend).processes(gpu_uuid)) == 0
        except BackendError as error:
            logger.debug("processes of %s: %s", gpu_uuid, error)
            return False
