"""The NVML backend against an object that looks like pynvml."""
# ruff: noqa: N802, N815

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from driver.devices.backend import BackendError
from driver.devices.model import Cause, Cleared, Fault, Occurred
from driver.devices.nvml import NvmlBackend


class FakeNvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


@dataclass
class FakeGpu:
    uuid: str
    minor: int
    bus_id: str
    errors: dict[str, int] = field(default_factory=dict)
    recovery: int | None = 0
    events: int = 8 | 2


class FakeNvml:
    NVMLError = FakeNvmlError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NO_PERMISSION = 4
    NVML_ERROR_TIMEOUT = 10
    NVML_ERROR_FUNCTION_NOT_FOUND = 13
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 230
    nvmlEventTypeXidCriticalError = 8
    nvmlEventTypeDoubleBitEccError = 2

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = gpus
        self.queue: deque[Any] = deque()
        self.init_error: int | None = None

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise FakeNvmlError(self.init_error)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "535.104.05"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 12080

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self._of(self.gpus[index], "handle", self.gpus[index])

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlEventSetFree(self, _events: object) -> None:
        pass

    def nvmlDeviceRegisterEvents(self, gpu: FakeGpu, _types: int, _events: object) -> None:
        self._of(gpu, "register", None)

    def nvmlEventSetWait_v2(self, _events: object, _milliseconds: int) -> Any:
        if not self.queue:
            raise FakeNvmlError(self.NVML_ERROR_TIMEOUT)
        item = self.queue.popleft()
        if isinstance(item, int):
            raise FakeNvmlError(item)
        return item

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return self._of(gpu, "uuid", gpu.uuid)

    def nvmlDeviceGetMinorNumber(self, gpu: FakeGpu) -> int:
        return self._of(gpu, "minor", gpu.minor)

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:
        return self._of(gpu, "name", "NVIDIA H100 80GB HBM3")

    def nvmlDeviceGetBrand(self, gpu: FakeGpu) -> int:
        return self._of(gpu, "brand", 14)

    def nvmlDeviceGetArchitecture(self, gpu: FakeGpu) -> int:
        return self._of(gpu, "architecture", 9)

    def nvmlDeviceGetCudaComputeCapability(self, gpu: FakeGpu) -> tuple[int, int]:
        return self._of(gpu, "capability", (9, 0))

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> Any:
        return self._of(gpu, "memory", SimpleNamespace(total=81559 << 20))

    def nvmlDeviceGetPciInfo(self, gpu: FakeGpu) -> Any:
        return self._of(gpu, "pci", SimpleNamespace(busId=gpu.bus_id))

    def nvmlDeviceGetSupportedEventTypes(self, gpu: FakeGpu) -> int:
        return self._of(gpu, "types", gpu.events)

    def nvmlDeviceGetFieldValues(self, gpu: FakeGpu, _fields: list[int]) -> Any:
        code = 3 if gpu.recovery is None else 0
        return self._of(
            gpu, "fields", [SimpleNamespace(nvmlReturn=code, value=SimpleNamespace(uiVal=gpu.recovery or 0))]
        )

    # nvmlDeviceGetAddressingMode is missing, as in an older pynvml.

    def _of(self, gpu: FakeGpu, what: str, value: Any) -> Any:
        code = gpu.errors.get(what, gpu.errors.get("all"))
        if code is not None:
            raise FakeNvmlError(code)
        return value


def gpu(number: int, **values: Any) -> FakeGpu:
    return FakeGpu(uuid=f"GPU-{number}", minor=7 - number, bus_id=f"00000000:{0x1A + number:02X}:00.0", **values)


@pytest.fixture
def sysfs(tmp_path):
    place = tmp_path / "devices/pci0000:15/0000:15:01.0/0000:1a:00.0"
    place.mkdir(parents=True)
    (place / "numa_node").write_text("1\n")
    links = tmp_path / "bus/pci/devices"
    links.mkdir(parents=True)
    (links / "0000:1a:00.0").symlink_to(place)
    return tmp_path


def event(gpu: FakeGpu, kind: int, data: int = 0) -> Any:
    return SimpleNamespace(device=gpu, eventType=kind, eventData=data)


def watching(nvml: FakeNvml, tmp_path) -> NvmlBackend:
    backend = NvmlBackend(nvml, sysfs=tmp_path)
    backend.inventory()
    backend.wait_for_events(0)
    return backend


def test_a_gpu_is_read(sysfs):
    inventory = NvmlBackend(FakeNvml(gpu(0)), sysfs=sysfs).inventory()

    (found,) = inventory.gpus
    assert (inventory.driver_version, inventory.cuda_version) == ("535.104.05", "12.8")
    assert (found.name, found.uuid, found.index, found.minor) == ("gpu-7", "GPU-0", 0, 7)
    assert (found.brand, found.architecture, found.compute_capability) == ("Nvidia", "Hopper", "9.0")
    assert (found.pci_bus_id, found.pcie_root, found.numa_node) == ("0000:1a:00.0", "pci0000:15", 1)
    assert found.memory_bytes == 81559 << 20
    assert found.addressing_mode is None


@pytest.mark.parametrize("code", [3, 4, 13, 999])
@pytest.mark.parametrize(
    ("query", "attribute"),
    [
        ("memory", "memory_bytes"),
        ("brand", "brand"),
        ("architecture", "architecture"),
        ("capability", "compute_capability"),
        ("pci", "pci_bus_id"),
    ],
)
def test_a_query_that_fails_leaves_one_field_open(tmp_path, query, attribute, code):
    (found,) = NvmlBackend(FakeNvml(gpu(0, errors={query: code})), sysfs=tmp_path).inventory().gpus

    assert getattr(found, attribute) is None
    assert found.uuid == "GPU-0"


