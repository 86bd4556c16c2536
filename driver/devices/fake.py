"""GPUs that are not there: a backend for demos, tests and other projects' CI, with faults that one can inject."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from driver.devices.hardware_state import DamagedStateError, GpuState, HardwareState, StateFile
from driver.devices.model import Cause, Cleared, ContainerEdits, DeviceNode, Event, Fault, Gpu, Inventory, Occurred

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from driver.devices.profile import Profile

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""How often a waiting backend looks at its state file: one stat() each."""
NULL_DEVICE = (1, 3)
"""Major and minor of /dev/null, which stands in for every GPU's device file."""
WELL = GpuState()


class FakeBackend:
    """A node as a profile describes it. Faults are in a state file in ``state_dir``; see driver.devices.fault."""

    def __init__(self, profile: Profile, *, name: str, state_dir: Path, boot_id: str) -> None:
        self._inventory = profile.inventory()
        self._name = name
        self._boot_id = boot_id
        self._file = StateFile(state_dir)
        self._closed = threading.Event()
        self._gpus: Mapping[str, GpuState] = {}
        self._reported: Mapping[str, GpuState] | None = None
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("fake hardware: %s; faults cannot be injected", error)
        self._signature = self._file.signature()
        self._gpus = self._read(starting=True)

    def inventory(self) -> Inventory:
        """The profile's GPUs, lost ones too: hardware that fails does not leave the machine."""
        return self._inventory

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
        return self._gpus.get(gpu_uuid, WELL).latency_ms / 1000

    def common_edits(self) -> ContainerEdits:
        """Keeps NVIDIA's container runtime, where a node has it, from adding GPUs of its own choice."""
        return ContainerEdits(env=("NVIDIA_VISIBLE_DEVICES=void",))

    def device_edits(self, gpu: Gpu) -> ContainerEdits:
        """A device file that every machine has, and a variable by which a container knows which GPU it got."""
        major, minor = NULL_DEVICE
        return ContainerEdits(
            env=(f"GPU_DRA_{gpu.name.upper().replace('-', '_')}={gpu.uuid}",),
            device_nodes=(DeviceNode(path=f"/dev/nvidia{gpu.minor}", host_path="/dev/null", major=major, minor=minor),),
        )

    def close(self) -> None:
        """Let a waiting thread go."""
        self._closed.set()

    def _poll(self) -> Iterator[Event]:
        signature = self._file.signature()
        if signature != self._signature:
            self._signature = signature
            self._gpus = self._read(starting=False)
        if self._gpus is self._reported:
            return
        before, self._reported = self._reported, self._gpus
        for gpu in self._inventory.gpus:
            new = self._gpus.get(gpu.uuid, WELL)
            old = before.get(gpu.uuid, WELL) if before is not None else None
            yield from _events(gpu.uuid, old, new)

    def _read(self, *, starting: bool) -> Mapping[str, GpuState]:
        """The state as it is now; a file that is missing or damaged is put right.

        Our device names are written at the start only: two drivers with different profiles must not write in turns.
        """
        gpus: Mapping[str, GpuState] = {}
        try:
            with self._file.locked():
                try:
                    state = self._file.read()
                except DamagedStateError as error:
                    logger.error("%s; set aside as %s, all GPUs are well", error, self._file.set_aside())
                    state = None
                gpus = state.in_boot(self._boot_id).gpus if state else {}
                if starting or state is None:
                    names = {gpu.name: gpu.uuid for gpu in self._inventory.gpus}
                    fresh = HardwareState(boot_id=self._boot_id, profile=self._name, devices=names, gpus=gpus)
                    if fresh != state:
                        self._file.write(fresh)
                self._signature = self._file.signature()
        except OSError as error:
            logger.warning("fake hardware: %s; faults may be missed", error)
        return gpus


def _events(uuid: str, old: GpuState | None, new: GpuState) -> Iterator[Event]:
    """What happened between two states; ``old`` None means that nobody knows, and gives the whole state."""
    faults = _faults(new)
    if old is None or not _faults(old) <= faults:
        yield Cleared(gpu_uuid=uuid, remaining=faults)
    known = old or WELL
    happened = new.xids[len(known.xids) :] if new.xids[: len(known.xids)] == known.xids else new.xids
    for xid in happened:
        yield Occurred(gpu_uuid=uuid, fault=Fault(cause=Cause.XID, detail=str(xid)))
    for fault in sorted(faults - _faults(known), key=lambda fault: fault.cause):
        if fault.cause is not Cause.XID:
            yield Occurred(gpu_uuid=uuid, fault=fault)


def _faults(state: GpuState) -> frozenset[Fault]:
    faults = {Fault(cause=Cause.XID, detail=str(xid)) for xid in state.xids}
    if state.ecc:
        faults.add(Fault(cause=Cause.ECC, detail="double-bit"))
    if state.lost:
        faults.add(Fault(cause=Cause.GPU_LOST))
    return frozenset(faults)
