"""Claims on partitions: what is made is written down before, used after, and gone at the end."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.record import State
from driver.hardware.backend import BackendError
from driver.hardware.fake.fake_backend import FakeBackend
from driver.hardware.fake.fault import inject
from driver.hardware.fake.profile import load_profile
from driver.hardware.model import Gpu, MigMode, MigProfile, Partition
from driver.inventory.catalogue import Device, catalogue
from driver.inventory.options import DeviceOptions, Options, Partitioning
from tests.eventually import PATIENCE, eventually

from .conftest import ClaimApi, Node, gpu, result

SMALL = "gpu-0-mig-1g10gb-19-0"
SMALL_TOO = "gpu-0-mig-1g10gb-19-1"
BIG = "gpu-0-mig-4g40gb-5-0"
OTHER_GPU = "gpu-1-mig-1g10gb-19-0"
BOOT = "boot-1"


class Switchboard(FakeBackend):
    """The fake backend, with a way to hold or fail its calls."""

    def __init__(self, state_dir: Path, *, boot_id: str) -> None:
        super().__init__(load_profile("h100x8"), name="h100x8", state_dir=state_dir, boot_id=boot_id)
        self.calls: list[str] = []
        self.hold: dict[str, threading.Event] = {}
        """By GPU UUID: creating and destroying there waits for the event."""
        self.failures: dict[str, int] = {}
        """By method: how many calls fail from now on."""
        self.half_made: Partition | None = None
        """A partition that shows without its compute instance until it is destroyed."""

    def create_partition(self, gpu: Gpu, profile: MigProfile, start: int) -> Partition:
        self._step("create_partition", gpu.uuid)
        return super().create_partition(gpu, profile, start)

    def partitions(self, gpu_uuid: str) -> tuple[Partition, ...]:
        found = super().partitions(gpu_uuid)
        return tuple(replace(p, uuid="") if p == self.half_made else p for p in found)

    def destroy_partition(self, partition: Partition) -> None:
        self._step("destroy_partition", partition.gpu_uuid)
        if self.half_made is not None and replace(self.half_made, uuid="") == partition:
            partition, self.half_made = self.half_made, None
        super().destroy_partition(partition)

    def _step(self, method: str, gpu_uuid: str) -> None:
        self.calls.append(method)
        if self.failures.get(method):
            self.failures[method] -= 1
            raise BackendError(f"{method}: injected")
        if gpu_uuid in self.hold:
            self.hold[gpu_uuid].wait(PATIENCE)


class MigNode(Node):
    """A node with real fake GPUs that are cut on demand."""

    def __init__(self, root: Path, api: ClaimApi, *, boot_id: str = BOOT, **more: Any) -> None:
        super().__init__(root, api, boot_id=boot_id, **more)
        self.hardware = Switchboard(root / "plugin", boot_id=boot_id)
        options = Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC))
        self.devices = {device.name: device for device in catalogue(self.hardware.inventory(), options)}
        self.gpu_uuid = self.devices["gpu-0"].gpu.uuid
        self.state_dir = root / "plugin"

    async def known(self) -> Any:
        return self.hardware, self.devices

    def nameable(self) -> dict[str, Device]:
        return self.devices

    def partitions(self) -> list[str]:
        return [f"{p.profile}@{p.start}" for p in self.hardware.partitions(self.gpu_uuid)]

    def record_of(self, claim: dict[str, Any]) -> Any:
        return self.records.read(claim["metadata"]["uid"])


@pytest.fixture
async def node(tmp_path: Path, api: ClaimApi) -> MigNode:
    node = MigNode(tmp_path, api)
    await node.start()
    return node


async def test_a_partition_is_made_for_a_claim_and_named_in_record_and_spec(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL))

    devices = await node.prepare(claim)

    [made] = node.hardware.partitions(node.gpu_uuid)
    assert (made.profile, made.start) == ("1g.10gb", 0)
    assert devices[0].partition == made
    assert node.record_of(claim).state is State.PREPARED
    assert made.uuid in (node.cdi_root / node.spec_files()[0]).read_text()


async def test_unprepare_destroys_what_was_made(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)

    outcome = await node.unprepare(claim)

    assert outcome is None
    assert node.partitions() == []
    assert node.record_of(claim) is None
    assert node.spec_files() == []


async def test_the_intent_is_on_disk_before_the_hardware_changes(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL))
    node.hardware.hold[node.gpu_uuid] = threading.Event()

    prepare = asyncio.create_task(node.prepare(claim))
    await eventually(lambda: node.hardware.calls)

    assert node.record_of(claim).state is State.PREPARING
    node.hardware.hold[node.gpu_uuid].set()
    await prepare


async def test_the_same_call_again_makes_nothing_again(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL))
    first = await node.prepare(claim)

    second = await node.prepare(claim)

    assert second == first
    assert node.hardware.calls == ["create_partition"]


async def test_a_crash_after_the_hardware_changed_is_finished_by_the_next_prepare(
    node: MigNode, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    crashed = node.record_of(claim)
    unfinished = replace(
        crashed.with_state(State.PREPARING), devices=tuple(replace(d, partition=None) for d in crashed.devices)
    )
    async with node.records.exclusive() as changes:
        changes.put(unfinished)
    restarted = MigNode(tmp_path, api)
    await restarted.start()

    devices = await restarted.prepare(claim)

    assert restarted.hardware.calls == []
    assert devices[0].partition == crashed.devices[0].partition
    assert restarted.record_of(claim).state is State.PREPARED


async def test_a_crash_after_the_hardware_changed_is_undone_by_unprepare(
    node: MigNode, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    async with node.records.exclusive() as changes:
        changes.put(node.record_of(claim).with_state(State.PREPARING))
    restarted = MigNode(tmp_path, api)
    await restarted.start()

    await restarted.unprepare(claim)

    assert restarted.partitions() == []
    assert restarted.record_of(claim) is None


async def test_a_partition_of_an_administrator_is_refused_and_never_destroyed(node: MigNode, allocated: Any) -> None:
    device = node.devices[SMALL]
    assert device.profile is not None
    node.hardware.create_partition(device.gpu, device.profile, 0)
    claim = allocated(result(SMALL))

    error = await node.prepare(claim)
    await node.unprepare(claim)

    assert error.reason is Reason.IN_USE
    assert "this driver has not made it" in str(error)
    assert node.partitions() == ["1g.10gb@0"]


@pytest.mark.parametrize("second", [BIG, "gpu-0", "gpu-0-mig-7g80gb-0-0"])
async def test_devices_that_share_memory_slices_exclude_each_other(node: MigNode, allocated: Any, second: str) -> None:
    await node.prepare(allocated(result(SMALL), name="holder"))

    error = await node.prepare(allocated(result(second), name="second"))

    assert error.reason is Reason.IN_USE
    assert f"device {second} is still held as part of {SMALL} by claim default/holder" in str(error)


async def test_partitions_side_by_side_go_together(node: MigNode, allocated: Any) -> None:
    await node.prepare(allocated(result(SMALL), name="first"))

    await node.prepare(allocated(result(SMALL_TOO), name="second"))

    assert node.partitions() == ["1g.10gb@0", "1g.10gb@1"]


async def test_hardware_that_refuses_leaves_nothing_behind(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL), result(SMALL_TOO, request="second"))
    node.hardware.failures = {"create_partition": 1}

    error = await node.prepare(claim)

    assert error.reason is Reason.HARDWARE
    assert node.partitions() == []
    assert node.record_of(claim) is None


async def test_a_failure_half_way_takes_back_the_first_half(node: MigNode, allocated: Any) -> None:
    first = allocated(result(SMALL), result("gpu-1-mig-1g10gb-19-0", request="impossible"))
    inject(node.state_dir, boot_id=BOOT, device="gpu-1", fail_next=1)

    error = await node.prepare(first)

    assert error.reason is Reason.HARDWARE
    assert node.partitions() == []
    assert node.record_of(first) is None


@pytest.mark.parametrize("second", ["gpu-0-mig-7g80gb-0-0", "gpu-0"])
async def test_one_claim_cannot_have_the_same_hardware_twice(node: MigNode, allocated: Any, second: str) -> None:
    error = await node.prepare(allocated(result(SMALL), result(second, request="other")))

    assert error.reason is Reason.INVALID_REQUEST
    assert SMALL in str(error)
    assert second in str(error)
    assert node.hardware.calls == []


@pytest.mark.parametrize("name", ["gpu-0", SMALL])
@pytest.mark.parametrize("admin_first", [False, True])
async def test_one_claim_can_look_at_what_it_uses(node: MigNode, allocated: Any, name: str, admin_first: bool) -> None:
    results = [result(name), result(name, request="monitor", adminAccess=True)]
    claim = allocated(*reversed(results) if admin_first else results)

    devices = await node.prepare(claim)

    assert [device.admin for device in devices] == [admin_first, not admin_first]
    used, looked_at = reversed(devices) if admin_first else devices
    assert looked_at.cdi_ids == (f"{used.cdi_ids[0]}-admin",)
    assert devices[0].partition == devices[1].partition
    assert await node.unprepare(claim) is None
    assert node.partitions() == []


async def test_the_next_try_succeeds_when_the_hardware_does(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL))
    node.hardware.failures = {"create_partition": 1}
    await node.prepare(claim)

    devices = await node.prepare(claim)

    assert devices[0].device == SMALL


async def test_what_a_newer_version_wrote_of_a_device_survives_a_prepare_that_is_taken_up(
    node: MigNode, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    path = tmp_path / "plugin" / "claims" / f"{claim['metadata']['uid']}.json"
    raw = json.loads(path.read_text())
    raw["devices"][0]["fromTheFuture"] = 1
    raw["devices"][0]["partition"]["fromTheFuture"] = 2
    path.unlink()
    path.write_text(json.dumps({**raw, "state": "preparing"}))

    await (await MigNode(tmp_path, api).start()).prepare(claim)

    [device] = json.loads(path.read_text())["devices"]
    assert (device["fromTheFuture"], device["partition"]["fromTheFuture"]) == (1, 2)


async def test_slow_hardware_of_one_gpu_does_not_delay_another(node: MigNode, allocated: Any) -> None:
    node.hardware.hold[node.gpu_uuid] = threading.Event()
    slow = asyncio.create_task(node.prepare(allocated(result(SMALL), name="slow")))
    await eventually(lambda: node.hardware.calls)

    devices = await node.prepare(allocated(result(OTHER_GPU), name="quick"))

    assert devices[0].device == OTHER_GPU
    assert not slow.done()
    node.hardware.hold[node.gpu_uuid].set()
    await slow


async def test_a_claim_that_waits_for_hardware_hears_why_before_the_kubelet_gives_up(
    node: MigNode, allocated: Any
) -> None:
    claim = allocated(result(SMALL))
    node.hardware.hold[node.gpu_uuid] = threading.Event()

    error = await node.prepare(claim, seconds_left=4)

    assert error.reason is Reason.DEADLINE
    node.hardware.hold[node.gpu_uuid].set()


async def test_work_goes_on_after_the_caller_has_gone_and_the_next_call_finds_it_done(
    node: MigNode, allocated: Any
) -> None:
    claim = allocated(result(SMALL))
    node.hardware.hold[node.gpu_uuid] = threading.Event()
    await node.prepare(claim, seconds_left=4)
    node.hardware.hold.pop(node.gpu_uuid).set()

    devices = await node.prepare(claim)

    assert devices[0].device == SMALL
    assert node.hardware.calls == ["create_partition"]


async def test_a_claim_that_is_cancelled_while_the_hardware_works_is_finished_all_the_same(
    node: MigNode, allocated: Any
) -> None:
    claim = allocated(result(SMALL))
    node.hardware.hold[node.gpu_uuid] = threading.Event()
    call = asyncio.create_task(node.prepare(claim))
    await eventually(lambda: node.hardware.calls)

    call.cancel()
    node.hardware.hold[node.gpu_uuid].set()
    await node.engine.settle(within=PATIENCE)

    assert node.record_of(claim).state is State.PREPARED
    assert len(node.spec_files()) == 1


async def test_a_pod_ends_although_its_partition_cannot_be_destroyed(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    node.hardware.failures = {"destroy_partition": 1}

    outcome = await node.unprepare(claim)

    assert outcome is None
    assert node.record_of(claim).state is State.UNDOING
    assert node.spec_files() == []


async def test_a_device_that_is_not_undone_yet_is_not_handed_out(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL), name="first")
    await node.prepare(claim)
    node.hardware.failures = {"destroy_partition": 1}
    await node.unprepare(claim)

    error = await node.prepare(allocated(result(SMALL), name="second"))

    assert error.reason is Reason.IN_USE
    assert "could not be undone so far" in str(error)


async def test_what_could_not_be_undone_is_undone_later(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    node.hardware.failures = {"destroy_partition": 1}
    await node.unprepare(claim)

    leftovers = asyncio.create_task(node.engine.undo_leftovers())
    await eventually(lambda: node.record_of(claim) is None)

    leftovers.cancel()
    assert node.partitions() == []


async def test_what_cannot_be_undone_again_and_again_is_said_once(
    node: MigNode, allocated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    node.hardware.failures = {"destroy_partition": 4}
    await node.unprepare(claim)

    for _ in range(3):
        await node.engine._undo.start(node.record_of(claim))
    assert caplog.text.count("is not undone yet, trying again") == 1

    await node.engine._undo.start(node.record_of(claim))
    assert node.record_of(claim) is None


async def test_a_new_allocation_under_the_same_uid_undoes_the_old_partition_first(
    node: MigNode, api: ClaimApi, allocated: Any
) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    api.claims["claim"]["status"]["allocation"]["devices"]["results"] = [result(SMALL_TOO)]

    devices = await node.prepare(claim)

    assert devices[0].device == SMALL_TOO
    assert node.partitions() == ["1g.10gb@1"]


async def test_a_new_allocation_waits_with_a_reason_while_the_old_partition_stays(
    node: MigNode, api: ClaimApi, allocated: Any
) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    api.claims["claim"]["status"]["allocation"]["devices"]["results"] = [result(SMALL_TOO)]
    node.hardware.failures = {"destroy_partition": 1}

    error = await node.prepare(claim)
    devices = await node.prepare(claim)

    assert isinstance(error, ClaimError)
    assert "could not be undone yet" in str(error)
    assert devices[0].device == SMALL_TOO


async def test_a_partition_is_used_by_shares_together_and_destroyed_with_the_last(
    node: MigNode, allocated: Any
) -> None:
    first, second = (
        allocated(result(SMALL, shareID="s-1"), name="first"),
        allocated(result(SMALL, shareID="s-2"), name="second"),
    )
    await node.prepare(first)
    await node.prepare(second)

    await node.unprepare(first)
    kept = node.partitions()
    await node.unprepare(second)

    assert node.hardware.calls == ["create_partition", "destroy_partition"]
    assert kept == ["1g.10gb@0"]
    assert node.partitions() == []


async def test_admin_access_looks_at_a_partition_and_never_makes_or_destroys_one(node: MigNode, allocated: Any) -> None:
    await node.prepare(allocated(result(SMALL), name="worker"))
    monitor = allocated(result(SMALL, adminAccess=True), name="monitor")

    devices = await node.prepare(monitor)
    await node.unprepare(monitor)

    assert devices[0].partition is not None
    assert node.partitions() == ["1g.10gb@0"]


async def test_a_whole_gpu_is_made_whole_before_it_is_used(node: MigNode, allocated: Any) -> None:
    small = allocated(result(SMALL), name="small")
    await node.prepare(small)
    await node.unprepare(small)

    devices = await node.prepare(allocated(result("gpu-0"), name="whole"))

    assert devices[0].device == "gpu-0"
    assert node.hardware.inventory().gpus[0].mig_mode is MigMode.DISABLED


async def test_after_a_reboot_partitions_are_made_anew(
    node: MigNode, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    rebooted = MigNode(tmp_path, api, boot_id="boot-2")
    await rebooted.start()

    devices = await rebooted.prepare(claim)

    assert rebooted.hardware.calls == ["create_partition"]
    assert devices[0].partition is not None


async def test_a_lost_gpu_does_not_keep_a_pod_from_ending(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    inject(node.state_dir, boot_id=BOOT, device="gpu-0", lost=True)

    outcome = await node.unprepare(claim)

    assert outcome is None
    assert node.record_of(claim).state is State.UNDOING


async def test_shares_that_together_take_more_than_there_is_are_refused(
    tmp_path: Path, api: ClaimApi, allocated: Any
) -> None:
    node = await Node(tmp_path, api).start()
    node.inventory["gpu-0"] = replace(node.inventory["gpu-0"], gpu=replace(gpu(0), memory_bytes=80 << 30))
    first = result("gpu-0", shareID="s-1", consumedCapacity={"memory": "60Gi"})
    await node.prepare(allocated(first, name="first"))

    error = await node.prepare(
        allocated(result("gpu-0", shareID="s-2", consumedCapacity={"memory": "40Gi"}), name="second")
    )
    devices = await node.prepare(
        allocated(result("gpu-0", shareID="s-3", consumedCapacity={"memory": "20Gi"}), name="third")
    )

    assert error.reason is Reason.IN_USE
    assert "shared with default/first" in str(error)
    assert devices[0].share_id == "s-3"


async def test_the_same_share_is_not_given_out_twice(tmp_path: Path, api: ClaimApi, allocated: Any) -> None:
    node = await Node(tmp_path, api).start()
    await node.prepare(allocated(result("gpu-0", shareID="s-1"), name="first"))

    error = await node.prepare(allocated(result("gpu-0", shareID="s-1"), name="second"))

    assert error.reason is Reason.IN_USE


async def test_a_partition_in_the_way_that_is_just_ending_is_waited_for(
    tmp_path: Path, api: ClaimApi, allocated: Any
) -> None:
    node = MigNode(tmp_path, api, patience=10)
    await node.start()
    holder = allocated(result(SMALL), name="holder")
    await node.prepare(holder)
    second = asyncio.create_task(node.prepare(allocated(result(BIG), name="second")))
    await eventually(lambda: api.gets == 2)

    await node.unprepare(holder)

    assert [device.device for device in await second] == [BIG]
    assert node.partitions() == ["4g.40gb@0"]


async def test_a_partition_that_a_crash_left_half_made_is_made_anew(
    node: MigNode, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    async with node.records.exclusive() as changes:
        changes.put(node.record_of(claim).with_state(State.PREPARING))
    restarted = MigNode(tmp_path, api)
    await restarted.start()
    [whole] = restarted.hardware.partitions(node.gpu_uuid)
    restarted.hardware.half_made = whole

    devices = await restarted.prepare(claim)

    assert restarted.hardware.calls == ["destroy_partition", "create_partition"]
    assert devices[0].partition is not None
    assert devices[0].partition.uuid


async def test_a_call_that_was_given_up_in_a_queue_makes_nothing_because_its_unprepare_may_be_elsewhere(
    node: MigNode, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    other = MigNode(tmp_path, api)
    await other.start()
    node.hardware.hold[node.gpu_uuid] = threading.Event()
    busy = asyncio.create_task(node.prepare(allocated(result(SMALL), name="busy")))
    await eventually(lambda: node.hardware.calls == ["create_partition"])
    claim = allocated(result(SMALL_TOO), name="queued")
    queued = asyncio.create_task(node.prepare(claim))
    await eventually(lambda: len(node.engine._background) == 2)

    queued.cancel()
    await asyncio.wait([queued])
    outcome = await other.unprepare(claim)
    node.hardware.hold.pop(node.gpu_uuid).set()
    await busy
    await node.engine.settle(within=PATIENCE)

    assert outcome is None
    assert node.record_of(claim) is None
    assert node.partitions() == ["1g.10gb@0"]


async def test_for_a_spec_that_cannot_be_written_no_partition_is_made(node: MigNode, allocated: Any) -> None:
    shutil.rmtree(node.cdi_root)
    node.cdi_root.write_text("a file where the directory should be")

    refused = await node.prepare(allocated(result(SMALL)))

    assert isinstance(refused, ClaimError)
    assert refused.reason is Reason.CDI
    assert "Not a directory" in str(refused)
    assert node.hardware.calls == []


async def test_a_partition_that_no_container_can_open_is_not_made(node: MigNode, allocated: Any) -> None:
    known = node.devices[SMALL]
    node.devices[SMALL] = replace(known, gpu=replace(known.gpu, partitions_sealed="the kernel has no nvidia-caps"))

    refused = await node.prepare(allocated(result(SMALL)))

    assert isinstance(refused, ClaimError)
    assert refused.reason is Reason.HARDWARE
    assert f"{SMALL}: the kernel has no nvidia-caps" in str(refused)
    assert node.hardware.calls == []


async def test_a_uuid_that_came_back_in_another_place_is_where_it_is_now(node: MigNode, allocated: Any) -> None:
    other = allocated(result(SMALL_TOO), name="other")
    await node.prepare(other)
    seen = node.hardware.partitions(node.gpu_uuid)
    node.devices = {n: replace(d, gpu=replace(d.gpu, partitions=seen)) for n, d in node.devices.items()}
    await node.unprepare(other)
    [device] = await node.prepare(allocated(result(SMALL)))
    [spec] = [(node.cdi_root / name).read_text() for name in node.spec_files()]
    assert device.partition is not None
    assert device.partition.uuid == seen[0].uuid

    await node.engine.restore()  # by what was seen before

    assert [d.partition for record in node.records for d in record.devices] == [device.partition]
    assert [(node.cdi_root / name).read_text() for name in node.spec_files()] == [spec]
