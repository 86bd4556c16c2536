"""Real GPUs, through NVIDIA's management library."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from driver.hardware.backend import BackendError, OutdatedError
from driver.hardware.host.nvidia import NvidiaEdits
from driver.hardware.host.root import DriverRoot
from driver.hardware.measurement import Measurement
from driver.hardware.model import ContainerEdits, Event, Gpu, Inventory, InventoryChanged, MigProfile, Partition
from driver.hardware.nvml import return_codes
from driver.hardware.nvml.kernel import Kernel
from driver.hardware.nvml.library import Library
from driver.hardware.nvml.measure import NvmlMeter
from driver.hardware.nvml.mig import Mig
from driver.hardware.nvml.nvml_sharing import NvmlSharing, is_server
from driver.hardware.nvml.read_gpus import GpuReader
from driver.hardware.nvml.reading import Reading
from driver.hardware.nvml.return_codes import NvmlError
from driver.hardware.nvml.watch_gpus import CHECK_SECONDS, SETTLE_SECONDS, Watch
from driver.hardware.process_sharing import ComputeMode, MpsDaemon, MpsLimits, TimeSlice

STALE = "their driver was loaded anew or is away, and device files may be others' than before"


class NvmlBackend:
    """The node's GPUs. ``nvml`` is the module pynvml or something that looks like it.

    Raises:
        BackendError: the library or the kernel driver is not there.
    """

    def __init__(
        self,
        nvml: Any,
        *,
        root: DriverRoot | None = None,
        hook: str = "",
        sysfs: Path = Path("/sys"),
        dev: Path = Path("/dev"),
        proc: Path = Path("/proc"),
        check_seconds: float = CHECK_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
        state_dir: Path = Path("/var/lib/kubelet/plugins/gpu.nvidia.com"),
    ) -> None:
        """``root``: where the driver is installed; without it, pynvml looks for the library.

        ``hook``: the setting of NVIDIA's hook program, see driver.hardware.host.hooks.
        """
        self._edits = NvidiaEdits(root or DriverRoot(), hook=hook, dev=dev, proc=proc, sysfs=sysfs)
        self._check_seconds = check_seconds
        self._next_check = 0.0
        self._readings: dict[str, Reading] = {}
        """By UUID; replaced and never changed, because other threads look at it."""
        self._readings_of = self._inventory_of = 0
        """Sessions of the library in which the GPUs, and all that containers get of them, were read."""
        self._library = Library(nvml, root)
        self._versions, self._versions_of = ("", ""), 0
        self._sharing = NvmlSharing(self._library, self._handle, root=root, directory=state_dir)
        self._mig = Mig(self._library)
        self._meter = NvmlMeter(self._library, self._mig)
        kernel = Kernel(sysfs=sysfs, proc=proc)
        self._reader = GpuReader(self._library, self._mig, kernel)
        self._watch = Watch(
            self._library,
            self._mig,
            kernel,
            readings=lambda: self._readings,
            reread=self._read,
            check_seconds=check_seconds,
            settle_seconds=settle_seconds,
        )
        with self._library.session():
            pass

    def inventory(self) -> Inventory:
        """Read every GPU; one that does not answer is given as it was when it last did."""
        with self._library.session():
            self._read()
            version, cuda = self._read_versions()
            number = self._library.number
        gpus = [reading.gpu for reading in self._readings.values()]
        self._edits.refresh(version, gpus)
        self._inventory_of = number
        return Inventory(
            driver_version=version,
            cuda_version=cuda,
            gpus=tuple(replace(gpu, partitions_sealed=self._edits.seals_partitions(gpu)) for gpu in gpus),
            defects=self._edits.defects(),
        )

    def wait_for_events(self, timeout: float) -> tuple[Event, ...]:
        """Block for an XID, an uncorrectable memory error, a loss or a recovery.

        Raises:
            BackendError: NVML's event mechanism does not work; the next call sets it up afresh.
        """
        outdated = self._inventory_of not in (0, self._library.number)
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + self._check_seconds
            outdated |= self._edits.outdated()
        events = self._watch.wait(0 if outdated else timeout)
        # The driver was upgraded or loaded anew, or another module: whoever reads the inventory again sees to it.
        return (*events, InventoryChanged()) if outdated and InventoryChanged() not in events else events

    def missing_file(self) -> str:
        """A library, program or socket of the driver that was there at the last inventory."""
        return self._edits.missing()

    def common_edits(self) -> ContainerEdits:
        """The driver's control nodes, libraries and programs, as the node had them at the last inventory."""
        return self._edits.common

    def device_edits(self, gpu: Gpu, partition: Partition | None = None) -> ContainerEdits:
        """The GPU's own device files, or those that let a container open one partition of it; by the GPU's UUID.

        Raises BackendError where the kernel driver names no such files, and where the numbers that are known may be
        another GPU's by now.
        """
        if not self._library.is_open or self._inventory_of != self._library.number:
            raise OutdatedError(f"{gpu.name} cannot be given to a container before the GPUs were read again: {STALE}")
        reading = self._readings.get(gpu.uuid)
        if reading is None:
            raise BackendError(f"{gpu.name} ({gpu.uuid}) cannot be given to a container: it is not there any more")
        return self._edits.device(replace(reading.gpu, name=gpu.name), partition)

    def partitions(self, gpu_uuid: str) -> tuple[Partition, ...]:
        """GPU instances as they are now; one that a crash left unfinished has an empty UUID."""
        reading = self._readings.get(gpu_uuid)
        if reading is not None and not reading.gpu.mig_profiles:
            return ()
        with self._library.session():
            return self._mig.partitions(self._handle(gpu_uuid), gpu_uuid)

    def create_partition(self, gpu: Gpu, profile: MigProfile, start: int) -> Partition:
        """Create a GPU instance with a compute instance that fills it."""
        with self._library.session():
            return self._mig.create(self._handle(gpu.uuid), gpu, profile, start)

    def destroy_partition(self, partition: Partition) -> None:
        """Destroy both instances by their ids, if they still are what was made."""
        reading = self._readings.get(partition.gpu_uuid)
        switchable = reading is not None and reading.gpu.mig_switchable
        with self._library.session():
            self._mig.destroy(self._handle(partition.gpu_uuid), partition, switchable=switchable)

    def make_whole(self, gpu: Gpu) -> None:
        """Switch MIG mode off."""
        with self._library.session():
            self._mig.make_whole(self._handle(gpu.uuid), gpu)

    def time_slice(self, gpu_uuid: str) -> TimeSlice:
        """As ``nvidia-smi`` has it."""
        return self._sharing.time_slices.get(gpu_uuid)

    def set_time_slice(self, gpu_uuid: str, interval: TimeSlice) -> None:
        """Change it by ``nvidia-smi``."""
        self._sharing.time_slices.set(gpu_uuid, interval)

    def compute_mode(self, gpu_uuid: str) -> ComputeMode:
        """As NVML has it."""
        return self._sharing.compute_mode(gpu_uuid)

    def set_compute_mode(self, gpu_uuid: str, mode: ComputeMode) -> None:
        """Change it by NVML."""
        self._sharing.set_compute_mode(gpu_uuid, mode)

    def start_mps(self, daemon: MpsDaemon) -> None:
        """Start NVIDIA's control daemon on the host."""
        self._sharing.mps.start(daemon)

    def stop_mps(self, daemon_id: str) -> None:
        """End it with its servers."""
        self._sharing.mps.stop(daemon_id)

    def mps_runs(self, daemon_id: str) -> bool:
        """Whether its process lives."""
        return self._sharing.mps.runs(daemon_id)

    def sweep_mps(self, keep: Collection[str]) -> None:
        """Remove directories that are nobody's any more."""
        self._sharing.mps.sweep(keep)

    def mps_edits(self, daemon_id: str, limits: MpsLimits) -> ContainerEdits:
        """Where its clients find it."""
        return self._sharing.mps.edits(daemon_id, limits)

    def processes(self, gpu_uuid: str) -> int:
        """Compute and graphics processes, as far as the driver tells."""
        with self._library.session():
            handle = self._handle(gpu_uuid)
            found = self._processes(handle)
            if found is None:  # a GPU that is cut may tell them by its parts only
                parts = [self._processes(part) for part in self._mig.handles(handle)]
                known = [number for number in parts if number is not None]
                found = sum(known) if parts and len(known) == len(parts) else None
        if found is None:
            raise BackendError(f"{gpu_uuid} does not tell its processes")
        return found

    def measure(self, gpu_uuid: str) -> Measurement:
        """As far as the GPU and its driver tell."""
        with self._library.session():
            return self._meter.measure(gpu_uuid, self._handle(gpu_uuid))

    def close(self) -> None:
        """Let a waiting thread go; NVML itself stays loaded, a call may still be inside."""
        self._watch.closed.set()

    def _read(self) -> None:
        """Look at all GPUs, within a session."""
        before = self._readings
        if self._readings_of != self._library.number:  # numbers may be others' now
            before = {uuid: replace(r, gpu=replace(r.gpu, index=-1, minor=None)) for uuid, r in before.items()}
        self._readings = {reading.gpu.uuid: reading for reading in self._reader.read(before)}
        self._readings_of = self._library.number

    def _read_versions(self) -> tuple[str, str]:
        """The driver's and CUDA's; they stay what they were for as long as the session lasts."""
        before = self._versions if self._versions_of == self._library.number else ("", "")
        version = self._library.ask("nvmlSystemGetDriverVersion")
        cuda = self._library.ask("nvmlSystemGetCudaDriverVersion")
        self._versions_of = self._library.number
        self._versions = (
            str(version) if version else before[0],
            f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else before[1],
        )
        return self._versions

    def _handle(self, gpu_uuid: str) -> Any:
        reading = self._readings.get(gpu_uuid)
        try:
            return self._library.device(gpu_uuid, reading.gpu.index if reading is not None else -1)
        except NvmlError as error:
            why = "NVML does not know it any more" if error.code == return_codes.NOT_FOUND else error.reason
            raise BackendError(f"GPU {gpu_uuid} cannot be used: {why}") from None

    def _processes(self, handle: Any) -> int | None:
        compute = self._library.ask("nvmlDeviceGetComputeRunningProcesses", handle)
        graphics = self._library.ask("nvmlDeviceGetGraphicsRunningProcesses", handle)
        return None if compute is None else len({p.pid for p in (*compute, *(graphics or ())) if not is_server(p.pid)})
