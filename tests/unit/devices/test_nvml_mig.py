"""Partitions through NVML, against an object that looks like pynvml and keeps instances as one H100 would."""
# ruff: noqa: N802, N815

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from driver.devices.backend import BackendError
from driver.devices.model import Gpu, InventoryChanged, MigMode, MigProfile, Partition
from driver.devices.nvml import NvmlBackend
from tests.unit.devices.mig_facts import FACTS
from tests.unit.devices.test_nvml import FakeGpu, FakeNvml, FakeNvmlError

if TYPE_CHECKING:
    from pathlib import Path

ENUMS = {0: "1g.10gb", 7: "1g.10gb+me", 9: "1g.20gb", 1: "2g.20gb", 2: "3g.40gb", 3: "4g.40gb", 4: "7g.80gb"}
TABLE = FACTS["H100-SXM5-80GB"]["profiles"]
IDS = {facts[0]: name for name, facts in TABLE.items()}
NOT_FOUND, NOT_SUPPORTED, INSUFFICIENT_RESOURCES, UNKNOWN = 6, 3, 19, 999


class Placement(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint), ("size", ctypes.c_uint))


@dataclass
class Instance:
    id: int
    profile: str
    start: int
    compute: list[int] = field(default_factory=list)


class MigNvml(FakeNvml):
    """One GPU with a MIG state machine. ``fails`` names functions that give an error."""

    NVML_ERROR_NOT_FOUND = NOT_FOUND
    NVML_GPU_INSTANCE_PROFILE_COUNT = 18
    NVML_COMPUTE_INSTANCE_PROFILE_COUNT = 8
    NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED = 0
    c_nvmlGpuInstancePlacement_t = Placement
    c_nvmlGpuInstance_t = ctypes.py_object

    def __init__(self) -> None:
        super().__init__(FakeGpu(uuid="GPU-a", minor=2, bus_id="00000000:1B:00.0"))
        self.enabled = False
        self.instances: list[Instance] = []
        self.fails: set[str] = set()
        self.busy = 0

    def _may(self, function: str) -> None:
        if function in self.fails:
            raise FakeNvmlError(UNKNOWN)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        return next(gpu for gpu in self.gpus if gpu.uuid == uuid)

    def nvmlDeviceGetMigMode(self, _gpu: FakeGpu) -> list[int]:
        return [int(self.enabled), int(self.enabled)]

    def nvmlDeviceSetMigMode(self, _gpu: FakeGpu, mode: int) -> int:
        self._may("nvmlDeviceSetMigMode")
        if not self.busy:
            self.enabled = bool(mode)
        return self.busy

    def nvmlDeviceGetGpuInstanceProfileInfo(self, _gpu: FakeGpu, number: int) -> Any:
        if number not in ENUMS:
            raise FakeNvmlError(NOT_SUPPORTED)
        name = ENUMS[number]
        profile_id, compute, _, _, most, memory, multiprocessors, engines = TABLE[name]
        return SimpleNamespace(
            id=profile_id,
            sliceCount=compute,
            instanceCount=most,
            memorySizeMB=memory,
            multiprocessorCount=multiprocessors,
            copyEngineCount=engines[0],
            decoderCount=engines[1],
            encoderCount=engines[2],
            jpegCount=engines[3],
            ofaCount=engines[4],
            name=f"MIG {name}".encode(),
        )

    def nvmlDeviceGetGpuInstancePossiblePlacements(self, _gpu: FakeGpu, number: int, array: Any, count: Any) -> int:
        size, starts = TABLE[IDS[number]][2:4]
        ctypes.cast(count, ctypes.POINTER(ctypes.c_uint))[0] = len(starts)
        for index, start in enumerate(starts if array is not None else ()):
            array[index] = Placement(start, size)
        return 0

    def nvmlDeviceGetGpuInstances(self, _gpu: FakeGpu, number: int, array: Any, count: Any) -> int:
        found = [instance for instance in self.instances if instance.profile == IDS[number]]
        ctypes.cast(count, ctypes.POINTER(ctypes.c_uint))[0] = len(found)
        for index, instance in enumerate(found):
            array[index] = instance
        return 0

    def nvmlDeviceGetGpuInstanceById(self, _gpu: FakeGpu, number: int) -> Instance:
        for instance in self.instances:
            if instance.id == number:
                return instance
        raise FakeNvmlError(NOT_FOUND)

    def nvmlGpuInstanceGetInfo(self, instance: Instance) -> Any:
        size = TABLE[instance.profile][2]
        placement = SimpleNamespace(start=instance.start, size=size)
        return SimpleNamespace(id=instance.id, profileId=TABLE[instance.profile][0], placement=placement)

    def nvmlDeviceCreateGpuInstanceWithPlacement(self, _gpu: FakeGpu, number: int, placement: Any) -> Instance:
        self._may("nvmlDeviceCreateGpuInstanceWithPlacement")
        wanted = placement._obj
        taken = {s for i in self.instances for s in range(i.start, i.start + TABLE[i.profile][2])}
        if not self.enabled or taken & set(range(wanted.start, wanted.start + wanted.size)):
            raise FakeNvmlError(INSUFFICIENT_RESOURCES)
        used = {instance.id for instance in self.instances}
        instance = Instance(min(set(range(1, 15)) - used), IDS[number], wanted.start)
        self.instances.append(instance)
        return instance

    def nvmlGpuInstanceDestroy(self, instance: Instance) -> None:
        self._may("nvmlGpuInstanceDestroy")
        assert not instance.compute, "compute instances go first"
        self.instances.remove(instance)

    def nvmlGpuInstanceGetComputeInstanceProfileInfo(self, instance: Instance, number: int, _engines: int) -> Any:
        slices = {0: 1, 1: 2, 2: 3, 3: 4, 4: 7, 7: 1}.get(number)
        if slices is None or slices > TABLE[instance.profile][1]:
            raise FakeNvmlError(NOT_SUPPORTED)
        return SimpleNamespace(id=100 + number, sliceCount=slices)

    def nvmlGpuInstanceCreateComputeInstance(self, instance: Instance, number: int) -> Any:
        self._may("nvmlGpuInstanceCreateComputeInstance")
        assert number != 107
        instance.compute.append(0)
        return SimpleNamespace(owner=instance, id=0)

    def nvmlGpuInstanceGetComputeInstanceById(self, instance: Instance, number: int) -> Any:
        if number not in instance.compute:
            raise FakeNvmlError(NOT_FOUND)
        return SimpleNamespace(owner=instance, id=number)

    def nvmlComputeInstanceDestroy(self, compute: Any) -> None:
        self._may("nvmlComputeInstanceDestroy")
        compute.owner.compute.remove(compute.id)

    def nvmlDeviceGetMaxMigDeviceCount(self, _gpu: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _gpu: FakeGpu, index: int) -> Any:
        self._may("nvmlDeviceGetMigDeviceHandleByIndex")
        devices = [(instance, ci) for instance in self.instances for ci in instance.compute]
        if index >= len(devices):
            raise FakeNvmlError(NOT_FOUND)
        instance, ci = devices[index]
        return SimpleNamespace(gi=instance.id, ci=ci, uuid=f"MIG-{instance.id}", errors={})

    def nvmlDeviceGetGpuInstanceId(self, device: Any) -> int:
        return int(device.gi)

    def nvmlDeviceGetComputeInstanceId(self, device: Any) -> int:
        return int(device.ci)


