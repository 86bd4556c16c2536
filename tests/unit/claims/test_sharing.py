"""How claims share devices: what is set up, what goes together, what is refused and in which words."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driver.claims.allocation import ClaimRef, read_allocation
from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.codec import DamagedRecordError, decode, encode
from driver.claims.ledger.record import PreparedDevice, Record, State
from driver.claims.plan import plan_devices
from driver.claims.sharing import daemons_of
from driver.claims.terms import Terms
from driver.hardware.backend import BackendError
from driver.hardware.fake.fault import inject
from driver.hardware.open import open_backend
from driver.hardware.process_sharing import ComputeMode, MpsDaemon, TimeSlice
from driver.inventory.catalogue import Device, catalogue
from driver.inventory.options import DeviceOptions, Options, Partitioning, ShareBy, Shares
from tests.eventually import PATIENCE, eventually

from .conftest import DRIVER, POOL, ClaimApi, Node, claim, gpu, result

BOOT = "boot-1"
MIG = "gpu-0-mig-1g10gb-19-0"
GIB = 1 << 30


def parameters(strategy: str, *, kind: str = "GpuConfig", **config: Any) -> dict[str, Any]:
    key = "mpsConfig" if strategy == "MPS" else "timeSlicingConfig"
    sharing = {"strategy": strategy, **({key: config} if config else {})}
    return {"apiVersion": "resource.nvidia.com/v1beta1", "kind": kind, "sharing": sharing}


def config(*args: Any, source: str = "FromClaim", requests: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    opaque = {"driver": DRIVER, "parameters": parameters(*args, **more)}
    return {"source": source, "requests": list(requests), "opaque": opaque}


def share(number: int, *, device: str = "gpu-0", **consumed: str) -> dict[str, Any]:
    return result(device, shareID=f"s-{number}", consumedCapacity=consumed)


# What a claim comes to


def planned(
    *results: dict[str, Any],
    config: Any = (),
    shares: Shares | None = None,
    capability: str | None = "9.0",
    **more: Any,
) -> tuple[PreparedDevice, ...]:
    obj = claim(*results, uid="uid-1", config=list(config))
    allocation = read_allocation(obj, ref=ClaimRef("default", "claim", "uid-1"), driver=DRIVER)
    devices = {
        f"gpu-{minor}": Device(
            name=f"gpu-{minor}",
            gpu=replace(gpu(minor), memory_bytes=80 * GIB, compute_capability=capability),
            shares=shares or Shares(),
        )
        for minor in range(4)
    }
    return plan_devices(allocation, devices=devices, terms=Terms(driver=DRIVER, pool=POOL, **more))


def the_record(*devices: PreparedDevice) -> Record:
    return Record(
        claim=ClaimRef("default", "claim", "uid-1"),
        allocation="f",
        boot_id=BOOT,
        driver=DRIVER,
        state=State.PREPARED,
        devices=devices,
        prepared_at="now",
    )


def test_without_parameters_nothing_is_said_about_sharing() -> None:
    [device] = planned(result("gpu-0"))

    assert device.sharing is None


@pytest.mark.parametrize("given", [{}, {"interval": "Default"}])
def test_the_default_interval_leaves_a_gpu_as_it_is(given: dict[str, Any]) -> None:
    [device] = planned(result("gpu-0"), config=[config("TimeSlicing", **given)])

    assert device.sharing is None


def test_one_daemon_serves_all_gpus_of_a_claim_with_a_limit_for_each() -> None:
    devices = planned(
        result("gpu-0"),
        result("gpu-2", request="more"),
        config=[
            config(
                "MPS",
                defaultActiveThreadPercentage=40,
                defaultPinnedDeviceMemoryLimit="10Gi",
                defaultPerDevicePinnedMemoryLimit={"1": "2Gi"},
            )
        ],
    )

    [daemon] = daemons_of(the_record(*devices), lambda _: ())
    assert daemon.id == "claim-uid-1"
    assert daemon.devices == ("GPU-0", "GPU-2")
    assert daemon.memory_mib == (10 * 1024, 2 * 1024)
    assert daemon.thread_percentage == 40


def test_requests_with_different_parameters_have_daemons_of_their_own() -> None:
    devices = planned(
        result("gpu-0", request="a"),
        result("gpu-1", request="b"),
        config=[config("MPS", requests=("a",)), config("MPS", requests=("b",), defaultActiveThreadPercentage=10)],
    )

    assert [daemon.devices for daemon in daemons_of(the_record(*devices), lambda _: ())] == [("GPU-0",), ("GPU-1",)]


def test_a_limit_by_uuid_is_for_that_gpu() -> None:
    devices = planned(
        result("gpu-0"),
        result("gpu-1"),
        config=[config("MPS", defaultPerDevicePinnedMemoryLimit={"GPU-1": "3Gi"})],
    )

    assert [device.sharing and device.sharing.memory_mib for device in devices] == [None, 3 * 1024]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"1": "1Gi"}, "names '1', which is no device that it is for: 0 or GPU-0 is accepted"),
        ({"GPU-3": "1Gi"}, "names 'GPU-3'"),
        ({"": "1Gi"}, "names ''"),
        ({"0": "1Gi", "GPU-0": "2Gi"}, "names GPU-0 twice, by UUID and by index"),
    ],
)
def test_limits_for_other_devices_are_refused_with_what_is_accepted(limits: dict[str, str], words: str) -> None:
    with pytest.raises(ClaimError) as failure:
        planned(result("gpu-0"), config=[config("MPS", defaultPerDevicePinnedMemoryLimit=limits)])

    assert failure.value.reason is Reason.CONFIG
    assert words in str(failure.value)


@pytest.mark.parametrize(
    ("mode", "count", "consumed", "memory", "threads"),
    [
        (ShareBy.MEMORY, None, {"memory": "20Gi"}, 20 * 1024, 25),
        (ShareBy.COUNT, 4, {"memory": "10Gi", "shares": "2"}, 10 * 1024, 50),
        (ShareBy.COUNT, 3, {"shares": "1"}, None, 33),
        (ShareBy.UNLIMITED, None, {"memory": "0"}, None, None),
        (ShareBy.MEMORY, None, {"memory": "1Mi"}, 1, 1),
    ],
)
def test_a_share_is_held_to_what_it_consumes(
    mode: ShareBy, count: int | None, consumed: dict[str, str], memory: int | None, threads: int | None
) -> None:
    [device] = planned(share(1, **consumed), shares=Shares(mode=mode, count=count), enforce_shares=True)

    assert device.sharing is not None
    assert (device.sharing.memory_mib, device.sharing.thread_percentage) == (memory, threads)


def test_shares_are_not_enforced_unless_the_node_or_a_class_says_so() -> None:
    [device] = planned(share(1, memory="20Gi"), shares=Shares(mode=ShareBy.MEMORY))

    assert device.sharing is None


def test_a_claim_lowers_its_own_limits_and_never_raises_them() -> None:
    by_class = config("MPS", source="FromClass")
    lower = config("MPS", defaultPinnedDeviceMemoryLimit="1Gi", defaultActiveThreadPercentage=100)

    [device] = planned(share(1, memory="20Gi"), config=[by_class, lower], shares=Shares(mode=ShareBy.MEMORY))

    assert device.sharing is not None
    assert (device.sharing.memory_mib, device.sharing.thread_percentage) == (1024, 25)


@pytest.mark.parametrize(
    "asked",
    [
        config("MPS"),
        config("TimeSlicing", interval="Long"),
    ],
)
def test_a_claim_with_a_share_cannot_change_the_device_for_the_others(asked: dict[str, Any]) -> None:
    with pytest.raises(ClaimError) as failure:
        planned(share(1), config=[asked], shares=Shares(mode=ShareBy.UNLIMITED))

    assert failure.value.reason is Reason.CONFIG
    assert "come from the DeviceClass or the node's settings. Here they say: TimeSlicing" in str(failure.value)


def test_a_claim_with_a_share_cannot_leave_what_its_class_says() -> None:
    with pytest.raises(ClaimError):
        planned(share(1), config=[config("MPS", source="FromClass"), config("TimeSlicing")])


def test_what_a_class_says_for_shares_counts_more_than_the_nodes_setting() -> None:
    by_class = config("TimeSlicing", source="FromClass", interval="Short")

    [device] = planned(share(1), config=[by_class], enforce_shares=True)

    assert device.sharing is not None
    assert device.sharing.interval is TimeSlice.SHORT


def test_a_container_talks_to_one_daemon_only() -> None:
    with pytest.raises(ClaimError) as failure:
        planned(share(1), share(2, device="gpu-1"), enforce_shares=True)

    assert "different MPS daemons serve" in str(failure.value)


def test_a_gpu_that_is_too_old_for_limits_is_refused() -> None:
    with pytest.raises(ClaimError) as failure:
        planned(result("gpu-0"), config=[config("MPS")], capability="6.1")

    assert "compute capability 6.1" in str(failure.value)


def test_admin_access_shares_nothing_and_changes_nothing() -> None:
    [device] = planned(result("gpu-0", adminAccess=True), config=[config("MPS")], enforce_shares=True)

    assert device.sharing is None


def test_a_record_tells_how_its_devices_are_shared() -> None:
    devices = planned(result("gpu-0"), config=[config("MPS", multiUser=True, defaultPinnedDeviceMemoryLimit="1Gi")])
    record = the_record(*devices)
    assert devices[0].sharing is not None
    record = replace(
        record, devices=(replace(devices[0], sharing=replace(devices[0].sharing, mode_before=ComputeMode.DEFAULT)),)
    )

    assert decode(encode(record), uid="uid-1") == record


@pytest.mark.parametrize("daemon", ["../../etc", "", "a/b", ".", "x" * 200, 5])
def test_a_record_with_a_daemon_that_is_no_name_is_damaged(daemon: Any) -> None:
    raw = json.loads(encode(the_record(*planned(result("gpu-0"), config=[config("MPS")]))))
    raw["devices"][0]["sharing"]["daemon"] = daemon

    with pytest.raises(DamagedRecordError):
        decode(json.dumps(raw).encode(), uid="uid-1")


# What happens on a node


class SharedNode(Node):
    """A node with fake GPUs of which claims have shares."""

    def __init__(self, root: Path, api: ClaimApi, *, boot_id: str = BOOT, **more: Any) -> None:
        self.events: list[tuple[str, str]] = []
        super().__init__(root, api, boot_id=boot_id, **more)
        self.hardware: Any = open_backend("fake:h100x8", root / "plugin", boot_id=boot_id)
        options = Options(
            default=DeviceOptions(partitioning=Partitioning.DYNAMIC, shares=Shares(mode=ShareBy.UNLIMITED))
        )
        inventory = self.hardware.inventory()
        self.devices = {device.name: device for device in catalogue(inventory, options)}
        self.gpu_uuid = inventory.gpus[0].uuid
        self.root = root

    async def known(self) -> Any:
        return self.hardware, self.devices

    def warn(self, reason: str, message: str) -> None:
        self.events.append((reason, message))

    def set_up(self) -> tuple[ComputeMode, TimeSlice, list[str]]:
        state = self.hardware._state
        return (
            self.hardware.compute_mode(self.gpu_uuid),
            self.hardware.time_slice(self.gpu_uuid),
            [f"{name} {daemon.memory_mib}" for name, daemon in sorted(state.mps.items())],
        )

    def spec(self, obj: dict[str, Any]) -> dict[str, Any]:
        [device] = json.loads(self.specs.path(obj["metadata"]["uid"]).read_text())["devices"]
        return dict(device["containerEdits"])

    def record_of(self, obj: dict[str, Any]) -> Any:
        return self.records.read(obj["metadata"]["uid"])

    async def put(self, record: Record) -> None:
        async with self.records.exclusive() as changes:
            changes.put(record)

    def fail(self, calls: int) -> None:
        inject(self.root / "plugin", boot_id=BOOT, device="gpu-0", fail_next=calls)


AS_BEFORE = (ComputeMode.DEFAULT, TimeSlice.DEFAULT, [])
LONG = [config("TimeSlicing", interval="Long")]
LONG_BY_CLASS = [config("TimeSlicing", interval="Long", source="FromClass")]
SHORT_BY_CLASS = [config("TimeSlicing", interval="Short", source="FromClass")]
MPS_BY_CLASS = [config("MPS", source="FromClass"), config("MPS", kind="MigDeviceConfig", source="FromClass")]


@pytest.fixture
async def node(tmp_path: Path, api: ClaimApi) -> SharedNode:
    node = SharedNode(tmp_path, api)
    await node.start()
    return node


async def test_an_interval_is_set_for_a_claim_and_taken_back_at_its_end(node: SharedNode, allocated: Any) -> None:
    obj = allocated(result("gpu-0"), config=LONG)

    await node.prepare(obj)
    during = node.set_up()
    await node.unprepare(obj)

    assert during == (ComputeMode.DEFAULT, TimeSlice.LONG, [])
    assert node.set_up() == AS_BEFORE
    assert node.record_of(obj) is None


async def test_what_an_administrator_had_set_comes_back(node: SharedNode, allocated: Any) -> None:
    node.hardware.set_time_slice(node.gpu_uuid, TimeSlice.MEDIUM)
    node.hardware.set_compute_mode(node.gpu_uuid, ComputeMode.EXCLUSIVE_THREAD)
    slicing = allocated(result("gpu-0"), config=LONG)
    await node.prepare(slicing)
    await node.unprepare(slicing)
    mps = allocated(result("gpu-0"), config=[config("MPS")], name="mps")

    await node.prepare(mps)
    await node.unprepare(mps)

    assert node.set_up() == (ComputeMode.EXCLUSIVE_THREAD, TimeSlice.MEDIUM, [])


async def test_what_an_administrator_sets_meanwhile_stays(node: SharedNode, allocated: Any) -> None:
    obj = allocated(result("gpu-0"), config=[config("MPS")])
    await node.prepare(obj)
    node.hardware.set_compute_mode(node.gpu_uuid, ComputeMode.PROHIBITED)

    await node.unprepare(obj)

    assert node.set_up()[0] is ComputeMode.PROHIBITED


async def test_mps_is_set_up_for_a_claim_and_its_containers_find_it(node: SharedNode, allocated: Any) -> None:
    obj = allocated(result("gpu-0"), config=[config("MPS", defaultPinnedDeviceMemoryLimit="10Gi")])

    await node.prepare(obj)

    uid = obj["metadata"]["uid"]
    assert node.set_up() == (ComputeMode.EXCLUSIVE_PROCESS, TimeSlice.DEFAULT, [f"claim-{uid} (10240,)"])
    edits = node.spec(obj)
    assert "CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps" in edits["env"]
    targets = {mount["containerPath"]: Path(mount["hostPath"]) for mount in edits["mounts"]}
    assert set(targets) == {"/tmp/nvidia-mps", "/dev/shm"}
    assert all(path.is_dir() for path in targets.values())


async def test_the_end_of_a_claim_leaves_no_daemon_and_no_directory(node: SharedNode, allocated: Any) -> None:
    obj = allocated(result("gpu-0"), config=[config("MPS")])
    await node.prepare(obj)

    await node.unprepare(obj)

    assert node.set_up() == AS_BEFORE
    assert list((node.root / "plugin" / "mps").iterdir()) == []


async def test_shares_have_one_daemon_and_limits_of_their_own(tmp_path: Path, api: ClaimApi, allocated: Any) -> None:
    node = SharedNode(tmp_path, api, enforce_shares=True)
    await node.start()
    small, big = (
        allocated(share(1, memory="5Gi"), name="small"),
        allocated(share(2, memory="20Gi"), name="big"),
    )

    await node.prepare(small)
    await node.prepare(big)

    assert node.set_up() == (ComputeMode.EXCLUSIVE_PROCESS, TimeSlice.DEFAULT, ["device-gpu-0 (20480,)"])
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=5120M" in node.spec(small)["env"]
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=20480M" in node.spec(big)["env"]
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25" in node.spec(big)["env"]
    await node.unprepare(small)
    assert node.set_up()[2] == ["device-gpu-0 (20480,)"]
    await node.unprepare(big)
    assert node.set_up() == AS_BEFORE


async def test_mps_on_a_partition_leaves_the_gpus_mode_alone(node: SharedNode, allocated: Any) -> None:
    obj = allocated(result(MIG), config=[config("MPS", kind="MigDeviceConfig")])

    await node.prepare(obj)

    [partition] = node.hardware.partitions(node.gpu_uuid)
    [daemon] = node.hardware._state.mps.values()
    assert daemon.devices == (partition.uuid,)
    assert node.set_up()[0] is ComputeMode.DEFAULT
    await node.unprepare(obj)
    assert node.set_up() == AS_BEFORE
    assert node.hardware.partitions(node.gpu_uuid) == ()


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (MPS_BY_CLASS, [], "is shared by MPS for several users, because claim default/first"),
        ([], MPS_BY_CLASS, "is shared by time slicing as it is, because claim default/first"),
        (MPS_BY_CLASS, LONG_BY_CLASS, "would share it by time slicing with interval Long"),
        (LONG_BY_CLASS, SHORT_BY_CLASS, "is shared by time slicing with interval Long, because claim default/first"),
        (
            MPS_BY_CLASS,
            [config("MPS", source="FromClass", multiUser=False)],
            "would share it by MPS for one user",
        ),
    ],
)
async def test_ways_of_sharing_that_do_not_go_together_are_refused_with_the_holders_name(
    node: SharedNode, allocated: Any, first: Any, second: Any, words: str
) -> None:
    await node.prepare(allocated(share(1), name="first", config=first))
    before = node.set_up()

    error = await node.prepare(allocated(share(2), name="second", config=second))

    assert error.reason is Reason.IN_USE
    assert words in str(error)
    assert node.set_up() == before


async def test_a_share_that_says_nothing_goes_with_any_interval(node: SharedNode, allocated: Any) -> None:
    long, plain = allocated(share(1), name="long", config=LONG_BY_CLASS), allocated(share(2), name="plain")
    await node.prepare(long)

    devices = await node.prepare(plain)
    await node.unprepare(long)

    assert devices[0].share_id == "s-2"
    assert node.set_up() == AS_BEFORE  # nobody is left who asked for it


async def test_the_last_share_restores_what_was_before_the_first(node: SharedNode, allocated: Any) -> None:
    node.hardware.set_time_slice(node.gpu_uuid, TimeSlice.SHORT)
    first, second = (allocated(share(n), name=f"c{n}", config=LONG_BY_CLASS) for n in (1, 2))
    await node.prepare(first)
    await node.prepare(second)

    await node.unprepare(first)
    between = node.set_up()
    await node.unprepare(second)

    assert between[1] is TimeSlice.LONG
    assert node.set_up()[1] is TimeSlice.SHORT


async def test_what_was_before_is_on_disk_before_it_changes(node: SharedNode, allocated: Any) -> None:
    node.hardware.set_time_slice(node.gpu_uuid, TimeSlice.SHORT)
    obj = allocated(result("gpu-0"), config=LONG)
    seen: list[Any] = []
    change = node.hardware.set_time_slice
    node.hardware.set_time_slice = lambda *arguments: (seen.append(node.record_of(obj)), change(*arguments))

    await node.prepare(obj)

    assert seen[0].state is State.PREPARING
    assert seen[0].devices[0].sharing.interval_before is TimeSlice.SHORT


async def test_a_crash_in_the_middle_is_finished_with_what_was_before_the_first_try(
    node: SharedNode, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    node.hardware.set_time_slice(node.gpu_uuid, TimeSlice.SHORT)
    obj = allocated(result("gpu-0"), config=LONG)
    await node.prepare(obj)
    await node.put(node.record_of(obj).with_state(State.PREPARING))
    restarted = SharedNode(tmp_path, api)
    await restarted.start()

    await restarted.prepare(obj)
    await restarted.unprepare(obj)

    assert restarted.set_up()[1] is TimeSlice.SHORT


@pytest.mark.parametrize("calls", [1, 2])
async def test_hardware_that_refuses_leaves_everything_as_it_was(node: SharedNode, allocated: Any, calls: int) -> None:
    obj = allocated(result("gpu-0"), config=[config("MPS")])
    node.fail(calls)

    error = await node.prepare(obj)
    leftovers = asyncio.create_task(node.engine.undo_leftovers())
    await eventually(lambda: node.record_of(obj) is None)
    leftovers.cancel()

    assert error.reason is Reason.HARDWARE
    assert node.set_up() == AS_BEFORE
    node.fail(0)
    assert (await node.prepare(obj))[0].device == "gpu-0"


async def test_a_pod_ends_although_its_daemon_does_not(node: SharedNode, allocated: Any) -> None:
    obj = allocated(result("gpu-0"), config=[config("MPS")])
    await node.prepare(obj)
    node.fail(1)

    outcome = await node.unprepare(obj)

    assert outcome is None
    assert node.record_of(obj).state is State.UNDOING
    assert node.spec_files() == []


async def test_a_daemon_that_dies_is_started_again_and_an_event_says_so(node: SharedNode, allocated: Any) -> None:
    obj = allocated(result("gpu-0"), config=[config("MPS", defaultPinnedDeviceMemoryLimit="1Gi")])
    await node.prepare(obj)
    before = node.set_up()
    node.hardware.stop_mps(f"claim-{obj['metadata']['uid']}")

    await node.engine._supervisor.check()

    assert node.set_up() == before
    [(reason, message)] = node.events
    assert reason == "MpsDaemonRestarted"
    assert "gpu-0" in message


async def test_a_daemon_that_cannot_be_started_again_is_told_once(node: SharedNode, allocated: Any) -> None:
    obj = allocated(result("gpu-0"), config=[config("MPS")])
    await node.prepare(obj)
    node.hardware.stop_mps(f"claim-{obj['metadata']['uid']}")
    node.fail(2)

    await node.engine._supervisor.check()
    await node.engine._supervisor.check()
    told = [reason for reason, _ in node.events]
    await node.engine._supervisor.check()

    assert told == ["MpsDaemonDown"]
    assert [reason for reason, _ in node.events] == ["MpsDaemonDown", "MpsDaemonRestarted"]


async def test_a_daemon_that_fails_in_the_same_way_again_and_again_is_logged_once(
    node: SharedNode, allocated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    obj = allocated(result("gpu-0"), config=[config("MPS")])
    await node.prepare(obj)
    node.hardware.stop_mps(f"claim-{obj['metadata']['uid']}")

    def refuse(daemon: MpsDaemon) -> None:
        raise BackendError("there is no driver")

    start, node.hardware.start_mps = node.hardware.start_mps, refuse
    for _ in range(5):
        await node.engine._supervisor.check()

    assert caplog.text.count("there is no driver") == 1
    node.hardware.start_mps = start
    await node.engine._supervisor.check()
    assert "was started again" in caplog.text


async def test_another_instance_finds_the_daemon_and_leaves_it(
    node: SharedNode, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    obj = allocated(result("gpu-0"), config=[config("MPS")])
    first = await node.prepare(obj)
    restarted = SharedNode(tmp_path, api)
    await restarted.start()
    before = (tmp_path / "plugin" / "fake-hardware.json").stat().st_ino

    second = await restarted.prepare(obj)
    await restarted.engine._supervisor.check()

    assert second == first
    assert (tmp_path / "plugin" / "fake-hardware.json").stat().st_ino == before
    assert restarted.events == []


async def test_after_a_reboot_the_daemon_is_started_anew(
    node: SharedNode, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    obj = allocated(result("gpu-0"), config=[config("MPS")])
    await node.prepare(obj)
    rebooted = SharedNode(tmp_path, api, boot_id="boot-2")
    await rebooted.start()
    at_first = rebooted.set_up()

    await rebooted.prepare(obj)

    assert at_first == AS_BEFORE
    assert rebooted.set_up()[0] is ComputeMode.EXCLUSIVE_PROCESS


async def test_a_claim_without_parameters_touches_no_sharing(node: SharedNode, allocated: Any) -> None:
    node.hardware.time_slice = node.hardware.compute_mode = node.hardware.start_mps = None

    devices = await node.prepare(allocated(result("gpu-0")))
    outcome = await node.unprepare(allocated(result("gpu-0")))

    assert devices[0].sharing is None
    assert outcome is None


async def test_directories_that_a_reboot_left_are_removed_once_nobody_knows_them(
    node: SharedNode, allocated: Any
) -> None:
    obj = allocated(result("gpu-0"), config=[config("MPS")])
    await node.prepare(obj)
    base = node.root / "plugin" / "mps"
    (base / "claim-of-another-boot" / "pipe").mkdir(parents=True)
    (base / "claim-just-starting").mkdir()
    for old in ("claim-of-another-boot", f"claim-{obj['metadata']['uid']}"):
        os.utime(base / old, (0, 0))

    await node.engine._supervisor.sweep()

    assert {path.name for path in base.iterdir()} == {"claim-just-starting", f"claim-{obj['metadata']['uid']}"}


async def test_a_daemon_that_starts_slowly_does_not_delay_claims_on_other_gpus(
    node: SharedNode, allocated: Any
) -> None:
    start, begun, go = node.hardware.start_mps, threading.Event(), threading.Event()

    def slowly(daemon: MpsDaemon) -> None:
        begun.set()
        go.wait(PATIENCE)
        start(daemon)

    node.hardware.start_mps = slowly
    slow = asyncio.create_task(node.prepare(allocated(result("gpu-0"), config=[config("MPS")], name="slow")))
    await eventually(begun.is_set)

    quick = await node.prepare(allocated(result("gpu-1"), name="quick"))

    assert quick[0].device == "gpu-1"
    assert not slow.done()
    go.set()
    assert (await slow)[0].device == "gpu-0"


async def test_a_claim_that_is_unprepared_while_its_daemon_starts_leaves_none(node: SharedNode, allocated: Any) -> None:
    start, begun, go = node.hardware.start_mps, threading.Event(), threading.Event()

    def slowly(daemon: MpsDaemon) -> None:
        begun.set()
        go.wait(PATIENCE)
        start(daemon)

    node.hardware.start_mps = slowly
    obj = allocated(result("gpu-0"), config=[config("MPS")])
    prepare = asyncio.create_task(node.prepare(obj, seconds_left=4))
    await eventually(begun.is_set)
    error = await prepare
    unprepare = asyncio.create_task(node.unprepare(obj))
    await asyncio.sleep(0)

    go.set()
    outcome = await unprepare

    assert error.reason is Reason.DEADLINE
    assert outcome is None
    assert node.set_up() == AS_BEFORE
    assert node.record_of(obj) is None
