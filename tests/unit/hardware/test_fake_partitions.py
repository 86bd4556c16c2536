"""Partitions of fake GPUs: the rules of the real ones, and their state in a file that several processes share."""

import random
import time
from pathlib import Path

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.fake import profile
from driver.hardware.fake.fake_backend import FakeBackend
from driver.hardware.fake.fault import inject
from driver.hardware.fake.state_file import STATE_FILE
from driver.hardware.model import Cleared, Gpu, InventoryChanged, MigMode, MigProfile, Partition

BOOT = "boot-1"
# Arrangements that look possible by the number of slices and are not, as (there already, wanted).
UNPLACEABLE = [
    ([("3g.40gb", 0)], ("4g.40gb", 0)),
    ([("2g.20gb", 2)], ("4g.40gb", 0)),
    ([("1g.10gb", 1), ("1g.10gb", 5)], ("3g.40gb", 0)),
    ([("1g.10gb", 1), ("1g.10gb", 5)], ("3g.40gb", 4)),
    ([("1g.10gb", 0), ("1g.10gb", 2), ("1g.10gb", 4)], ("2g.20gb", 0)),
    ([("7g.80gb", 0)], ("1g.10gb", 6)),
    ([("1g.10gb+me", 0)], ("1g.10gb+me", 6)),
]
PLACEABLE = [
    ([("4g.40gb", 0)], ("3g.40gb", 4)),
    ([("2g.20gb", 0), ("2g.20gb", 2), ("2g.20gb", 4)], ("1g.10gb", 6)),
    ([("1g.10gb", 0), ("1g.10gb", 1), ("2g.20gb", 2)], ("3g.40gb", 4)),
    ([("1g.20gb", 0), ("1g.20gb", 2), ("1g.20gb", 4)], ("1g.20gb", 6)),
]


def start(directory: Path, name: str = "h100x8", boot_id: str = BOOT) -> FakeBackend:
    return FakeBackend(profile.load_profile(name), name=name, state_dir=directory, boot_id=boot_id)


@pytest.fixture
def backend(tmp_path: Path) -> FakeBackend:
    return start(tmp_path)


def gpu(backend: FakeBackend, name: str = "gpu-0") -> Gpu:
    return backend.inventory().by_name()[name]


def facts(device: Gpu, name: str) -> MigProfile:
    found = device.profile(name)
    assert found is not None
    return found


def create(backend: FakeBackend, name: str, start: int, *, on: str = "gpu-0") -> Partition:
    device = gpu(backend, on)
    return backend.create_partition(device, facts(device, name), start)


def test_a_partition_is_there_once_it_is_created(backend: FakeBackend):
    made = create(backend, "1g.10gb", 3)

    assert (made.profile, made.profile_id, made.start, made.size) == ("1g.10gb", 19, 3, 1)
    assert made.uuid.startswith("MIG-")
    assert backend.partitions(gpu(backend).uuid) == gpu(backend).partitions == (made,)
    assert gpu(backend).mig_mode is MigMode.ENABLED


def test_all_partitions_of_a_node_have_uuids_and_ids_of_their_own(backend: FakeBackend):
    made = [create(backend, "1g.10gb", start, on=on) for on in ("gpu-0", "gpu-1") for start in range(7)]

    assert len({partition.uuid for partition in made}) == 14
    assert len({(partition.gpu_uuid, partition.gi_id) for partition in made}) == 14


@pytest.mark.parametrize(("there", "wanted"), PLACEABLE)
def test_what_has_room_is_created(backend: FakeBackend, there: list[tuple[str, int]], wanted: tuple[str, int]):
    random.Random(1).shuffle(there)
    for name, begin in there:
        create(backend, name, begin)

    assert create(backend, *wanted).start == wanted[1]


@pytest.mark.parametrize(("there", "wanted"), UNPLACEABLE)
def test_what_has_no_room_is_refused_and_changes_nothing(
    backend: FakeBackend, there: list[tuple[str, int]], wanted: tuple[str, int]
):
    made = {create(backend, name, begin) for name, begin in there}

    with pytest.raises(BackendError, match="Insufficient Resources"):
        create(backend, *wanted)

    assert set(gpu(backend).partitions) == made


@pytest.mark.parametrize(("name", "begin"), [("1g.10gb", 7), ("2g.20gb", 1), ("4g.40gb", 4), ("3g.40gb", 2)])
def test_a_profile_starts_only_where_it_may(backend: FakeBackend, name: str, begin: int):
    with pytest.raises(BackendError, match="Invalid Argument"):
        create(backend, name, begin)


def test_with_the_last_partition_the_gpu_is_whole_again(backend: FakeBackend):
    first, second = create(backend, "1g.10gb", 3), create(backend, "1g.10gb", 4)

    backend.destroy_partition(first)
    assert gpu(backend).mig_mode is MigMode.ENABLED

    backend.destroy_partition(second)
    assert (gpu(backend).mig_mode, gpu(backend).partitions) == (MigMode.DISABLED, ())


def test_destroying_what_is_gone_is_a_success(backend: FakeBackend):
    made = create(backend, "1g.10gb", 3)
    backend.destroy_partition(made)

    backend.destroy_partition(made)


def test_destroying_spares_what_has_taken_the_place(backend: FakeBackend):
    old = create(backend, "1g.10gb", 3)
    backend.destroy_partition(old)
    new = create(backend, "2g.20gb", 2)

    backend.destroy_partition(old)

    assert gpu(backend).partitions == (new,)


