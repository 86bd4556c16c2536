"""What the node has at the moment: the backend, once it could be opened, what it last read, and what is offered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from driver.hardware import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.hardware import Backend, Inventory
    from driver.inventory.catalogue import Device


class Devices:
    """Shared by the flows of the driver; only the node's assembly changes it."""

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self.by_name: Mapping[str, Device] = {}
        """Devices that claims may name."""
        self.offered: tuple[Device, ...] = ()
        """What is published, in order of publication."""
        self.inventory: Inventory | None = None
        self.problem = "the driver has just started and does not know its GPUs yet"
        """Why there is no inventory, for whoever needs one."""
        self._looked = asyncio.Event()
        self.present = asyncio.Event()
        """Set once there is an inventory."""
        self.renewed = asyncio.Event()
        """Set with each inventory; whoever follows them clears it."""

    def update(
        self,
        backend: Backend,
        inventory: Inventory,
        devices: Mapping[str, Device],
        *,
        offered: tuple[Device, ...] | None = None,
    ) -> None:
        """Take over what was read: devices that claims may name, and which of them are offered (None: all)."""
        self._backend = backend
        self.by_name = devices
        self.offered = tuple(devices.values()) if offered is None else offered
        self.inventory = inventory
        self.present.set()
        self.renewed.set()
        self._looked.set()

    def fail(self, problem: str) -> None:
        """The hardware cannot be read; what was read before stays."""
        self.problem = problem
        self._looked.set()

    def not_ready(self) -> list[str]:
        """Why there is no inventory, in a line; nothing if there is one."""
        return [f"devices: {self.problem}"] if self.inventory is None else []

    async def known(self) -> tuple[Backend, Mapping[str, Device]]:
        """The backend and the devices by name; waits for the first look at the hardware, however it ends.

        Raises BackendError when there is no inventory.
        """
        if not self._looked.is_set():
            await self._looked.wait()
        if self._backend is None:
            raise BackendError(self.problem)
        return self._backend, self.by_name