@pytest.fixture
def nvml() -> MigNvml:
    return MigNvml()


@pytest.fixture
def backend(nvml: MigNvml, tmp_path: Path) -> NvmlBackend:
    (tmp_path / "driver/nvidia-caps").mkdir(parents=True)
    (tmp_path / "devices").write_text("Character devices:\n  1 mem\n195 nvidia\n237 nvidia-caps\n")
    (tmp_path / "driver/nvidia-caps/mig-minors").write_text(
        "config 1\nmonitor 2\ngpu2/gi1/access 282\ngpu2/gi1/ci0/access 283\n"
    )
    return NvmlBackend(nvml, proc=tmp_path)


def read(backend: NvmlBackend) -> Gpu:
    (gpu,) = backend.inventory().gpus
    return gpu


def create(backend: NvmlBackend, name: str, start: int) -> Partition:
    gpu = read(backend)
    profile = gpu.profile(name)
    assert isinstance(profile, MigProfile)
    return backend.create_partition(gpu, profile, start)


def test_profiles_and_placements_are_read(backend: NvmlBackend):
    gpu = read(backend)

    assert (gpu.mig_mode, gpu.mig_switchable, gpu.memory_slices) == (MigMode.DISABLED, True, 8)
    assert {profile.name: list(profile.starts) for profile in gpu.mig_profiles} == {n: f[3] for n, f in TABLE.items()}
    big = gpu.profile("3g.40gb")
    assert big is not None
    assert (big.profile_id, big.size, big.compute_slices, big.memory_mib, big.multiprocessors) == (9, 4, 3, 40448, 60)


def test_a_partition_is_created_where_it_should_be(backend: NvmlBackend, nvml: MigNvml):
    made = create(backend, "3g.40gb", 4)

    assert made == Partition(
        gpu_uuid="GPU-a", profile="3g.40gb", profile_id=9, start=4, size=4, uuid="MIG-1", gi_id=1, ci_id=0
    )
    assert nvml.enabled
    assert read(backend).partitions == backend.partitions("GPU-a") == (made,)


