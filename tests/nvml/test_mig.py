"""Partitions through NVML: found, made, verified, destroyed, and nothing left behind."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.model import Gpu, InventoryChanged, MigMode, MigProfile, Partition
from driver.inventory.catalogue import survey
from driver.inventory.options import DeviceOptions, Options, Partitioning
from tests.unit.inventory.mig_facts import FACTS, MODELS

if TYPE_CHECKING:
    from driver.hardware.nvml import NvmlBackend
    from tests.nvml.conftest import Build, Open
    from tests.nvml.standin import World


@pytest.fixture
def backend(machine: World, open_nvml: Open) -> NvmlBackend:
    """One H100 with minor 2."""
    machine.add(minor=2)
    return open_nvml(machine)


def read(backend: NvmlBackend) -> Gpu:
    return backend.inventory().gpus[0]


def create(backend: NvmlBackend, name: str, start: int) -> Partition:
    gpu = read(backend)
    profile = gpu.profile(name)
    assert isinstance(profile, MigProfile), gpu.mig_profiles
    return backend.create_partition(gpu, profile, start)


@pytest.mark.parametrize("model", MODELS)
def test_profiles_and_placements_are_read(machine: World, open_nvml: Open, model: str) -> None:
    machine.add(model)

    gpu = read(open_nvml(machine))

    rows = FACTS[model]["profiles"]
    assert gpu.memory_slices == FACTS[model]["slots"]
    assert {
        p.name: [
            p.profile_id,
            p.compute_slices,
            p.size,
            list(p.starts),
            p.max_instances,
            p.memory_mib,
            p.multiprocessors,
        ]
        for p in gpu.mig_profiles
    } == {name: row[:7] for name, row in rows.items()}


@pytest.mark.parametrize("model", [model for model in MODELS if "B200" not in model])
def test_an_old_driver_s_profiles_get_the_same_names(build: Build, open_nvml: Open, model: str) -> None:
    machine = build(missing=frozenset({"nvmlDeviceGetGpuInstanceProfileInfoV"}))
    machine.add(model)

    assert {p.name for p in read(open_nvml(machine)).mig_profiles} == set(FACTS[model]["profiles"])


@pytest.mark.parametrize("model", [model for model in MODELS if FACTS[model]["slots"] in (4, 8)])
def test_a_driver_that_lists_no_placements_while_mig_is_off(machine: World, open_nvml: Open, model: str) -> None:
    machine.add(model)
    machine.set(placements_need_mig=1)

    found = {p.name: list(p.starts) for p in read(open_nvml(machine)).mig_profiles}

    assert found == {name: row[3] for name, row in FACTS[model]["profiles"].items()}


def test_a_profile_without_placements_gets_none_of_another_model(machine: World, open_nvml: Open) -> None:
    machine.add("RTX-PRO-6000-BLACKWELL-96GB")
    row = machine.read()["gpu.0.profile.0"].split()
    machine.set({"gpu.0.profile.0": " ".join([*row[:3], "0", *row[4:]])})

    assert {p.name for p in read(open_nvml(machine)).mig_profiles} == {"1g.24gb+me", "2g.48gb", "4g.96gb"}


def test_ids_are_the_driver_s_and_not_a_table_s(machine: World, open_nvml: Open) -> None:
    machine.add()
    row = machine.read()["gpu.0.profile.0"].split()
    machine.set({"gpu.0.profile.0": " ".join(["77", *row[1:]])})
    backend = open_nvml(machine)

    made = create(backend, "1g.10gb", 3)

    assert (made.profile_id, machine.read()["gpu.0.gi.1"]) == (77, "77 3")


VARIANTS = {
    10: ("1g.24gb+gfx", 1, 4),
    13: ("1g.24gb-me", 1, 4),
    15: ("1g.24gb+me.all", 1, 1),
    11: ("2g.48gb+gfx", 2, 2),
}


def test_variants_of_profiles_are_offered_and_made(machine: World, open_nvml: Open) -> None:
    rows = {
        f"profile.{number}": f"{40 + number} {size} {size} {(15, 5)[size - 1]} {most} 24000 40 1 1 1 1 1 {name}"
        for number, (name, size, most) in VARIANTS.items()
    }
    machine.add(mig=False, **rows)
    machine.set({"gpu.0.mig": 0})
    backend = open_nvml(machine)

    assert {p.name for p in read(backend).mig_profiles} == {name for name, _, _ in VARIANTS.values()}
    made = [create(backend, "1g.24gb+me.all", 0), create(backend, "1g.24gb-me", 1), create(backend, "2g.48gb+gfx", 2)]

    assert [(p.profile, p.start) for p in backend.partitions(read(backend).uuid)] == [
        (m.profile, m.start) for m in made
    ]


def test_a_partition_is_created_where_it_should_be(machine: World, backend: NvmlBackend) -> None:
    made = create(backend, "3g.40gb", 4)

    gpu = read(backend)
    assert (made.profile, made.profile_id, made.start, made.size, made.gi_id) == ("3g.40gb", 9, 4, 4, 1)
    assert made.uuid.startswith("MIG-")
    assert gpu.mig_mode is MigMode.ENABLED
    assert gpu.partitions == backend.partitions(gpu.uuid) == (made,)


@pytest.mark.parametrize("model", MODELS)
def test_every_placement_of_every_gpu_can_be_made_and_undone(machine: World, open_nvml: Open, model: str) -> None:
    machine.add(model, mig_status=None)
    backend = open_nvml(machine)
    gpu = read(backend)
    for profile in gpu.mig_profiles:
        for start in profile.starts:
            if not gpu.mig_switchable:
                machine.set({"gpu.0.mig": 1})
            made = backend.create_partition(gpu, profile, start)
            assert (made.profile, made.start) == (profile.name, start)
            backend.destroy_partition(made)
    assert machine.instances() == ({} if gpu.mig_switchable else {"gpu.0.mig": "1"})


def test_with_the_last_partition_mig_mode_goes_off(machine: World, backend: NvmlBackend) -> None:
    first, second = create(backend, "1g.10gb", 6), create(backend, "1g.10gb", 5)

    backend.destroy_partition(first)
    assert machine.read()["gpu.0.mig"] == "1"

    backend.destroy_partition(second)
    assert machine.instances() == {}


def test_mig_mode_that_cannot_go_off_at_once_is_switched_off_when_it_matters(
    machine: World, backend: NvmlBackend
) -> None:
    made = create(backend, "1g.10gb", 6)
    machine.fail("nvmlDeviceSetMigMode", 19)
    backend.destroy_partition(made)
    assert machine.instances() == {"gpu.0.mig": "1"}

    machine.fail("nvmlDeviceSetMigMode", None)
    backend.make_whole(read(backend))

    assert machine.instances() == {}


def test_with_a_foreign_partition_mig_mode_stays_on(machine: World, backend: NvmlBackend) -> None:
    mine = create(backend, "1g.10gb", 6)
    machine.cut(0, "1g.10gb+me", 0, gi=9)

    backend.destroy_partition(mine)

    assert machine.instances() == {"gpu.0.mig": "1", "gpu.0.gi.9": "20 0", "gpu.0.ci.9.0": "0 1"}


def test_what_is_gone_or_gave_way_is_left_alone(machine: World, backend: NvmlBackend) -> None:
    old = create(backend, "1g.10gb", 6)
    backend.destroy_partition(old)
    backend.destroy_partition(old)
    new = create(backend, "2g.20gb", 4)
    assert new.gi_id == old.gi_id

    backend.destroy_partition(old)

    assert backend.partitions(new.gpu_uuid) == (new,)


def test_a_partition_is_gone_after_a_reset_of_its_gpu(machine: World, backend: NvmlBackend) -> None:
    made = create(backend, "1g.10gb", 6)
    machine.set({key: None for key in machine.instances() if key != "gpu.0.mig"} | {"gpu.0.mig": 0})

    backend.destroy_partition(made)

    assert machine.instances() == {}


STEPS = [
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceGetInfo",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetComputeInstanceId",
]


@pytest.mark.parametrize("code", [3, 4, 10, 19, 23, 999])
@pytest.mark.parametrize("function", STEPS)
def test_a_failure_at_any_step_leaves_nothing_behind(
    machine: World, backend: NvmlBackend, function: str, code: int
) -> None:
    read(backend)
    machine.fail(function, code)

    with pytest.raises(BackendError, match=r"create 1g\.10gb at 6 on gpu-2: ") as caught:
        create(backend, "1g.10gb", 6)

    assert "\n" not in str(caught.value)
    assert machine.instances() == {}


def test_an_instance_that_shows_no_device_is_taken_back(machine: World, backend: NvmlBackend) -> None:
    machine.set({"gpu.0.mig_max": 0})

    with pytest.raises(BackendError, match="shows no MIG device"):
        create(backend, "1g.10gb", 6)

    assert machine.instances() == {}


def test_mig_mode_of_others_stays_on_after_a_failure(machine: World, backend: NvmlBackend) -> None:
    create(backend, "1g.10gb", 6)
    machine.fail("nvmlGpuInstanceCreateComputeInstance", 999)

    with pytest.raises(BackendError):
        create(backend, "1g.10gb", 5)

    assert sorted(machine.instances()) == ["gpu.0.ci.1.0", "gpu.0.gi.1", "gpu.0.mig"]


def test_a_place_that_is_taken_is_named(machine: World, backend: NvmlBackend) -> None:
    machine.cut(0, "2g.20gb", 4, gi=3)

    with pytest.raises(BackendError, match=r"no room for it.*; there are: 2g\.20gb at 4 \(MIG-"):
        create(backend, "3g.40gb", 4)


def test_a_gpu_that_is_in_use_is_not_cut(machine: World, backend: NvmlBackend) -> None:
    machine.set({"gpu.0.mig_status": 19})

    with pytest.raises(BackendError, match="cannot be switched on now: a process still uses the GPU"):
        create(backend, "1g.10gb", 6)

    assert machine.instances() == {}


@pytest.mark.parametrize("status", [16, 3])
def test_a_switch_that_waits_for_a_reset_is_taken_back(machine: World, backend: NvmlBackend, status: int) -> None:
    machine.set({"gpu.0.mig_status": status})

    with pytest.raises(BackendError, match="cannot be switched on now"):
        create(backend, "1g.10gb", 6)

    assert machine.read().get("gpu.0.mig_pending", "0") == "0"


@pytest.mark.parametrize("model", ["A100-SXM4-80GB", "A30-24GB"])
def test_a_gpu_that_needs_a_reset_for_it_is_not_switched(machine: World, open_nvml: Open, model: str) -> None:
    machine.add(model)
    backend = open_nvml(machine)
    gpu = read(backend)
    assert not gpu.mig_switchable

    with pytest.raises(BackendError, match=r"MIG mode is off, and this GPU needs a reset.*--gpu-reset"):
        backend.create_partition(gpu, gpu.mig_profiles[0], gpu.mig_profiles[0].starts[0])

    machine.set({"gpu.0.mig": 1})
    with pytest.raises(BackendError, match="this GPU needs a reset for that"):
        backend.make_whole(gpu)


def test_a_busy_partition_stays_until_it_can_be_destroyed(machine: World, backend: NvmlBackend) -> None:
    made = create(backend, "1g.10gb", 6)
    machine.set({f"gpu.0.busy.{made.gi_id}": 1})
    with pytest.raises(BackendError, match=r"destroy 1g\.10gb at 6 .*: something still uses it"):
        backend.destroy_partition(made)

    machine.set({f"gpu.0.busy.{made.gi_id}": None})
    backend.destroy_partition(made)

    assert machine.instances() == {}


@pytest.mark.parametrize("function", ["nvmlGpuInstanceDestroy", "nvmlComputeInstanceDestroy"])
def test_a_failed_destroy_can_be_repeated(machine: World, backend: NvmlBackend, function: str) -> None:
    made = create(backend, "1g.10gb", 6)
    machine.fail(function, 999)
    with pytest.raises(BackendError, match="destroy"):
        backend.destroy_partition(made)

    machine.fail(function, None)
    backend.destroy_partition(made)

    assert machine.instances() == {}


def test_an_instance_that_a_crash_left_unfinished_has_no_uuid_and_can_be_destroyed(
    machine: World, backend: NvmlBackend
) -> None:
    machine.cut(0, "1g.10gb", 4, gi=3, slices=0)
    read(backend)

    (found,) = backend.partitions(read(backend).uuid)
    backend.destroy_partition(found)

    assert (found.profile, found.start, found.uuid) == ("1g.10gb", 4, "")
    assert machine.instances() == {}


def test_an_instance_in_pieces_is_not_given_out(machine: World, backend: NvmlBackend) -> None:
    machine.cut(0, "3g.40gb", 4, gi=3, slices=1)

    (found,) = read(backend).partitions

    assert (found.uuid, found.slots) == ("", frozenset({4, 5, 6, 7}))


def test_a_gpu_with_partitions_cannot_be_made_whole(backend: NvmlBackend) -> None:
    create(backend, "1g.10gb", 6)

    with pytest.raises(BackendError, match="MIG devices exist"):
        backend.make_whole(read(backend))


def test_a_gpu_without_partitions_is_made_whole(machine: World, backend: NvmlBackend) -> None:
    machine.set({"gpu.0.mig": 1})

    backend.make_whole(read(backend))
    backend.make_whole(read(backend))

    assert machine.instances() == {}


def test_static_devices_are_offered_in_place_of_their_gpu(machine: World, backend: NvmlBackend) -> None:
    machine.cut(0, "1g.10gb+me", 6, gi=11)
    machine.cut(0, "3g.40gb", 0, gi=2)

    static = Options(default=DeviceOptions(partitioning=Partitioning.STATIC))
    devices = survey(backend.inventory(), static).devices

    assert [device.name for device in devices] == ["gpu-2-mig-1g10gb-me-20-6", "gpu-2-mig-3g40gb-9-0"]
    assert all(device.partition and device.partition.uuid.startswith("MIG-") for device in devices)


def test_a_gpu_that_tells_its_mode_and_nothing_else_of_mig(machine: World, open_nvml: Open) -> None:
    machine.add()
    machine.set({"gpu.0.mig": 1, **{f"gpu.0.profile.{number}": None for number in range(18)}})

    gpu = read(open_nvml(machine))

    assert (gpu.mig_mode, gpu.mig_profiles, gpu.partitions, gpu.mig_switchable) == (MigMode.ENABLED, (), (), False)


@pytest.mark.parametrize("code", [4, 999])
def test_instances_that_nobody_may_see_do_not_hide_the_gpu(machine: World, open_nvml: Open, code: int) -> None:
    machine.add()
    machine.set({"gpu.0.mig": 1})
    machine.fail("nvmlDeviceGetGpuInstances", code)
    backend = open_nvml(machine)

    gpu = read(backend)

    assert gpu.partitions == ()
    with pytest.raises(BackendError, match="list the MIG devices"):
        backend.partitions(gpu.uuid)


@pytest.mark.parametrize(
    "query",
    ["nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetGpuInstances"],
)
@pytest.mark.parametrize("code", [4, 10, 15, 999])
def test_a_list_of_instances_that_fails_for_a_moment_destroys_none(
    machine: World, open_nvml: Open, query: str, code: int
) -> None:
    machine.add()
    machine.cut(0, "1g.10gb", 6, gi=3)
    backend = open_nvml(machine)
    (before,) = backend.inventory().gpus
    machine.fail(query, code)

    (after,) = backend.inventory().gpus

    assert [partition.uuid for partition in before.partitions] != [""]
    assert after.partitions == before.partitions


def test_a_gpu_that_is_gone_is_said_so(machine: World, backend: NvmlBackend) -> None:
    made = create(backend, "1g.10gb", 6)
    machine.set({"gpu.0.lost": 1})

    with pytest.raises(BackendError, match=f"GPU {made.gpu_uuid} cannot be used: the GPU is lost"):
        backend.destroy_partition(made)


def test_a_container_gets_the_files_of_its_partition(machine: World, backend: NvmlBackend) -> None:
    made = create(backend, "1g.10gb", 6)
    gpu = read(backend)

    nodes = {node.path: (node.type, node.major, node.minor) for node in backend.device_edits(gpu, made).device_nodes}

    assert {path: numbers for path, numbers in nodes.items() if "caps" in path} == {
        "/dev/nvidia-caps/nvidia-cap579": ("c", 237, 579),
        "/dev/nvidia-caps/nvidia-cap580": ("c", 237, 580),
    }
    assert "/dev/nvidia2" in nodes


def test_without_such_files_a_partition_is_not_given_out(machine: World, backend: NvmlBackend) -> None:
    shutil.rmtree(machine.proc / "driver/nvidia-caps")
    made = create(backend, "1g.10gb", 6)

    with pytest.raises(BackendError):
        backend.device_edits(read(backend), made)


@pytest.mark.parametrize("lacks", ["nvidia-caps", "devices"])
def test_whether_partitions_can_be_given_to_containers_is_known_before_any_is_made(
    machine: World, backend: NvmlBackend, lacks: str
) -> None:
    assert read(backend).partitions_sealed == ""
    place = machine.proc / "driver/nvidia-caps" if lacks == "nvidia-caps" else machine.proc / "devices"
    hidden = place.rename(machine.proc / "hidden")

    assert "no container can open" in read(backend).partitions_sealed

    hidden.rename(place)
    while InventoryChanged() not in backend.wait_for_events(0):
        pass
    assert read(backend).partitions_sealed == ""
