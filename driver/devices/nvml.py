"""Real GPUs, through NVIDIA's management library."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driver.devices.backend import BackendError
from driver.devices.model import (
    Cause,
    Cleared,
    ContainerEdits,
    DeviceNode,
    Event,
    Fault,
    Gpu,
    Inventory,
    InventoryChanged,
    MigMode,
    MigProfile,
    Occurred,
    Partition,
    switches_without_reset,
)
from driver.devices.nvml_mig import NvmlMig

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

GPU_LOST = Fault(cause=Cause.GPU_LOST)
UNMONITORED = Fault(cause=Cause.UNMONITORED)
ECC_DOUBLE_BIT = Fault(cause=Cause.ECC, detail="double-bit")

CLOSE_SECONDS = 0.5
"""Longest stay inside the library, so that close() is noticed."""
RECOVERY_SECONDS = 30.0
"""How often GPUs are asked whether they need a repair, or are cut in another way: there are no events for these."""

# Names as NVIDIA's own DRA driver publishes them; a number that is not here is left out rather than guessed.
ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada Lovelace",
    9: "Hopper",
    10: "Blackwell",
}
BRANDS = {
    0: "Unknown",
    1: "Quadro",
    2: "Tesla",
    3: "NVS",
    4: "Grid",
    5: "GeForce",
    6: "Titan",
    7: "NvidiaVApps",
    8: "NvidiaVPC",
    9: "NvidiaVCS",
    10: "NvidiaVWS",
    11: "NvidiaVGaming",
    12: "QuadroRTX",
    13: "NvidiaRTX",
    14: "Nvidia",
    15: "GeForceRTX",
    16: "TitanRTX",
}
ADDRESSING_MODES = {0: "None", 1: "HMM", 2: "ATS"}
CONTROL_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


class NvmlBackend:
    """The node's GPUs. ``nvml`` is the module pynvml or something that looks like it.

    Raises:
        BackendError: the library or the kernel driver is not there.
    """

    def __init__(
        self,
        nvml: Any,
        *,
        sysfs: Path = Path("/sys"),
        dev: Path = Path("/dev"),
        proc: Path = Path("/proc"),
        check_seconds: float = RECOVERY_SECONDS,
    ) -> None:
        self._check_seconds = check_seconds
        self._nvml = nvml
        self._sysfs = sysfs
        self._dev = dev
        self._closed = threading.Event()
        self._seen: dict[str, Gpu] = {}
        """Every GPU that was readable once, by UUID: one that is lost later stays in the inventory."""
        self._handles: dict[str, Any] = {}
        self._events: Any = None
        self._lost: set[str] = set()
        self._unmonitored: frozenset[str] = frozenset()
        self._needs_repair: dict[str, bool] = {}
        self._next_recovery_check = 0.0
        self._common = ContainerEdits()
        self._mig = NvmlMig(nvml, self._ask, proc=proc)
        self._caps: Mapping[tuple[int, int, int | None], DeviceNode] = {}
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise BackendError(
                f"NVML cannot be used: {error}. Install or load NVIDIA's driver on this node, "
                "or choose --devices fake:<profile>"
            ) from None

    def inventory(self) -> Inventory:
        """Read every GPU; one that does not answer is given as it was when it last did."""
        count = self._ask("nvmlDeviceGetCount")
        if count is None:
            raise BackendError("NVML cannot count the GPUs: is the NVIDIA kernel module still loaded? Try nvidia-smi")
        seen, handles = dict(self._seen), dict(self._handles)
        for index in range(count):
            handle = self._ask("nvmlDeviceGetHandleByIndex", index)
            gpu = self._read(index, handle) if handle is not None else None
            if gpu is None:
                logger.error("the GPU with index %d does not answer", index)
                continue
            seen[gpu.uuid], handles[gpu.uuid] = gpu, handle
        self._seen, self._handles = seen, handles  # replaced, not changed: another thread may be iterating
        self._caps = self._mig.capabilities()
        self._common = ContainerEdits(
            env=("NVIDIA_VISIBLE_DEVICES=void",),
            device_nodes=tuple(
                DeviceNode(path=f"/dev/{name}") for name in CONTROL_NODES if (self._dev / name).exists()
            ),
        )
        return Inventory(
            driver_version=str(self._ask("nvmlSystemGetDriverVersion") or ""),
            cuda_version=_cuda_version(self._ask("nvmlSystemGetCudaDriverVersion")),
            gpus=_unique_names(sorted(self._seen.values(), key=lambda gpu: (gpu.pci_bus_id or "", gpu.index))),
        )

    def wait_for_events(self, timeout: float) -> tuple[Event, ...]:
        """Block for an XID, an uncorrectable memory error, a loss or a recovery.

        Raises:
            BackendError: NVML's event mechanism does not work; the next call sets it up afresh.
        """
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            if self._events is None:
                return self._register()
            if time.monotonic() >= self._next_recovery_check and (
                events := (*self._check_recovery(), *self._check_shape())
            ):
                return events
            remaining = deadline - time.monotonic()
            if events := self._wait(max(0.0, min(remaining, CLOSE_SECONDS))):
                return events
            if remaining <= CLOSE_SECONDS:
                break
        return ()

    def common_edits(self) -> ContainerEdits:
        """The driver's control nodes, as far as the node had them at the last inventory."""
        return self._common

    def device_edits(self, gpu: Gpu, partition: Partition | None = None) -> ContainerEdits:
        """The GPU's own device file; for a partition also those that let a container open it.

        Raises BackendError where the kernel driver names no such files.
        """
        node = DeviceNode(path=f"/dev/nvidia{gpu.minor}")
        if partition is None:
            return ContainerEdits(device_nodes=(node,))
        keys = ((gpu.minor, partition.gi_id, None), (gpu.minor, partition.gi_id, partition.ci_id))
        caps = tuple(self._caps[key] for key in keys if key in self._caps)
        if len(caps) != len(keys):
            raise BackendError(f"{partition.uuid} cannot be given to a container: no entry in nvidia-caps/mig-minors")
        return ContainerEdits(device_nodes=(node, *caps))

    def partitions(self, gpu_uuid: str) -> tuple[Partition, ...]:
        """GPU instances as they are now; one that a crash left unfinished has an empty UUID."""
        gpu = self._seen.get(gpu_uuid)
        profiles = {profile.profile_id: profile for profile in gpu.mig_profiles} if gpu else {}
        return self._mig.partitions(gpu_uuid, profiles) if profiles else ()

    def create_partition(self, gpu: Gpu, profile: MigProfile, start: int) -> Partition:
        """Create a GPU instance with a compute instance that fills it."""
        return self._mig.create(gpu, profile, start)

    def destroy_partition(self, partition: Partition) -> None:
        """Destroy both instances by their ids, if they still are what was made."""
        gpu = self._seen.get(partition.gpu_uuid)
        self._mig.destroy(partition, switchable=gpu is not None and gpu.mig_switchable)

    def make_whole(self, gpu: Gpu) -> None:
        """Switch MIG mode off."""
        self._mig.make_whole(gpu)

    def processes(self, gpu_uuid: str) -> int:
        """Compute and graphics processes, as far as the driver tells."""
        handle = self._handles.get(gpu_uuid)
        found = [
            self._ask(query, handle) if handle is not None else None
            for query in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
        ]
        if found[0] is None:
            raise BackendError(f"{gpu_uuid} does not tell its processes")
        return sum(len(processes) for processes in found if processes is not None)

    def close(self) -> None:
        """Let a waiting thread go; NVML itself stays loaded, a call may still be inside."""
        self._closed.set()

    def _ask(self, function: str, *args: Any) -> Any:
        """Every query goes through here: None where this library, driver or GPU cannot answer it."""
        nvml = self._nvml
        try:
            return getattr(nvml, function)(*args)
        except AttributeError:
            return None
        except nvml.NVMLError as error:
            quiet = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION, nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
            logger.log(logging.DEBUG if error.value in quiet else logging.WARNING, "%s: %s", function, error)
            return None

    def _read(self, index: int, handle: Any) -> Gpu | None:
        uuid = self._ask("nvmlDeviceGetUUID", handle)
        if uuid is None:
            return None
        minor = self._ask("nvmlDeviceGetMinorNumber", handle)
        minor = index if minor is None else minor
        bus_id = _bus_id(self._ask("nvmlDeviceGetPciInfo", handle))
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        capability = self._ask("nvmlDeviceGetCudaComputeCapability", handle)
        mode = self._ask("nvmlDeviceGetAddressingMode", handle)
        compute_capability = f"{capability[0]}.{capability[1]}" if capability else None
        mig_mode = self._mig.mode(handle)
        profiles = self._mig.profiles(handle) if mig_mode is not MigMode.UNSUPPORTED else ()
        return Gpu(
            name=f"gpu-{minor}",
            uuid=uuid,
            index=index,
            minor=minor,
            product_name=self._ask("nvmlDeviceGetName", handle) or "",
            brand=BRANDS.get(self._ask("nvmlDeviceGetBrand", handle)),
            architecture=ARCHITECTURES.get(self._ask("nvmlDeviceGetArchitecture", handle)),
            compute_capability=compute_capability,
            memory_bytes=None if memory is None else int(memory.total),
            multiprocessors=None,
            pci_bus_id=bus_id,
            pcie_root=self._pcie_root(bus_id),
            numa_node=self._numa_node(bus_id),
            addressing_mode=ADDRESSING_MODES.get(mode),
            memory_slices=max((start + p.size for p in profiles for start in p.starts), default=0),
            mig_profiles=profiles,
            mig_mode=mig_mode,
            mig_switchable=bool(profiles) and switches_without_reset(compute_capability),
            partitions=self._present(uuid, profiles),
        )

    def _present(self, uuid: str, profiles: tuple[MigProfile, ...]) -> tuple[Partition, ...]:
        """A GPU's partitions; a GPU that does not tell them is still published as far as it goes."""
        if not profiles:
            return ()
        try:
            return self._mig.partitions(uuid, {profile.profile_id: profile for profile in profiles})
        except BackendError as error:
            logger.error("%s", error)
            return ()

    def _wait(self, timeout: float) -> tuple[Event, ...]:
        nvml = self._nvml
        try:
            data = nvml.nvmlEventSetWait_v2(self._events, int(timeout * 1000))
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_TIMEOUT:
                return ()
            if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                lost = self._find_lost()
                if not lost:  # known already, and the library keeps saying it
                    self._closed.wait(timeout)
                return lost
            self._free_events()
            raise BackendError(f"waiting for NVML events failed: {error}") from None
        uuid = self._ask("nvmlDeviceGetUUID", data.device)
        if uuid is None:
            return self._find_lost()
        if data.eventType == nvml.nvmlEventTypeXidCriticalError:
            return (Occurred(gpu_uuid=uuid, fault=Fault(cause=Cause.XID, detail=str(data.eventData))),)
        if data.eventType == nvml.nvmlEventTypeDoubleBitEccError:
            return (Occurred(gpu_uuid=uuid, fault=ECC_DOUBLE_BIT),)
        return ()

    def _pcie_root(self, bus_id: str | None) -> str | None:
        """First component of the device's place below /sys/devices."""
        if bus_id is None:
            return None
        devices = (self._sysfs / "devices").resolve()
        try:
            place = (self._sysfs / "bus/pci/devices" / bus_id).resolve(strict=True).relative_to(devices)
        except (OSError, ValueError):
            return None
        return place.parts[0] if place.parts and place.parts[0].startswith("pci") else None

    def _numa_node(self, bus_id: str | None) -> int | None:
        if bus_id is None:
            return None
        try:
            node = int((self._sysfs / "bus/pci/devices" / bus_id / "numa_node").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return node if node >= 0 else None  # the kernel says -1 where it does not know

    def _register(self) -> tuple[Event, ...]:
        """Subscribe to every GPU, and report what is known to be wrong at this moment."""
        nvml = self._nvml
        if not self._handles:
            self.inventory()
        try:
            self._events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError as error:
            raise BackendError(f"NVML gives no events: {error}") from None
        wanted = nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeDoubleBitEccError
        unmonitored: set[str] = set()
        for uuid, handle in self._handles.items():
            supported = self._ask("nvmlDeviceGetSupportedEventTypes", handle)
            try:
                if not (supported or 0) & wanted:
                    raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
                nvml.nvmlDeviceRegisterEvents(handle, supported & wanted, self._events)
            except nvml.NVMLError as error:
                logger.warning("%s cannot be watched for errors: %s", uuid, error)
                unmonitored.add(uuid)
        self._unmonitored = frozenset(unmonitored)
        events = [Occurred(gpu_uuid=uuid, fault=UNMONITORED) for uuid in sorted(unmonitored)]
        return (*self._check_recovery(), *events, *self._find_lost())

    def _check_recovery(self) -> tuple[Event, ...]:
        """A GPU that needs no repair, by its own account, has got over its faults. Older drivers give no account."""
        self._next_recovery_check = time.monotonic() + self._check_seconds
        field = getattr(self._nvml, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
        events: list[Event] = []
        for uuid, handle in self._handles.items() if field is not None else ():
            values = self._ask("nvmlDeviceGetFieldValues", handle, [field])
            if not values or values[0].nvmlReturn != 0:
                continue
            before, now = self._needs_repair.get(uuid, True), bool(values[0].value.uiVal)
            self._needs_repair[uuid] = now
            if before and not now:
                self._lost.discard(uuid)
                remaining = frozenset({UNMONITORED} if uuid in self._unmonitored else ())
                events.append(Cleared(gpu_uuid=uuid, remaining=remaining))
        return tuple(events)

    def _check_shape(self) -> tuple[Event, ...]:
        """Whether GPUs came, or were cut in another way since they were read: NVML has no event for that."""
        count = self._ask("nvmlDeviceGetCount")
        changed = count is not None and count > len(self._handles)
        for uuid, handle in self._handles.items():
            gpu = self._seen[uuid]
            if gpu.mig_profiles and uuid not in self._lost:
                changed |= (self._mig.mode(handle), self._present(uuid, gpu.mig_profiles)) != (
                    gpu.mig_mode,
                    gpu.partitions,
                )
        return (InventoryChanged(),) if changed else ()

    def _find_lost(self) -> tuple[Event, ...]:
        """NVML says that some GPU is lost, not which one: ask them all, so that the others are not blamed."""
        nvml = self._nvml
        events: list[Event] = []
        for uuid, handle in self._handles.items():
            try:
                nvml.nvmlDeviceGetUUID(handle)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_GPU_IS_LOST and uuid not in self._lost:
                    self._lost.add(uuid)
                    self._needs_repair[uuid] = True
                    events.append(Occurred(gpu_uuid=uuid, fault=GPU_LOST))
        return tuple(events)

    def _free_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            self._ask("nvmlEventSetFree", events)


def _bus_id(info: Any) -> str | None:
    """``00000000:1B:00.0``, as NVML says, in the kernel's spelling."""
    if info is None:
        return None
    text = info.busId.decode() if isinstance(info.busId, bytes) else str(info.busId)
    domain, _, rest = text.lower().partition(":")
    return f"{domain[-8:].lstrip('0').rjust(4, '0')}:{rest}"


def _cuda_version(number: int | None) -> str:
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _unique_names(gpus: list[Gpu]) -> tuple[Gpu, ...]:
    """A minor number that the library cannot tell was replaced by the index, which may be another GPU's minor."""
    taken: set[str] = set()
    result: list[Gpu] = []
    for gpu in gpus:
        name = gpu.name
        if name in taken:
            name = "gpu-" + gpu.uuid.lower().removeprefix("gpu-")
        taken.add(name)
        result.append(gpu if name == gpu.name else replace(gpu, name=name))
    return tuple(result)