def test_partitions_outlive_the_process_and_are_seen_by_another(backend: FakeBackend, tmp_path: Path):
    other = start(tmp_path)
    made = create(backend, "1g.10gb", 3)

    assert gpu(other).partitions == (made,)
    assert gpu(start(tmp_path)).partitions == (made,)


def test_partitions_are_gone_after_a_reboot(backend: FakeBackend, tmp_path: Path):
    create(backend, "1g.10gb", 3)

    rebooted = start(tmp_path, boot_id="boot-2")

    assert (gpu(rebooted).mig_mode, gpu(rebooted).partitions) == (MigMode.DISABLED, ())


def test_two_processes_do_not_take_one_place(backend: FakeBackend, tmp_path: Path):
    other = start(tmp_path)
    create(backend, "1g.10gb", 3)

    with pytest.raises(BackendError, match="Insufficient Resources"):
        create(other, "1g.10gb", 3)


def test_partitions_that_another_makes_are_an_event_and_ones_own_are_not(backend: FakeBackend, tmp_path: Path):
    other = start(tmp_path)
    backend.wait_for_events(0)
    other.wait_for_events(0)

    create(other, "1g.10gb", 3)

    assert backend.wait_for_events(5) == (InventoryChanged(),)
    assert other.wait_for_events(0) == ()


def test_where_mig_mode_needs_a_reset_partitions_are_refused(tmp_path: Path):
    backend = start(tmp_path, "a100x8")

    with pytest.raises(BackendError, match=r"Not Supported.*reset"):
        create(backend, "1g.5gb", 0)


def test_a_profile_may_have_partitions_from_the_start(tmp_path: Path):
    cut = gpu(start(tmp_path, "a30x4"), "gpu-3")

    assert cut.mig_mode is MigMode.ENABLED
    assert [(partition.profile, partition.start) for partition in cut.partitions] == [
        ("2g.12gb", 0),
        ("1g.6gb", 2),
        ("1g.6gb+me", 3),
    ]


def test_on_ampere_mig_mode_stays_on_without_partitions(tmp_path: Path):
    backend = start(tmp_path, "a30x4")
    for partition in gpu(backend, "gpu-3").partitions:
        backend.destroy_partition(partition)

    assert (gpu(backend, "gpu-3").mig_mode, gpu(backend, "gpu-3").partitions) == (MigMode.ENABLED, ())


def test_a_gpu_with_partitions_cannot_be_made_whole(backend: FakeBackend):
    create(backend, "1g.10gb", 3)

    with pytest.raises(BackendError, match="In use"):
        backend.make_whole(gpu(backend))


def test_making_whole_what_is_whole_changes_nothing(backend: FakeBackend, tmp_path: Path):
    before = (tmp_path / STATE_FILE).read_bytes()

    backend.make_whole(gpu(backend))

    assert (tmp_path / STATE_FILE).read_bytes() == before


def test_injected_latency_is_spent(backend: FakeBackend, tmp_path: Path):
    inject(tmp_path, boot_id=BOOT, device="gpu-0", latency_ms=150)

    started = time.monotonic()
    create(backend, "1g.10gb", 3)

    assert time.monotonic() - started >= 0.15


def test_injected_failures_are_used_up_one_by_one(backend: FakeBackend, tmp_path: Path):
    inject(tmp_path, boot_id=BOOT, device="gpu-0", fail_next=2)

    for left in (1, 0):
        with pytest.raises(BackendError, match=f"injected, {left} more"):
            create(backend, "1g.10gb", 3)

    assert create(backend, "1g.10gb", 3).start == 3


def test_nothing_works_on_a_gpu_that_is_lost(backend: FakeBackend, tmp_path: Path):
    made = create(backend, "1g.10gb", 3)
    inject(tmp_path, boot_id=BOOT, device="gpu-0", lost=True)

    with pytest.raises(BackendError, match="GPU is lost"):
        backend.destroy_partition(made)


def test_faults_leave_partitions_alone(backend: FakeBackend, tmp_path: Path):
    made = create(backend, "1g.10gb", 3)

    inject(tmp_path, boot_id=BOOT, device="gpu-0", clear=True)

    assert gpu(backend).partitions == (made,)


def test_a_container_gets_the_files_of_its_partition(backend: FakeBackend):
    made = create(backend, "1g.10gb+me", 3, on="gpu-2")

    edits = backend.device_edits(gpu(backend, "gpu-2"), made)

    assert edits.env == (f"GPU_DRA_GPU_2_MIG_1G10GB_ME_20_3={made.uuid}",)
    assert [node.path for node in edits.device_nodes] == [
        "/dev/nvidia2",
        "/dev/nvidia-caps/nvidia-cap282",
        "/dev/nvidia-caps/nvidia-cap283",
    ]
    assert {node.host_path for node in edits.device_nodes} == {"/dev/null"}


def test_without_a_place_for_its_state_nothing_is_created(tmp_path: Path):
    (tmp_path / "file").write_text("")
    backend = start(tmp_path / "file" / "state")

    with pytest.raises(BackendError, match="cannot be changed"):
        create(backend, "1g.10gb", 3)


def test_the_first_reading_tells_of_faults_only(backend: FakeBackend):
    create(backend, "1g.10gb", 3)

    assert {type(event) for event in backend.wait_for_events(0)} == {Cleared}