def test_a_gpu_that_does_not_answer_does_not_take_the_others_with_it(tmp_path):
    found = NvmlBackend(FakeNvml(gpu(0, errors={"handle": 15}), gpu(1)), sysfs=tmp_path).inventory().gpus

    assert [g.uuid for g in found] == ["GPU-1"]


def test_a_gpu_that_is_lost_later_stays_in_the_inventory(tmp_path):
    nvml = FakeNvml(gpu(0), gpu(1))
    backend = NvmlBackend(nvml, sysfs=tmp_path)
    before = backend.inventory()

    nvml.gpus[0].errors["all"] = 15

    assert backend.inventory() == before


def test_names_stay_unique_when_a_minor_is_not_known(tmp_path):
    first, second = gpu(0), gpu(1)
    first.minor, second.errors, second.uuid = 1, {"minor": 3}, "GPU-5f0b"

    names = [g.name for g in NvmlBackend(FakeNvml(first, second), sysfs=tmp_path).inventory().gpus]

    assert names[0] == "gpu-1"
    assert len(set(names)) == 2


def test_a_kernel_that_knows_no_numa_node_says_minus_one(sysfs):
    (sysfs / "bus/pci/devices/0000:1a:00.0/numa_node").write_text("-1\n")

    assert NvmlBackend(FakeNvml(gpu(0)), sysfs=sysfs).inventory().gpus[0].numa_node is None


def test_no_library_is_one_clear_line(tmp_path):
    nvml = FakeNvml()
    nvml.init_error = 12

    with pytest.raises(BackendError, match=r"NVML cannot be used: error 12\. Install or load NVIDIA's driver"):
        NvmlBackend(nvml, sysfs=tmp_path)


def test_xid_and_memory_error_events(tmp_path):
    nvml = FakeNvml(gpu(0), gpu(1))
    backend = watching(nvml, tmp_path)
    nvml.queue.extend([event(nvml.gpus[1], 8, 79), event(nvml.gpus[0], 2)])

    assert backend.wait_for_events(1) == (Occurred(gpu_uuid="GPU-1", fault=Fault(cause=Cause.XID, detail="79")),)
    assert backend.wait_for_events(1) == (
        Occurred(gpu_uuid="GPU-0", fault=Fault(cause=Cause.ECC, detail="double-bit")),
    )


def test_time_is_up_without_events(tmp_path):
    assert watching(FakeNvml(gpu(0)), tmp_path).wait_for_events(0) == ()


def test_only_the_gpu_that_is_lost_is_blamed_and_once(tmp_path):
    nvml = FakeNvml(gpu(0), gpu(1))
    backend = watching(nvml, tmp_path)
    nvml.gpus[1].errors["all"] = 15
    nvml.queue.extend([15, 15])

    assert backend.wait_for_events(0.01) == (Occurred(gpu_uuid="GPU-1", fault=Fault(cause=Cause.GPU_LOST)),)
    assert backend.wait_for_events(0.01) == ()


@pytest.mark.parametrize("broken", [{"errors": {"register": 3}}, {"events": 0}, {"errors": {"types": 3}}])
def test_a_gpu_without_events_is_reported_as_unmonitored(tmp_path, broken):
    backend = NvmlBackend(FakeNvml(gpu(0, recovery=None, **broken), gpu(1, recovery=None)), sysfs=tmp_path)

    assert backend.wait_for_events(0) == (Occurred(gpu_uuid="GPU-0", fault=Fault(cause=Cause.UNMONITORED)),)


def test_a_gpu_that_needs_no_repair_at_start_has_got_over_what_was(tmp_path):
    backend = NvmlBackend(FakeNvml(gpu(0, recovery=0), gpu(1, recovery=1), gpu(2, recovery=None)), sysfs=tmp_path)

    assert backend.wait_for_events(0) == (Cleared(gpu_uuid="GPU-0"),)


def test_a_broken_event_mechanism_raises_and_is_set_up_afresh(tmp_path):
    nvml = FakeNvml(gpu(0, recovery=None))
    backend = watching(nvml, tmp_path)
    nvml.queue.append(999)

    with pytest.raises(BackendError, match="waiting for NVML events failed"):
        backend.wait_for_events(1)

    nvml.queue.append(event(nvml.gpus[0], 8, 31))
    backend.wait_for_events(0)
    assert backend.wait_for_events(1) == (Occurred(gpu_uuid="GPU-0", fault=Fault(cause=Cause.XID, detail="31")),)


def test_control_nodes_that_the_node_has(tmp_path):
    (tmp_path / "nvidiactl").touch()
    backend = NvmlBackend(FakeNvml(gpu(0)), sysfs=tmp_path, dev=tmp_path)
    inventory = backend.inventory()

    assert [node.path for node in backend.common_edits().device_nodes] == ["/dev/nvidiactl"]
    assert [node.path for node in backend.device_edits(inventory.gpus[0]).device_nodes] == ["/dev/nvidia7"]


def test_closed_backend_does_not_wait(tmp_path):
    backend = watching(FakeNvml(gpu(0)), tmp_path)
    backend.close()

    assert backend.wait_for_events(60) == ()
