"""What is known of the hardware is read until that succeeds, and what was known stays meanwhile."""

from __future__ import annotations

import fcntl
import re
from typing import TYPE_CHECKING, Any

import pytest

from driver.claims.allocation import ClaimRef
from driver.claims.ledger.record import PreparedDevice, Record, State
from driver.hardware.backend import BackendError
from driver.hardware.fake.fault import inject
from driver.hardware.fake.profile import ProfileError
from driver.inventory.options import DeviceOptions, Partitioning
from tests.eventually import eventually
from tests.unit.inventory.conftest import BOOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.inventory.conftest import World

GONE = BackendError("NVML cannot be used: the kernel driver was replaced")


async def test_what_the_hardware_has_is_published(world: World) -> None:
    async with world.running():
        await eventually(lambda: list(world.published) == [f"gpu-{number}" for number in range(8)])

    assert (world.opened, world.hardware.closed) == (1, 1)


async def test_a_driver_that_is_not_there_yet_is_waited_for(world: World) -> None:
    world.opening = [BackendError("no driver")] * 3

    async with world.running():
        await eventually(lambda: world.published)

    assert world.said.reasons() == ["NoUsableDriver"]


async def test_a_first_read_that_fails_opens_nothing_anew(world: World) -> None:
    world.hardware.trouble = GONE

    async with world.running():
        await eventually(lambda: world.hardware.reads > 4)
        with pytest.raises(BackendError, match="the kernel driver was replaced"):
            await world.devices.known()
        world.hardware.trouble = None
        await eventually(lambda: world.published)

    assert (world.opened, world.hardware.closed) == (1, 1)


async def test_a_wrong_profile_is_not_tried_again(world: World) -> None:
    world.opening = [ProfileError("no such profile")]

    with pytest.raises(ProfileError):
        await world.discovery.run()


async def test_a_read_that_fails_is_tried_again_without_another_reason(world: World) -> None:
    async with world.running():
        await eventually(lambda: world.published)
        world.hardware.trouble = GONE
        world.devices.read_again.set()
        failed = world.hardware.reads + 3
        await eventually(lambda: world.hardware.reads >= failed)
        assert len(world.published) == 8
        world.hardware.trouble = None
        pools = len(world.outside.pools)

        await eventually(lambda: len(world.outside.pools) > pools)

        assert not world.devices.read_again.is_set()


async def test_a_gpu_that_fails_and_is_mended_is_told_by_name_with_its_xid(world: World, tmp_path: Path) -> None:
    def happens(**what: Any) -> None:
        nothing = {"xid": None, "lost": False, "ecc": False, "clear": False, "latency_ms": None, "fail_next": None}
        inject(tmp_path, boot_id=BOOT, device="gpu-1", **(nothing | what))

    async with world.running():
        await eventually(lambda: world.published)
        happens(xid=31)
        await eventually(lambda: world.devices.conditions)
        happens(xid=79)
        await eventually(lambda: world.said.reasons() == ["GpuFault"])
        happens(clear=True)
        await eventually(lambda: world.said.reasons() == ["GpuFault", "GpuFaultOver"])

    _, _, message = world.said.events[0]
    assert re.fullmatch(r"gpu-1 \(GPU-[0-9a-f-]+\): XID 79: GPU has fallen off the bus", message)
    assert world.said.events[1] == ("Normal", "GpuFaultOver", f"{message}: this is over")


async def test_an_error_that_nobody_expects_ends_nothing(world: World) -> None:
    async with world.running():
        await eventually(lambda: world.published)
        world.hardware.trouble = KeyError("odd")
        world.devices.read_again.set()
        failed = world.hardware.reads + 3
        await eventually(lambda: world.hardware.reads >= failed)


async def test_what_could_not_be_published_is_published_later(world: World) -> None:
    world.outside.troubles = 2

    async with world.running():
        await eventually(lambda: len(world.published) == 8)


