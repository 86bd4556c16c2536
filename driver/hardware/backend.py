"""The seam between the driver and the hardware. Real and fake devices implement the same Protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from driver.hardware.measurement import Measurement
from driver.hardware.model import ContainerEdits, Event, Gpu, Inventory, MigProfile, Partition
from driver.hardware.process_sharing import ComputeMode, MpsDaemon, MpsLimits, TimeSlice

if TYPE_CHECKING:
    from collections.abc import Collection


class BackendError(Exception):
    """The hardware or its driver refused. The message says what was asked and what would help."""


class OutdatedError(BackendError):
    """What was read of the hardware may not be so any more; it is going to be read again."""


class Backend(Protocol):
    """What every backend does: read GPUs, and say what a container needs to use one as a whole.

    What else it can do it says by having the methods: of ``Partitioner``, ``Sharer``, ``Watcher``, ``Meter``. Whoever
    needs such a part asks for it by the function of its name. All of it is blocking and thread-safe; the driver calls
    it from worker threads, except for the methods that give edits.

    A backend never raises for one odd GPU: it reports what is known of it; one that watches adds a fault that says why.
    """

    def inventory(self) -> Inventory:
        """Read all GPUs afresh. Raises BackendError when the node has no usable driver at all."""
        ...

    def missing_file(self) -> str:
        """A file of the host that ``common_edits`` mount and that is gone: containers would not start. Empty if none.

        Some ten system calls at the most: called on the prepare path.
        """
        ...

    def common_edits(self) -> ContainerEdits:
        """Edits for every container that gets any device. Cheap: called on the prepare path, no I/O."""
        ...

    def device_edits(self, gpu: Gpu, partition: Partition | None = None) -> ContainerEdits:
        """Edits for one full GPU, or for a partition of it. Cheap: called on the prepare path, no I/O."""
        ...

    def close(self) -> None:
        """Release what the backend holds; a wait_for_events in another thread returns soon after."""
        ...


@runtime_checkable
class Partitioner(Protocol):
    """Cuts GPUs. A backend without it gives GPUs without MIG profiles, and nothing but whole ones is offered."""

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


@runtime_checkable
class Sharer(Protocol):
    """Lets processes share a GPU otherwise than the hardware does by itself: time slices, compute modes, MPS."""

    def time_slice(self, gpu_uuid: str) -> TimeSlice:
        """How long processes compute in turn on a GPU at this moment. Raises BackendError."""
        ...

    def set_time_slice(self, gpu_uuid: str, interval: TimeSlice) -> None:
        """Change that for all processes on a GPU. Raises BackendError where the GPU has no such setting."""
        ...

    def compute_mode(self, gpu_uuid: str) -> ComputeMode:
        """Which processes may compute on a GPU at this moment. Raises BackendError."""
        ...

    def set_compute_mode(self, gpu_uuid: str, mode: ComputeMode) -> None:
        """Change that; processes that compute already go on. Raises BackendError."""
        ...

    def start_mps(self, daemon: MpsDaemon) -> None:
        """See to it that a control daemon runs with these limits; returns once it answers, or raises BackendError.

        One that runs is adopted, whoever started it: only its limits are changed, for clients that come from then on.
        It outlives this process and its container. Takes a few seconds at the most.
        """
        ...

    def stop_mps(self, daemon_id: str) -> None:
        """End a control daemon with all its servers, and remove its directories; one that is gone is a success.

        Raises BackendError when it may still run.
        """
        ...

    def mps_runs(self, daemon_id: str) -> bool:
        """Whether a control daemon lives. Quick, no call of the hardware."""
        ...

    def sweep_mps(self, keep: Collection[str]) -> None:
        """Remove the directories of daemons that ended long ago, by a reboot for instance, other than these."""
        ...

    def mps_edits(self, daemon_id: str, limits: MpsLimits) -> ContainerEdits:
        """Edits for the clients of a daemon, beside those of the device. Cheap: called on the prepare path, no I/O."""
        ...


@runtime_checkable
class Watcher(Protocol):
    """Tells what goes on. Without it the health of GPUs is unknown, and they are read again at intervals."""

    def wait_for_events(self, timeout: float) -> tuple[Event, ...]:
        """Block until something happened, at most ``timeout`` seconds.

        The first call reports all present faults at once; and for each GPU of which the hardware can tell that it has
        no others, ``Cleared``, so that conditions from before a restart do not outlive their cause.
        Raises BackendError when the hardware's events cannot be read; the next call tries afresh.
        """
        ...

    def processes(self, gpu_uuid: str) -> int:
        """How many processes use a GPU or a partition of it. Raises BackendError when the hardware cannot tell."""
        ...


@runtime_checkable
class Meter(Protocol):
    """Measures. Without it nobody knows what is used of the GPUs."""

    def measure(self, gpu_uuid: str) -> Measurement:
        """What is used of a GPU and of its partitions, and how it is; averages are those since the last call for it.

        For each GPU one call at a time. Raises BackendError when the GPU tells nothing at all.
        """
        ...


def partitioner(backend: Backend) -> Partitioner:
    """The part that cuts GPUs. Raises BackendError where there is none."""
    if isinstance(backend, Partitioner):
        return backend
    raise _lacking(backend, "cut GPUs into partitions", "claim a whole GPU")


def sharer(backend: Backend) -> Sharer:
    """The part that sets how processes share a GPU. Raises BackendError where there is none."""
    if isinstance(backend, Sharer):
        return backend
    raise _lacking(backend, "set how processes share a GPU", "claim one without a sharing configuration")


def watcher(backend: Backend) -> Watcher:
    """The part that tells what goes on. Raises BackendError where there is none."""
    if isinstance(backend, Watcher):
        return backend
    raise _lacking(backend, "tell what goes on on a GPU", "see what the tools of its vendor say")


def _lacking(backend: Backend, what: str, remedy: str) -> BackendError:
    return BackendError(f"{type(backend).__name__} cannot {what}, which is needed here: {remedy}")
