import os
from dataclasses import replace
from pathlib import Path

import pytest

from driver.base import files
from driver.hardware.model import Inventory
from driver.inventory.name_store import NAMES_FILE, NameStore
from driver.inventory.names import Names, settle
from tests.unit.inventory.mig_facts import gpu


def node(*minors_by_uuid: tuple[str, int]) -> Inventory:
    gpus = tuple(
        replace(gpu("H100-SXM5-80GB", minor), uuid=uuid, name=f"gpu-{minor}") for uuid, minor in minors_by_uuid
    )
    return Inventory(driver_version="1", cuda_version="12.8", gpus=gpus)


def named(inventory: Inventory) -> dict[str, str]:
    return {gpu.uuid: gpu.name for gpu in inventory.gpus}


def test_at_first_sight_a_gpu_is_named_by_its_minor():
    inventory, names = settle(Names(), node(("GPU-A", 1), ("GPU-B", 0)), boot_id="1")

    assert named(inventory) == names.by_uuid == {"GPU-A": "gpu-1", "GPU-B": "gpu-0"}


def test_a_reboot_that_reorders_minors_changes_no_name():
    _, names = settle(Names(), node(("GPU-A", 0), ("GPU-B", 1)), boot_id="1")

    inventory, _ = settle(names, node(("GPU-A", 1), ("GPU-B", 0)), boot_id="2")

    assert named(inventory) == {"GPU-A": "gpu-0", "GPU-B": "gpu-1"}
    assert [gpu.minor for gpu in inventory.gpus] == [1, 0]


def test_a_gpu_that_replaces_another_takes_its_name():
    _, names = settle(Names(), node(("GPU-A", 0), ("GPU-B", 1)), boot_id="1")

    inventory, _ = settle(names, node(("GPU-A", 0), ("GPU-C", 1)), boot_id="2")

    assert named(inventory) == {"GPU-A": "gpu-0", "GPU-C": "gpu-1"}


def test_within_one_boot_the_name_of_a_gpu_that_is_away_is_kept():
    _, names = settle(Names(), node(("GPU-A", 0), ("GPU-B", 1)), boot_id="1")

    inventory, names = settle(names, node(("GPU-A", 0), ("GPU-C", 1)), boot_id="1")
    assert named(inventory) == {"GPU-A": "gpu-0", "GPU-C": "gpu-2"}

    inventory, _ = settle(names, node(("GPU-A", 0), ("GPU-B", 2), ("GPU-C", 1)), boot_id="1")
    assert named(inventory) == {"GPU-A": "gpu-0", "GPU-B": "gpu-1", "GPU-C": "gpu-2"}


def test_a_gpu_that_missed_a_boot_gets_its_name_back():
    _, names = settle(Names(), node(("GPU-A", 0), ("GPU-B", 1)), boot_id="1")
    _, names = settle(names, node(("GPU-A", 0)), boot_id="2")

    inventory, _ = settle(names, node(("GPU-B", 0), ("GPU-A", 1)), boot_id="3")

    assert named(inventory) == {"GPU-A": "gpu-0", "GPU-B": "gpu-1"}


def test_other_hardware_altogether_starts_anew():
    _, names = settle(Names(), node(("GPU-A", 0), ("GPU-B", 1)), boot_id="1")

    inventory, names = settle(names, node(("GPU-C", 0)), boot_id="1")

    assert named(inventory) == names.by_uuid == {"GPU-C": "gpu-0"}


def test_a_look_at_nothing_forgets_nothing():
    _, names = settle(Names(), node(("GPU-A", 0)), boot_id="1")

    _, after = settle(names, node(), boot_id="2")

    assert after.by_uuid == {"GPU-A": "gpu-0"}


def test_names_are_read_back_after_a_restart(tmp_path: Path):
    NameStore(tmp_path, boot_id="1").apply(node(("GPU-A", 0), ("GPU-B", 1)))

    inventory = NameStore(tmp_path, boot_id="2").apply(node(("GPU-A", 1), ("GPU-B", 0)))

    assert named(inventory) == {"GPU-A": "gpu-0", "GPU-B": "gpu-1"}


def test_nothing_is_written_when_nothing_is_new(tmp_path: Path):
    store = NameStore(tmp_path, boot_id="1")
    store.apply(node(("GPU-A", 0)))
    before = (tmp_path / NAMES_FILE).stat()

    store.apply(node(("GPU-A", 0)))

    assert (tmp_path / NAMES_FILE).stat() == before


@pytest.mark.parametrize(
    "content",
    [
        '{"names": 3',
        "[" * 100_000,
        "[]",
        '{"bootID": "1", "names": []}',
        '{"bootID": "1", "names": {"GPU-A": ["gpu-1"]}}',
        '{"bootID": "1", "names": {"GPU-A": "no name"}}',
        '{"bootID": "1", "names": {"GPU-A": "gpu-1", "GPU-B": "gpu-1"}}',
        '{"bootID": "1", "names": {"GPU-A": "gpu-1"}}' + " " * files.LARGEST,
    ],
)
def test_a_damaged_file_costs_the_names_and_nothing_else(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
):
    (tmp_path / NAMES_FILE).write_text(content)

    assert named(NameStore(tmp_path, boot_id="1").apply(node(("GPU-A", 4)))) == {"GPU-A": "gpu-4"}
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert named(NameStore(tmp_path, boot_id="2").apply(node(("GPU-A", 3)))) == {"GPU-A": "gpu-4"}


def test_a_named_pipe_in_the_place_of_the_names_keeps_nobody_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / NAMES_FILE)

    assert named(NameStore(tmp_path, boot_id="1").apply(node(("GPU-A", 4)))) == {"GPU-A": "gpu-4"}
    assert (tmp_path / NAMES_FILE).is_file()


def test_a_directory_that_cannot_be_written_costs_nothing(tmp_path: Path):
    assert named(NameStore(tmp_path / "missing", boot_id="1").apply(node(("GPU-A", 4)))) == {"GPU-A": "gpu-4"}


def test_what_stands_in_for_a_uuid_is_not_remembered():
    _, names = settle(Names(), node(("GPU-A", 0), ("unknown-0000:1c:00.0", 1)), boot_id="1")
    assert names.by_uuid == {"GPU-A": "gpu-0"}

    inventory, _ = settle(names, node(("GPU-A", 0), ("GPU-B", 1)), boot_id="1")

    assert named(inventory) == {"GPU-A": "gpu-0", "GPU-B": "gpu-1"}


def test_a_gpu_that_does_not_tell_its_uuid_takes_no_name_from_one_that_did():
    _, names = settle(Names(), node(("GPU-A", 0), ("GPU-B", 1)), boot_id="1")

    inventory, names = settle(names, node(("GPU-A", 0), ("unknown-0000:1c:00.0", 1)), boot_id="1")
    assert named(inventory) == {"GPU-A": "gpu-0", "unknown-0000:1c:00.0": "gpu-2"}

    inventory, names = settle(names, node(("GPU-A", 0), ("unknown-0000:1c:00.0", 1)), boot_id="2")
    assert named(inventory) == {"GPU-A": "gpu-0", "unknown-0000:1c:00.0": "gpu-1"}
    inventory, _ = settle(names, node(("GPU-B", 0), ("GPU-A", 1)), boot_id="2")
    assert named(inventory) == {"GPU-A": "gpu-0", "GPU-B": "gpu-1"}
