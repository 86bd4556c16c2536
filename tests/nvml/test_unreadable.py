"""A GPU that cannot be read is one device all the same: whoever tells of it, in whatever order, and however spelt."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.model import Cause, Cleared, Event, Fault, Inventory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.nvml.conftest import Open
    from tests.nvml.standin import World

LOST = Fault(cause=Cause.GPU_LOST)
NO_ANSWER = Fault(cause=Cause.INCOMPLETE, detail="no-answer")
NOBODY_KNOWS = "GPU-????????-????-????-????-????????????"
UNREADABLE = [{"gpu.1.lost": 1}, {"fail.nvmlDeviceGetHandleByIndex_v2.1": "999:1"}]
MIDDLE = "0000:1c:00.0"


@pytest.fixture
def uuids(machine: World) -> list[str]:
    """Three GPUs."""
    return [machine.add() for _ in range(3)]


def identities(inventory: Inventory) -> dict[str, str]:
    return {gpu.name: gpu.uuid for gpu in inventory.gpus}


def named(uuids: list[str]) -> dict[str, str]:
    return {f"gpu-{number}": uuid for number, uuid in enumerate(uuids)}


def ill(events: Iterable[Event]) -> dict[str, frozenset[Fault]]:
    return {event.gpu_uuid: event.remaining for event in events if isinstance(event, Cleared) and event.remaining}


@pytest.mark.parametrize("how", UNREADABLE)
def test_before_the_start(machine: World, open_nvml: Open, uuids: list[str], how: dict[str, object]) -> None:
    machine.set(how)
    three = named(uuids)

    for _ in range(2):  # again after a restart
        backend = open_nvml(machine)
        for _ in range(3):
            assert identities(backend.inventory()) == three
        assert list(ill(backend.wait_for_events(0))) == [uuids[1]]
        assert identities(backend.inventory()) == three


@pytest.mark.parametrize("how", UNREADABLE)
@pytest.mark.parametrize("telling", ["uuid", "no uuid", "nothing"])
def test_from_then_on_and_until_it_answers_again(
    machine: World, open_nvml: Open, uuids: list[str], how: dict[str, object], telling: str
) -> None:
    backend = open_nvml(machine)
    three = identities(backend.inventory())
    if telling == "no uuid":
        machine.kernel(MIDDLE, uuid=NOBODY_KNOWS, minor=1, name="Unknown")
    elif telling == "nothing":
        shutil.rmtree(machine.proc)

    machine.set(how)
    assert [identities(backend.inventory()) for _ in range(3)] == [three] * 3
    machine.set(generation=1)  # indexes of a former session count no more
    with pytest.raises(BackendError):
        backend.inventory()
    assert [set(identities(backend.inventory()).values()) for _ in range(2)] == [set(uuids)] * 2  # nor do minors
    machine.set(dict.fromkeys(how))
    assert [identities(backend.inventory()) for _ in range(2)] == [three] * 2


@pytest.mark.parametrize("how", UNREADABLE)
@pytest.mark.parametrize("kernel", [True, False])
def test_of_which_nobody_knows_the_name_until_it_tells(
    machine: World, open_nvml: Open, uuids: list[str], how: dict[str, object], kernel: bool
) -> None:
    machine.kernel(MIDDLE, uuid=NOBODY_KNOWS, minor=1, name="Unknown")
    if not kernel:
        shutil.rmtree(machine.proc)
    machine.set(how)
    backend = open_nvml(machine)
    before = [identities(backend.inventory()) for _ in range(3)]

    machine.set(dict.fromkeys(how))

    assert before == [before[0]] * 3
    assert len(before[0]) == 3
    assert [identities(backend.inventory()) for _ in range(2)] == [named(uuids)] * 2


def test_that_forgets_its_name_is_still_the_one_in_its_place(machine: World, open_nvml: Open, uuids: list[str]) -> None:
    backend = open_nvml(machine)
    three = identities(backend.inventory())
    machine.kernel(MIDDLE, uuid=NOBODY_KNOWS, minor=1, name="Unknown")

    machine.fail("nvmlDeviceGetUUID", 999, gpu=1)

    assert [identities(backend.inventory()) for _ in range(2)] == [three] * 2


def test_two_at_once(machine: World, open_nvml: Open, uuids: list[str]) -> None:
    machine.set({"gpu.0.lost": 1, "gpu.2.lost": 1})
    backend = open_nvml(machine)

    assert [identities(backend.inventory()) for _ in range(3)] == [named(uuids)] * 3
    assert set(ill(backend.wait_for_events(0))) == {uuids[0], uuids[2]}


def test_another_card_in_the_place_of_one_is_another_gpu(machine: World, open_nvml: Open, uuids: list[str]) -> None:
    machine.set({"gpu.1.lost": 1})
    backend = open_nvml(machine)
    backend.inventory()
    other = "GPU-99999999-0000-4000-8000-000000000001"

    machine.kernel(MIDDLE, uuid=other, minor=1, name="NVIDIA L4")

    assert [identities(backend.inventory()) for _ in range(2)] == [
        {"gpu-0": uuids[0], "gpu-1": other, "gpu-2": uuids[2]}
    ] * 2


@pytest.mark.parametrize(
    ("nvml", "procfs", "sysfs"),
    [
        ("0000:1b:00.0", "00000000:1b:00.0", "0000:1b:00.0"),
        ("10000:1b:00.0", "10000:1b:00.0", "10000:1b:00.0"),
        ("10000:1b:00.0", "0000:1b:00.0", "10000:1b:00.0"),
        ("10000:1b:00.0", "0000:1b:00.0", "0000:1b:00.0"),
        ("0000:1b:00.0", "10000:1b:00.0", "10000:1b:00.0"),
        ("0000:1b:00.0", "00010000:1B:00.0", None),
    ],
)
def test_however_its_address_is_spelt(
    machine: World, open_nvml: Open, nvml: str, procfs: str, sysfs: str | None
) -> None:
    uuid = machine.add(bus=nvml)
    machine.add()
    machine.respell("0000:1b:00.0", procfs=procfs, sysfs=sysfs)
    backend = open_nvml(machine)
    (well,) = (gpu for gpu in backend.inventory().gpus if gpu.uuid == uuid)
    assert (well.pcie_root, well.numa_node) == ((None, None) if sysfs is None else ("pci0000:10", 0))

    machine.set({"gpu.0.lost": 1})

    assert well in backend.inventory().gpus
    (lost,) = (gpu for gpu in open_nvml(machine).inventory().gpus if gpu.uuid == uuid)
    assert (lost.pci_bus_id, lost.pcie_root, lost.numa_node) == (well.pci_bus_id, well.pcie_root, well.numa_node)
    assert (lost.minor, lost.product_name) == (well.minor, well.product_name)
