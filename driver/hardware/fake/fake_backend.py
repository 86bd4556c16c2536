"""GPUs that are not there: a backend for demos, tests and other projects' CI, with faults that one can inject."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from driver.base import layout
from driver.hardware.backend import BackendError
from driver.hardware.fake import behaviour
from driver.hardware.fake.behaviour import WELL
from driver.hardware.fake.fake_use import measure
from driver.hardware.fake.state_file import (
    DamagedStateError,
    GpuInstance,
    HardwareState,
    MigState,
    MpsState,
    StateFile,
)
from driver.hardware.model import (
    ContainerEdits,
    DeviceNode,
    Event,
    Gpu,
    Inventory,
    InventoryChanged,
    MigMode,
    Partition,
    partition_device_name,
)
from driver.hardware.mps.edits import client_edits, long_gone
from driver.hardware.process_sharing import ComputeMode, TimeSlice

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from driver.hardware.fake.profile import Profile
    from driver.hardware.measurement import Measurement
    from driver.hardware.model import MigProfile
    from driver.hardware.process_sharing import MpsDaemon, MpsLimits

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""How often a waiting backend checks its state file: one stat() each."""
NULL_DEVICE = (1, 3)
"""Major and minor of /dev/null, which stands in for every GPU's device file."""
CAPS_PER_GPU, CAPS_PER_INSTANCE, FIRST_CAP = 135, 9, 3
"""How the kernel driver numbers /dev/nvidia-caps: by GPU, by GPU instance, and there the instance before its parts."""


