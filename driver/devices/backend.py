"""The seam between the driver and the hardware. Real and fake devices implement the same Protocol."""

from __future__ import annotations

from typing import Protocol

from driver.devices.model import ContainerEdits, Event, Gpu, Inventory


class BackendError(Exception):
    """The hardware or its driver refused. The message says what was asked and what would help."""


class Backend(Protocol):
    """Blocking and thread-safe; the driver calls it from worker threads, except for the two edits methods.

    A backend never raises for one odd GPU: it reports what is known of it and a fault that says why.
    """

    def inventory(self) -> Inventory:
        """Read all GPUs afresh. Raises BackendError when the node has no usable driver at all."""
        ...

    def wait_for_events(self, timeout: float) -> tuple[Event, ...]:
        """Block until something happened, at most ``timeout`` seconds.

        The first call reports all present faults at once; and for each GPU of which the hardware can tell that it has
        no others, ``Cleared``, so that conditions from before a restart do not outlive their cause.
        Raises BackendError when the hardware's events cannot be read; the next call tries afresh.
        """
        ...

    def common_edits(self) -> ContainerEdits:
        """Edits for every container that gets any device. Cheap: called on the prepare path, no I/O."""
        ...

    def device_edits(self, gpu: Gpu) -> ContainerEdits:
        """Edits for one full GPU. Cheap: called on the prepare path, no I/O."""
        ...

    def close(self) -> None:
        """Release what the backend holds; a wait_for_events in another thread returns soon after."""
        ...
