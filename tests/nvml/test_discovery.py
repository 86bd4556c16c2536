"""What is told of GPUs: all that is known of each, and no odd one takes the others with it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.model import Cause, Cleared, Event, Fault, MigMode
from driver.inventory.slices import build_slices
from tests.nvml.standin import SYMBOLS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from driver.hardware.nvml import NvmlBackend
    from tests.nvml.conftest import Build, Open
    from tests.nvml.standin import World

LOST = Fault(cause=Cause.GPU_LOST)
NO_ANSWER = Fault(cause=Cause.INCOMPLETE, detail="no-answer")


def faults(events: Iterable[Event]) -> dict[str, frozenset[Fault]]:
    """What is wrong with which GPU, by what is reported of each at first."""
    return {event.gpu_uuid: event.remaining for event in events if isinstance(event, Cleared)}


def published(backend: NvmlBackend) -> dict[str, dict[str, Any]]:
    """Attributes by device name, as slices have them."""
    slices = build_slices(backend.inventory(), {}, driver_name="gpu.nvidia.com")
    return {device["name"]: device["attributes"] for spec in slices for device in spec["devices"]}


def test_a_gpu_is_read(machine: World, open_nvml: Open) -> None:
    machine.set(driver="535.104.05")
    uuid = machine.add(minor=7, addressing=1)

    inventory = open_nvml(machine).inventory()

    (found,) = inventory.gpus
    assert (inventory.driver_version, inventory.cuda_version) == ("535.104.05", "12.8")
    assert (found.name, found.uuid, found.index, found.minor) == ("gpu-7", uuid, 0, 7)
    assert (found.brand, found.architecture, found.compute_capability) == ("Nvidia", "Hopper", "9.0")
    assert (found.pci_bus_id, found.pcie_root, found.numa_node) == ("0000:1b:00.0", "pci0000:10", 0)
    assert (found.memory_bytes, found.addressing_mode, found.mig_mode) == (81559 << 20, "HMM", MigMode.DISABLED)


def test_versions_are_published_as_semver(machine: World, open_nvml: Open) -> None:
    machine.set(driver="535.104.05")
    machine.add()

    attributes = published(open_nvml(machine))["gpu-0"]

    assert attributes["driverVersion"] == {"version": "535.104.5"}
    assert attributes["cudaDriverVersion"] == {"version": "12.8.0"}


@pytest.mark.parametrize("code", [3, 4, 6, 10, 13, 25, 999, 12345])
@pytest.mark.parametrize(
    ("query", "field", "unknown"),
    [
        ("nvmlDeviceGetMemoryInfo", "memory_bytes", "no-memory"),
        ("nvmlDeviceGetArchitecture", "architecture", "no-architecture"),
        ("nvmlDeviceGetCudaComputeCapability", "compute_capability", "no-compute-capability"),
        ("nvmlDeviceGetBrand", "brand", None),
    ],
)
def test_a_query_that_fails_leaves_one_field_of_one_gpu_open(
    machine: World, open_nvml: Open, query: str, field: str, unknown: str | None, code: int
) -> None:
    odd, well = machine.add(), machine.add()
    machine.fail(query, code, gpu=0)
    machine.fail("nvmlDeviceGetMemoryInfo_v2", code, gpu=0)
    backend = open_nvml(machine)

    first, second = backend.inventory().gpus

    assert not getattr(first, field)
    assert getattr(second, field)
    told = faults(backend.wait_for_events(0))
    assert told[well] == frozenset()
    never = code in {3, 13, 25}  # this GPU or driver has no such thing, and nothing is wrong with it
    assert {fault.detail for fault in told[odd]} == ({unknown} if unknown and not never else set())


def test_a_gpu_that_shares_the_machine_s_memory_is_well(machine: World, open_nvml: Open) -> None:
    uuid = machine.add(memory=None)
    backend = open_nvml(machine)

    assert backend.inventory().gpus[0].memory_bytes is None
    assert faults(backend.wait_for_events(0))[uuid] == frozenset()


def test_an_architecture_of_tomorrow_is_left_out(machine: World, open_nvml: Open) -> None:
    uuid = machine.add(arch=99)
    backend = open_nvml(machine)

    assert backend.inventory().gpus[0].architecture is None
    assert faults(backend.wait_for_events(0))[uuid] == frozenset()


def test_a_name_that_is_no_text_is_left_out(machine: World, open_nvml: Open) -> None:
    machine.add(name="\udcff\udcfe")

    assert open_nvml(machine).inventory().gpus[0].product_name == "NVIDIA H100-SXM5-80GB"  # the kernel's word


OLD = {
    "nvmlInitWithFlags",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetGpuInstanceProfileInfoV",
    "nvmlGpuInstanceGetComputeInstanceProfileInfoV",
    "nvmlDeviceGetGpuInstancePossiblePlacements_v2",
    "nvmlEventSetWait_v2",
    "nvmlDeviceGetGpuFabricInfoV",
}
"""What an old library lacks, and what another symbol stands in for."""
NEEDED = {"nvmlInitWithFlags", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByUUID"}


def test_an_old_library_is_asked_in_its_own_words(build: Build, open_nvml: Open) -> None:
    machine = build(missing=frozenset(OLD), driver="535.104.05")
    machine.add(fabric="aaaaaaaa-0000-0000-0000-000000000001 7")

    (found,) = open_nvml(machine).inventory().gpus

    assert (found.pci_bus_id, found.fabric_clique) == ("0000:1b:00.0", "aaaaaaaa-0000-0000-0000-000000000001.7")
    assert {p.name: p.starts for p in found.mig_profiles} == {
        "1g.10gb": (0, 1, 2, 3, 4, 5, 6),
        "1g.10gb+me": (0, 1, 2, 3, 4, 5, 6),
        "1g.20gb": (0, 2, 4, 6),
        "2g.20gb": (0, 2, 4),
        "3g.40gb": (0, 4),
        "4g.40gb": (0,),
        "7g.80gb": (0,),
    }


def test_a_library_with_hardly_any_symbol_still_shows_the_gpus(build: Build, open_nvml: Open) -> None:
    machine = build(missing=SYMBOLS - NEEDED - {"nvmlShutdown", "nvmlErrorString"})
    first, second = machine.add(), machine.add()
    backend = open_nvml(machine)

    # NVML says no more than how many there are; the kernel knows their names.
    assert {gpu.uuid for gpu in backend.inventory().gpus} == {first, second}
    assert backend.wait_for_events(0)


@pytest.mark.long
@pytest.mark.parametrize("symbol", sorted(SYMBOLS - NEEDED - OLD))
def test_no_single_symbol_is_needed(build: Build, open_nvml: Open, symbol: str) -> None:
    machine = build(missing=frozenset({symbol}))
    uuid = machine.add()
    backend = open_nvml(machine)

    assert [gpu.uuid for gpu in backend.inventory().gpus] == [uuid]
    backend.wait_for_events(0)
    backend.wait_for_events(0)


def test_a_gpu_that_is_lost_at_the_start_is_known_by_the_kernel_s_word(machine: World, open_nvml: Open) -> None:
    lost, well = machine.add(minor=3), machine.add(minor=2)
    machine.set({"gpu.0.lost": 1})
    backend = open_nvml(machine)

    first, second = backend.inventory().gpus

    assert (first.uuid, first.name, first.minor, first.pci_bus_id) == (lost, "gpu-3", 3, "0000:1b:00.0")
    assert (first.product_name, first.pcie_root, first.memory_bytes) == ("NVIDIA H100-SXM5-80GB", "pci0000:10", None)
    assert (second.uuid, second.memory_bytes) == (well, 81559 << 20)
    assert faults(backend.wait_for_events(0)) == {lost: {LOST}, well: frozenset()}


def test_a_gpu_that_nobody_knows_anything_of_is_shown_all_the_same(machine: World, open_nvml: Open) -> None:
    machine.add()
    well = machine.add()
    machine.fail("nvmlDeviceGetHandleByIndex_v2", 999, gpu=0)
    shutil.rmtree(machine.proc)
    backend = open_nvml(machine)

    attributes = published(backend)

    assert attributes["gpu-0"] == {
        "type": {"string": "gpu"},
        "index": {"int": 0},
        "driverVersion": {"version": "570.124.6"},
        "cudaDriverVersion": {"version": "12.8.0"},
    }
    assert attributes["gpu-1"]["uuid"] == {"string": well}
    assert NO_ANSWER in {fault for found in faults(backend.wait_for_events(0)).values() for fault in found}


def test_a_gpu_that_nvml_does_not_list_is_lost(machine: World, open_nvml: Open) -> None:
    well, gone = machine.add(), machine.add()
    machine.forget(1)
    backend = open_nvml(machine)

    assert [(gpu.uuid, gpu.name, gpu.index) for gpu in backend.inventory().gpus] == [
        (well, "gpu-0", 0),
        (gone, "gpu-1", -1),
    ]
    assert faults(backend.wait_for_events(0)) == {well: frozenset(), gone: {LOST}}
    assert "index" not in published(backend)["gpu-1"]


def test_a_gpu_that_an_administrator_keeps_from_the_driver_is_no_loss(machine: World, open_nvml: Open) -> None:
    machine.add()
    machine.kernel("0000:3b:00.0", uuid="GPU-????????-????-????-????-????????????", minor=9, name="x", excluded=True)

    assert [gpu.name for gpu in open_nvml(machine).inventory().gpus] == ["gpu-0"]


def test_a_gpu_that_is_lost_later_stays_as_it_was(machine: World, open_nvml: Open) -> None:
    machine.add()
    machine.add()
    backend = open_nvml(machine)
    before = backend.inventory()

    machine.set({"gpu.0.lost": 1})

    assert backend.inventory() == before


def test_a_query_that_fails_for_a_moment_changes_no_device(machine: World, open_nvml: Open) -> None:
    machine.add()
    backend = open_nvml(machine)
    before = backend.inventory()

    for query in (
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetName",
        "nvmlDeviceGetMinorNumber",
        "nvmlSystemGetDriverVersion",
        "nvmlSystemGetCudaDriverVersion",
        "nvmlSystemGetCudaDriverVersion_v2",
    ):
        machine.fail(query, 999)

    assert backend.inventory() == before


@pytest.mark.parametrize("known", [True, False])
def test_a_minor_that_nvml_does_not_tell_is_never_guessed(machine: World, open_nvml: Open, known: bool) -> None:
    machine.add(minor=1)
    machine.add(minor=0)
    machine.fail("nvmlDeviceGetMinorNumber", 3, gpu=0)
    if not known:
        shutil.rmtree(machine.proc)
    backend = open_nvml(machine)

    first, second = backend.inventory().gpus

    assert second.name == "gpu-0"
    if known:
        assert (first.minor, first.name) == (1, "gpu-1")
    else:
        assert first.minor is None
        assert first.name not in {"gpu-0", "gpu-1"}  # its index is the other one's minor
        with pytest.raises(BackendError, match="cannot be given to a container"):
            backend.device_edits(first)


def test_a_kernel_that_knows_no_numa_node_says_minus_one(machine: World, open_nvml: Open) -> None:
    machine.add()
    (machine.sysfs / "bus/pci/devices/0000:1b:00.0/numa_node").write_text("-1\n")

    assert open_nvml(machine).inventory().gpus[0].numa_node is None


SOCKETS = {0: "0-15,64-79", 1: "16-31", 2: "32-47", 3: "48-63", 4: ""}
"""Processors of NUMA nodes: two sockets with two nodes each, and memory without processors."""


@pytest.mark.parametrize(
    ("distances", "near"),
    [
        pytest.param("10 12 32 32 32", (1,), id="the other node of the socket"),
        pytest.param("10 32 32 32 12", (), id="memory is of no socket"),
        pytest.param("10 32 12 32 32", (), id="another socket is no nearer"),
        pytest.param("10 20 20 20 20", (1,), id="all equally far"),
        pytest.param("10 12", (), id="not of these nodes"),
        pytest.param("ten", (), id="no numbers"),
        pytest.param(None, (), id="nothing"),
    ],
)
def test_the_nearest_numa_nodes_of_the_same_socket_are_told(
    distances: str | None, near: tuple[int, ...], machine: World, open_nvml: Open
) -> None:
    machine.add()
    for node, processors in SOCKETS.items():
        place = machine.sysfs / f"devices/system/node/node{node}"
        place.mkdir(parents=True)
        (place / "cpulist").write_text(f"{processors}\n")
        if distances is not None:
            (place / "distance").write_text(f"{distances}\n")
    for socket, first in ((0, 0), (0, 16), (1, 32), (1, 48)):
        topology = machine.sysfs / f"devices/system/cpu/cpu{first}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{socket}\n")

    found = open_nvml(machine).inventory().gpus[0]

    assert (found.numa_node, found.near_nodes) == (0, near)


def test_the_fabric_of_a_gpu_that_is_not_ready_yet_is_not_told(machine: World, open_nvml: Open) -> None:
    machine.add(fabric="aaaaaaaa-0000-0000-0000-000000000001 7 2")
    machine.add(fabric="00000000-0000-0000-0000-000000000000 0 3")
    machine.add(fabric="aaaaaaaa-0000-0000-0000-000000000001 4294967294 3")

    cliques = [gpu.fabric_clique for gpu in open_nvml(machine).inventory().gpus]

    assert cliques == [None, None, "aaaaaaaa-0000-0000-0000-000000000001.4294967294"]


def test_peers_over_nvlink_are_found_by_their_place(machine: World, open_nvml: Open) -> None:
    first = machine.add(**{"nvlink.0": "0 0000:1c:00.0", "nvlink.1": "0 0000:1c:00.0"})
    second = machine.add(**{"nvlink.0": "0 0000:1b:00.0"})
    machine.add()

    assert [gpu.nvlink_peers for gpu in open_nvml(machine).inventory().gpus] == [(second,), (first,), ()]


def test_gpus_on_switches_reach_each_other(machine: World, open_nvml: Open) -> None:
    uuids = [machine.add(**{"nvlink.0": "2 0000:c0:00.0"}) for _ in range(3)]

    peers = [gpu.nvlink_peers for gpu in open_nvml(machine).inventory().gpus]

    assert peers == [tuple(other for other in uuids if other != uuid) for uuid in uuids]


@pytest.mark.parametrize("links", ["2 0000:c0:00.0", "0 0000:{other}:00.0"], ids=["switch", "bridge"])
def test_a_gpu_that_is_cut_keeps_its_peers_although_its_links_are_off(
    links: str, machine: World, open_nvml: Open
) -> None:
    uuids = [machine.add(**{"nvlink.0": links.format(other=other)}) for other in ("1c", "1b")]
    backend = open_nvml(machine)
    before = [gpu.nvlink_peers for gpu in backend.inventory().gpus]

    machine.set({"gpu.0.mig": 1, "gpu.0.nvlink.0": None, "gpu.1.nvlink.0": None})

    assert before == [(uuids[1],), (uuids[0],)]
    assert [gpu.nvlink_peers for gpu in backend.inventory().gpus] == before


def test_a_machine_without_gpus_has_none(machine: World, open_nvml: Open) -> None:
    assert open_nvml(machine).inventory().gpus == ()


def test_a_driver_that_cannot_count_is_said_in_one_line(machine: World, open_nvml: Open) -> None:
    machine.fail("nvmlDeviceGetCount_v2", 999)

    with pytest.raises(BackendError, match=r"NVML cannot count the GPUs.*nvidia-smi.*: NVML: "):
        open_nvml(machine).inventory()