async def test_while_records_cannot_be_read_the_last_offer_stays(new_world: Any) -> None:
    world: World = new_world(partitioning="dynamic")
    await hold_as_a_whole(world, "gpu-0")
    async with world.running():
        await eventually(lambda: world.published)
        shape = dict(world.published)
        assert [name for name in shape if name.startswith("gpu-0")] == ["gpu-0"]
        with open(world.records.lock_path, "rb") as other:  # noqa: ASYNC230, PTH123 - an instance that is stopped
            fcntl.flock(other, fcntl.LOCK_EX)
            world.devices.read_again.set()
            await eventually(lambda: world.devices.problem.startswith("another instance"))
            assert dict(world.published) == shape
        pools = len(world.outside.pools)

        await eventually(lambda: len(world.outside.pools) > pools)

        assert dict(world.published) == shape


UNREAD = ("unpreparable", "unread", "NoSchedule")


async def test_what_cannot_be_read_again_for_long_gets_no_new_claims(new_world: Any) -> None:
    world: World = new_world(unread=0.3)
    async with world.running():
        await eventually(lambda: world.published)
        world.hardware.trouble = GONE
        world.devices.read_again.set()

        await eventually(lambda: world.taints("gpu-0") == {UNREAD})

        assert all(world.taints(name) == {UNREAD} for name in world.published)
        assert [line.split(": ")[:2] for line in world.defects.not_ready()] == [["node", "unread"]]
        assert "the kernel driver was replaced" in world.defects.not_ready()[0]
        assert world.said.reasons() == ["NodeDefect"]


async def test_what_can_be_read_again_gets_new_claims_again(new_world: Any) -> None:
    world: World = new_world(unread=0.1)
    async with world.running():
        await eventually(lambda: world.published)
        world.hardware.trouble = GONE
        world.devices.read_again.set()
        await eventually(lambda: world.taints("gpu-0") == {UNREAD})
        world.hardware.trouble = None

        await eventually(lambda: world.taints("gpu-0") == set())

        assert world.defects.not_ready() == []
        assert world.said.reasons() == ["NodeDefect", "NodeDefectMended"]


async def test_hardware_that_does_not_answer_at_all_is_unread_too(new_world: Any) -> None:
    world: World = new_world(unread=0.2)
    async with world.running():
        await eventually(lambda: world.published)
        world.hardware.hangs.set()
        world.devices.read_again.set()

        await eventually(lambda: world.taints("gpu-0") == {UNREAD})

        assert "has not answered for" in world.defects.not_ready()[0]
        world.hardware.goes_on.set()
        await eventually(lambda: world.taints("gpu-0") == set())


async def test_one_read_that_fails_is_no_reason_to_write_slices(world: World) -> None:
    async with world.running():
        await eventually(lambda: world.published)
        pools = len(world.outside.pools)
        world.hardware.trouble = GONE
        world.devices.read_again.set()
        failed = world.hardware.reads + 3
        await eventually(lambda: world.hardware.reads >= failed)

        assert len(world.outside.pools) == pools
        assert world.defects.not_ready() == []


async def hold_as_a_whole(world: World, name: str) -> None:
    """A claim that got a GPU when partitions were not offered yet."""
    gpu = world.hardware.inventory().by_name()[name]
    device = PreparedDevice(
        requests=("gpu",),
        pool="node-1",
        device=name,
        gpu_uuid=gpu.uuid,
        cdi_ids=(),
        slots=tuple(range(gpu.memory_slices)),
        offered=DeviceOptions(partitioning=Partitioning.NONE),
    )
    record = Record(
        claim=ClaimRef(namespace="default", name="a", uid="uid-a"),
        driver="gpu.nvidia.com",
        allocation="x",
        boot_id=BOOT,
        prepared_at="2026-01-02T03:04:05.000Z",
        state=State.PREPARED,
        devices=(device,),
    )
    await world.records.open()
    async with world.records.exclusive() as changes:
        changes.put(record)