def test_with_the_last_partition_mig_mode_goes_off(backend: NvmlBackend, nvml: MigNvml):
    first, second = create(backend, "1g.10gb", 6), create(backend, "1g.10gb", 5)

    backend.destroy_partition(first)
    assert nvml.enabled

    backend.destroy_partition(second)
    assert (nvml.enabled, nvml.instances) == (False, [])


def test_what_is_gone_or_gave_way_is_left_alone(backend: NvmlBackend, nvml: MigNvml):
    old = create(backend, "1g.10gb", 6)
    backend.destroy_partition(old)
    backend.destroy_partition(old)
    new = create(backend, "2g.20gb", 4)
    assert new.gi_id == old.gi_id

    backend.destroy_partition(old)

    assert [instance.profile for instance in nvml.instances] == ["2g.20gb"]


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceCreateGpuInstanceWithPlacement",
        "nvmlGpuInstanceCreateComputeInstance",
        "nvmlDeviceGetMigDeviceHandleByIndex",
    ],
)
def test_a_failure_leaves_nothing_behind(backend: NvmlBackend, nvml: MigNvml, function: str):
    read(backend)
    nvml.fails = {function}

    with pytest.raises(BackendError, match=r"create 1g\.10gb at 6 on gpu-2"):
        create(backend, "1g.10gb", 6)

    assert (nvml.instances, nvml.enabled) == ([], False)


def test_mig_mode_of_others_stays_on_after_a_failure(backend: NvmlBackend, nvml: MigNvml):
    create(backend, "1g.10gb", 6)
    nvml.fails = {"nvmlGpuInstanceCreateComputeInstance"}

    with pytest.raises(BackendError):
        create(backend, "1g.10gb", 5)

    assert (len(nvml.instances), nvml.enabled) == (1, True)


def test_a_gpu_that_is_in_use_is_not_cut(backend: NvmlBackend, nvml: MigNvml):
    nvml.busy = 19

    with pytest.raises(BackendError, match="cannot be switched on, NVML status 19: something still uses the GPU"):
        create(backend, "1g.10gb", 6)


def test_an_instance_that_a_crash_left_unfinished_is_shown_without_uuid_and_can_be_destroyed(
    backend: NvmlBackend, nvml: MigNvml
):
    nvml.enabled = True
    nvml.instances.append(Instance(3, "1g.10gb", 4))
    read(backend)

    (found,) = backend.partitions("GPU-a")
    backend.destroy_partition(found)

    assert (found.profile, found.start, found.uuid) == ("1g.10gb", 4, "")
    assert nvml.instances == []


def test_a_failed_destroy_can_be_repeated(backend: NvmlBackend, nvml: MigNvml):
    made = create(backend, "1g.10gb", 6)
    nvml.fails = {"nvmlGpuInstanceDestroy"}
    with pytest.raises(BackendError, match="destroy"):
        backend.destroy_partition(made)

    nvml.fails = set()
    backend.destroy_partition(made)

    assert (nvml.instances, nvml.enabled) == ([], False)


def test_a_gpu_with_partitions_cannot_be_made_whole(backend: NvmlBackend):
    create(backend, "1g.10gb", 6)

    with pytest.raises(BackendError, match="MIG devices exist"):
        backend.make_whole(read(backend))


def test_a_gpu_without_partitions_is_made_whole(backend: NvmlBackend, nvml: MigNvml):
    nvml.enabled = True

    backend.make_whole(read(backend))

    assert not nvml.enabled


def test_what_an_administrator_cuts_is_noticed(nvml: MigNvml, tmp_path: Path):
    backend = NvmlBackend(nvml, proc=tmp_path, check_seconds=0)
    read(backend)
    backend.wait_for_events(0)
    assert backend.wait_for_events(0) == ()

    nvml.enabled = True
    nvml.instances.append(Instance(3, "1g.10gb", 4, [0]))

    assert backend.wait_for_events(0) == (InventoryChanged(),)
    assert [partition.start for partition in read(backend).partitions] == [4]
    assert backend.wait_for_events(0) == ()


def test_a_container_gets_the_files_of_its_partition(backend: NvmlBackend):
    made = create(backend, "1g.10gb", 6)

    nodes = backend.device_edits(read(backend), made).device_nodes

    assert [(node.path, node.major, node.minor, node.type) for node in nodes] == [
        ("/dev/nvidia2", None, None, "c"),
        ("/dev/nvidia-caps/nvidia-cap282", 237, 282, "c"),
        ("/dev/nvidia-caps/nvidia-cap283", 237, 283, "c"),
    ]


def test_without_such_files_a_partition_is_not_given_out(nvml: MigNvml, tmp_path: Path):
    backend = NvmlBackend(nvml, proc=tmp_path / "missing")
    made = create(backend, "1g.10gb", 6)

    with pytest.raises(BackendError, match="mig-minors"):
        backend.device_edits(read(backend), made)
