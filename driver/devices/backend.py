"""The seam between the driver and the hardware. Real and fake devices implement the same Protocol."""

from __future__ import annotations

from typing import Protocol

from driver.devices.model import ContainerEdits, Event, Gpu, Inventory, MigProfile, Partition


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

    def device_edits(self, gpu: Gpu, partition: Partition | None = None) -> ContainerEdits:
        """Edits for one full GPU, or for a partition of it. Cheap: called on the prepare path, no I/O."""
        ...

    def partitions(self, gpu_uuid: str) -> tuple[Partition, ...]:
        """The partitions that a GPU has at this moment, whoever made them, in order of their placement.

        Raises BackendError when the GPU cannot tell.
        """
        ...

    def create_partition(self, gpu: Gpu, profile: MigProfile, start: int) -> Partition:
        """Create a partition at a memory slice, and switch MIG mode on first where that needs no reset.

        May take seconds; calls for different GPUs do not wait for each other.
        Raises BackendError when the hardware refuses; then nothing is left behind.
        """
        ...

    def destroy_partition(self, partition: Partition) -> None:
        """Destroy a partition that ``create_partition`` made; one that is gone, or gave way to another, is a success.

        With a GPU's last partition MIG mode goes off again where that needs no reset: the whole GPU can be used then.
        Raises BackendError when the partition may still be there.
        """
        ...

    def make_whole(self, gpu: Gpu) -> None:
        """See to it that a GPU can be used as a whole: MIG mode off. Does nothing where it is off already.

        Raises BackendError when there are partitions, or when the mode cannot be switched without a reset.
        """
        ...

    def processes(self, gpu_uuid: str) -> int:
        """How many processes use a GPU or a partition of it. Raises BackendError when the hardware cannot tell."""
        ...

    def close(self) -> None:
        """Release what the backend holds; a wait_for_events in another thread returns soon after."""
        ...