class FakeBackend:
    """A node as a profile describes it. Faults are in a state file in ``state_dir``; see driver.hardware.fake.fault."""

    def __init__(self, profile: Profile, *, name: str, state_dir: Path, boot_id: str) -> None:
        self._inventory = profile.inventory()
        self._name = name
        self._boot_id = boot_id
        self._mps = state_dir / layout.MPS
        self._file = StateFile(state_dir)
        self._closed = threading.Event()
        self._by_uuid = {gpu.uuid: gpu for gpu in self._inventory.gpus}
        self._at_boot = {
            gpu.uuid: MigState(
                enabled=gpu.mig_mode is MigMode.ENABLED,
                instances=tuple(
                    GpuInstance(profile=name, start=start, gi=gi)
                    for gi, (name, start) in zip(behaviour.GI_IDS, profile.instances(gpu.uuid), strict=False)
                ),
            )
            for gpu in self._inventory.gpus
        }
        self._state = HardwareState(boot_id=boot_id, profile=name, devices={})
        self._reported: HardwareState | None = None
        self._mutex = threading.Lock()
        try:
            self._mps.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("fake hardware: %s; faults cannot be injected", error)
        self._signature = self._file.signature()
        self._state = self._read(starting=True)

    def inventory(self) -> Inventory:
        """The profile's GPUs as they are cut now; lost ones too: hardware that fails does not leave the machine."""
        self._refresh()
        return replace(self._inventory, gpus=tuple(self._as_cut(gpu) for gpu in self._inventory.gpus))

    def wait_for_events(self, timeout: float) -> tuple[Event, ...]:
        """Block until the state file changed, at most ``timeout`` seconds; the first call reports every GPU's state."""
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            events = tuple(self._poll())
            remaining = deadline - time.monotonic()
            if events or remaining <= 0:
                return events
            self._closed.wait(min(POLL_SECONDS, remaining))
        return ()

    def latency(self, gpu_uuid: str) -> float:
        """Seconds that an operation on this GPU's hardware has to take, as injected."""
        return self._state.gpus.get(gpu_uuid, WELL).latency_ms / 1000

    def missing_file(self) -> str:
        """None ever: containers get no files of the host."""
        return ""

    def common_edits(self) -> ContainerEdits:
        """Keeps NVIDIA's container runtime, where a node has it, from adding GPUs of its own choice."""
        return ContainerEdits(env=("NVIDIA_VISIBLE_DEVICES=void",))

    def device_edits(self, gpu: Gpu, partition: Partition | None = None) -> ContainerEdits:
        """A device file that every machine has, and a variable by which a container knows which device it got."""
        if partition is None:
            name, device_uuid, paths = gpu.name, gpu.uuid, [f"/dev/nvidia{gpu.minor}"]
        else:
            name = partition_device_name(gpu.name, partition.profile, partition.profile_id, partition.start)
            device_uuid = partition.uuid
            cap = FIRST_CAP + (gpu.minor or 0) * CAPS_PER_GPU + partition.gi_id * CAPS_PER_INSTANCE
            caps = (cap, cap + 1 + partition.ci_id)
            paths = [f"/dev/nvidia{gpu.minor}", *(f"/dev/nvidia-caps/nvidia-cap{number}" for number in caps)]
        major, minor = NULL_DEVICE
        return ContainerEdits(
            env=(f"GPU_DRA_{name.upper().replace('-', '_')}={device_uuid}",),
            device_nodes=tuple(
                DeviceNode(path=path, host_path="/dev/null", major=major, minor=minor) for path in paths
            ),
        )

    def partitions(self, gpu_uuid: str) -> tuple[Partition, ...]:
        """The GPU's partitions now, as the state file has them."""
        self._refresh()
        return self._partitions(gpu_uuid)

    def create_partition(self, gpu: Gpu, profile: MigProfile, start: int) -> Partition:
        """Create a partition by the rules of real hardware, after the injected latency."""
        what = f"create {profile.name} at {start} on {gpu.name}"
        with self._operation(gpu.uuid, what) as mig:
            known = self._known(gpu.uuid, what)
            if not (mig.enabled or known.mig_switchable):
                raise BackendError(f"{what}: Not Supported: MIG mode is off, and needs a reset of the GPU to go on")
            instance = behaviour.place(known, mig, profile, start, what)
            self._cut(gpu.uuid, MigState(enabled=True, instances=(*mig.instances, instance)))
        return behaviour.partition(known, instance)

    def destroy_partition(self, partition: Partition) -> None:
        """Destroy a partition, after the injected latency."""
        what = f"destroy {partition.profile} at {partition.start} ({partition.uuid})"
        with self._operation(partition.gpu_uuid, what) as mig:
            known = self._known(partition.gpu_uuid, what)
            left = tuple(instance for instance in mig.instances if behaviour.partition(known, instance) != partition)
            enabled = mig.enabled and not (known.mig_switchable and not left)
            self._cut(partition.gpu_uuid, MigState(enabled=enabled, instances=left))

    def make_whole(self, gpu: Gpu) -> None:
        """Switch MIG mode off."""
        self._refresh()
        if not self._mig(self._state, gpu.uuid).enabled:
            return
        what = f"switch MIG mode off on {gpu.name}"
        with self._operation(gpu.uuid, what) as mig:
            if mig.instances:
                raise BackendError(f"{what}: In use by another client: {len(mig.instances)} MIG devices exist")
            if not self._known(gpu.uuid, what).mig_switchable:
                raise BackendError(f"{what}: Not Supported: it needs a reset of the GPU")
            self._cut(gpu.uuid, MigState(enabled=False))

    def time_slice(self, gpu_uuid: str) -> TimeSlice:
        """As the state file has it."""
        self._refresh()
        self._well(gpu_uuid, "read the time slice")
        return self._state.time_slice.get(gpu_uuid, TimeSlice.DEFAULT)

    def set_time_slice(self, gpu_uuid: str, interval: TimeSlice) -> None:
        """Set it, after the injected latency."""
        what = f"set the time slice of {gpu_uuid} to {interval}"
        with self._operation(gpu_uuid, what):
            self._known(gpu_uuid, what)
            others = {uuid: known for uuid, known in self._state.time_slice.items() if uuid != gpu_uuid}
            changed = others if interval is TimeSlice.DEFAULT else {**others, gpu_uuid: interval}
            self._change(time_slice=changed)

    def compute_mode(self, gpu_uuid: str) -> ComputeMode:
        """As the state file has it."""
        self._refresh()
        self._well(gpu_uuid, "read the compute mode")
        return self._state.compute_mode.get(gpu_uuid, ComputeMode.DEFAULT)

    def set_compute_mode(self, gpu_uuid: str, mode: ComputeMode) -> None:
        """Set it, after the injected latency."""
        what = f"set the compute mode of {gpu_uuid} to {mode}"
        with self._operation(gpu_uuid, what):
            self._known(gpu_uuid, what)
            others = {uuid: known for uuid, known in self._state.compute_mode.items() if uuid != gpu_uuid}
            self._change(compute_mode=others if mode is ComputeMode.DEFAULT else {**others, gpu_uuid: mode})

    def start_mps(self, daemon: MpsDaemon) -> None:
        """Note that it runs, and make its directories, after the injected latency."""
        what = f"start MPS daemon {daemon.id}"
        with self._operation(daemon.gpu_uuids[0], what):
            rivals = [
                name
                for name, other in self._state.mps.items()
                if name != daemon.id and not set(other.devices).isdisjoint(daemon.devices)
            ]
            if rivals:  # the compute mode lets one server in
                raise BackendError(f"{what}: daemon {rivals[0]} has its device already")
            for part in ("pipe", "log", "shm"):
                (self._mps / daemon.id / part).mkdir(mode=0o755, parents=True, exist_ok=True)
            state = MpsState(
                gpus=daemon.gpu_uuids,
                devices=daemon.devices,
                memory_mib=daemon.memory_mib,
                thread_percentage=daemon.thread_percentage,
                multi_user=daemon.multi_user,
            )
            if self._state.mps.get(daemon.id) != state:
                self._change(mps={**self._state.mps, daemon.id: state})

    def stop_mps(self, daemon_id: str) -> None:
        """Forget it, and remove its directories, after the injected latency."""
        self._refresh()
        what = f"stop MPS daemon {daemon_id}"
        known = self._state.mps.get(daemon_id)
        if known is None:
            shutil.rmtree(self._mps / daemon_id, ignore_errors=True)
            return
        with self._operation(known.gpus[0], what):
            self._change(mps={name: state for name, state in self._state.mps.items() if name != daemon_id})
            if (self._mps / daemon_id).exists():
                shutil.rmtree(self._mps / daemon_id)

    def mps_runs(self, daemon_id: str) -> bool:
        """Whether the state file has it."""
        self._refresh()
        return daemon_id in self._state.mps

    def sweep_mps(self, keep: Collection[str]) -> None:
        """Remove what nobody needs any more."""
        for left in long_gone(self._mps, keep):
            if not self.mps_runs(left.name):
                shutil.rmtree(left, ignore_errors=True)

    def mps_edits(self, daemon_id: str, limits: MpsLimits) -> ContainerEdits:
        """What clients of a real daemon get; the directories are there and nobody listens."""
        base = self._mps / daemon_id
        return client_edits(pipes=str(base / "pipe"), shm=str(base / "shm"), limits=limits)

    def processes(self, gpu_uuid: str) -> int:
        """None ever: containers get no GPU that could run anything."""
        self._known(gpu_uuid, "count processes")
        return 0

    def measure(self, gpu_uuid: str) -> Measurement:
        """What ``gpu-dra load`` and ``gpu-dra fault`` have it report; nothing runs on it otherwise."""
        self._refresh()
        self._well(gpu_uuid, "measure")
        gpu, state = self._by_uuid[gpu_uuid], self._state
        return measure(self._as_cut(gpu), state.load, state.gpus.get(gpu_uuid, WELL))

    def close(self) -> None:
        """Let a waiting thread go."""
        self._closed.set()

    @contextmanager
    def _operation(self, gpu_uuid: str, what: str) -> Iterator[MigState]:
        """One change of the hardware, slow or failing as injected. Yields how the GPU is cut, under the lock."""
        self._refresh()
        if latency := self.latency(gpu_uuid):
            time.sleep(latency)
        try:
            with self._mutex, self._file.locked():
                state = self._file.read()
                state = state.in_boot(self._boot_id) if state else self._state
                gpu = state.gpus.get(gpu_uuid, WELL)
                if gpu.fail_next:
                    failed = gpu.model_copy(update={"fail_next": gpu.fail_next - 1})
                    self._write(state.model_copy(update={"gpus": {**state.gpus, gpu_uuid: failed}}))
                    raise BackendError(f"{what}: Unknown Error (injected, {failed.fail_next} more to come)")
                if gpu.lost:
                    raise BackendError(f"{what}: GPU is lost")
                self._state = state
                yield self._mig(state, gpu_uuid)
        except DamagedStateError as error:
            raise BackendError(f"{what}: {error}") from None
        except OSError as error:
            raise BackendError(f"{what}: the state of the fake hardware cannot be changed: {error}") from None

    def _cut(self, gpu_uuid: str, mig: MigState) -> None:
        """Write how a GPU is cut. Call it inside ``_operation``."""
        if mig != self._mig(self._state, gpu_uuid):
            self._write(self._state.model_copy(update={"mig": {**self._state.mig, gpu_uuid: mig}}))
            if self._reported is not None:  # whoever asked for the change knows of it
                known = {**self._reported.mig, gpu_uuid: mig}
                self._reported = self._reported.model_copy(update={"mig": known})

    def _change(self, **parts: object) -> None:
        """Write parts of the state anew. Call it inside ``_operation``."""
        self._write(self._state.model_copy(update=parts))

    def _write(self, state: HardwareState) -> None:
        self._file.write(state)
        self._state = state

    def _known(self, gpu_uuid: str, what: str) -> Gpu:
        gpu = self._by_uuid.get(gpu_uuid)
        if gpu is None:
            raise BackendError(f"{what}: Not Found: there is no GPU {gpu_uuid}")
        return gpu

    def _well(self, gpu_uuid: str, what: str) -> None:
        self._known(gpu_uuid, what)
        if self._state.gpus.get(gpu_uuid, WELL).lost:
            raise BackendError(f"{what} of {gpu_uuid}: GPU is lost")

    def _mig(self, state: HardwareState, gpu_uuid: str) -> MigState:
        return state.mig.get(gpu_uuid) or self._at_boot.get(gpu_uuid) or MigState(enabled=False)

    def _partitions(self, gpu_uuid: str) -> tuple[Partition, ...]:
        gpu = self._by_uuid.get(gpu_uuid)
        instances = self._mig(self._state, gpu_uuid).instances if gpu else ()
        return tuple(behaviour.partition(gpu, i) for i in sorted(instances, key=lambda i: i.start)) if gpu else ()

    def _as_cut(self, gpu: Gpu) -> Gpu:
        if not gpu.mig_profiles:
            return gpu
        enabled = self._mig(self._state, gpu.uuid).enabled
        mode = MigMode.ENABLED if enabled else MigMode.DISABLED
        return replace(gpu, mig_mode=mode, partitions=self._partitions(gpu.uuid))

    def _poll(self) -> Iterator[Event]:
        self._refresh()
        with self._mutex:
            state, before = self._state, self._reported
            self._reported = state
        if state is before:
            return
        for gpu in self._inventory.gpus:
            new = state.gpus.get(gpu.uuid, WELL)
            old = before.gpus.get(gpu.uuid, WELL) if before is not None else None
            yield from behaviour.events(gpu.uuid, old, new)
        if before is not None and before.mig != state.mig:
            yield InventoryChanged()

    def _refresh(self) -> None:
        """Read the file again if it was written since. Raises BackendError; the next call tries again then."""
        with self._mutex:
            if self._file.signature() != self._signature:
                self._state = self._read(starting=False)

    def _read(self, *, starting: bool) -> HardwareState:
        """The state as it is now; a file that is missing or damaged is put right.

        Our device names are written at the start only: two drivers with different profiles must not write in turns.
        """
        names = {gpu.name: gpu.uuid for gpu in self._inventory.gpus}
        fresh = HardwareState(boot_id=self._boot_id, profile=self._name, devices=names)
        try:
            with self._file.locked():
                try:
                    state = self._file.read()
                except DamagedStateError as error:
                    logger.error("%s; set aside as %s, all GPUs are well", error, self._file.set_aside())
                    state = None
                if state is not None:
                    current = state.in_boot(self._boot_id)
                    fresh = current.model_copy(update={"profile": self._name, "devices": names})
                if (starting or state is None) and fresh != state:
                    self._file.write(fresh)
                self._signature = self._file.signature()
        except OSError as error:
            if self._file.signature() is not None:  # who cannot read how a GPU is cut must not say that it is whole
                raise BackendError(f"the state of the fake hardware cannot be read: {error}") from None
            logger.warning("fake hardware: %s; faults may be missed", error)
            self._signature = None
        return fresh
