"""A damaged record of a claim for which hardware was changed: what containers use stays, and is undone at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driver.claims.errors import Reason
from driver.claims.ledger.record import State
from driver.hardware.fake.fault import inject
from driver.hardware.process_sharing import ComputeMode, TimeSlice

from .conftest import DRIVER, ClaimApi, result
from .test_damage import GARBAGE, damage
from .test_hardware import BOOT, SMALL, SMALL_TOO, MigNode

MPS: dict[str, Any] = {"strategy": "MPS"}
LONG: dict[str, Any] = {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}


def shared_by(sharing: dict[str, Any]) -> list[dict[str, Any]]:
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": sharing}
    return [{"source": "FromClaim", "requests": [], "opaque": {"driver": DRIVER, "parameters": parameters}}]


@pytest.fixture
def node(tmp_path: Path, api: ClaimApi) -> MigNode:
    """Not started yet."""
    return MigNode(tmp_path, api)


def records(node: MigNode) -> Iterator[Path]:
    return (node.cdi_root.parent / "plugin" / "claims").glob("*.json")


async def damaged(node: MigNode, claim: dict[str, Any], content: str = GARBAGE) -> None:
    """Have a claim prepared, and its record damaged while no instance runs."""
    before = await MigNode(node.state_dir.parent, node.api).start()
    assert isinstance(await before.prepare(claim), tuple)
    damage(before, claim, content)


async def test_the_partition_that_containers_use_stays_when_the_claim_is_prepared_again(
    node: MigNode, allocated: Any
) -> None:
    claim = allocated(result(SMALL), result(SMALL_TOO, request="other"))
    await damaged(node, claim)
    before = node.hardware.partitions(node.gpu_uuid)
    await node.start()

    devices = await node.prepare(claim)

    assert node.hardware.calls == []
    assert tuple(device.partition for device in devices) == before
    [record] = node.records
    assert (record.state, record.salvaged_from) == (State.PREPARED, "")


async def test_it_stays_when_the_hardware_fails_meanwhile(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL), result("gpu-1", request="whole"), config=shared_by(LONG))
    await damaged(node, claim)
    before = node.partitions()
    await node.start()
    inject(node.state_dir, boot_id=BOOT, device="gpu-1", fail_next=1)

    error = await node.prepare(claim)

    assert error.reason is Reason.HARDWARE
    assert node.partitions() == before
    assert node.record_of(claim).salvaged_from
    assert [device.device for device in await node.prepare(claim)] == [SMALL, "gpu-1"]


async def test_another_allocation_undoes_it(node: MigNode, allocated: Any) -> None:
    claim = allocated(result(SMALL))
    await damaged(node, claim)
    await node.start()
    claim["status"]["allocation"]["devices"]["results"] = [result(SMALL_TOO)]

    [device] = await node.prepare(claim)

    assert device.device == SMALL_TOO
    assert node.partitions() == ["1g.10gb@1"]


async def test_its_mps_daemon_ends_with_the_claim(node: MigNode, allocated: Any) -> None:
    claim = allocated(result("gpu-1"), config=shared_by(MPS))
    await damaged(node, claim)
    uuid = node.devices["gpu-1"].gpu.uuid
    assert node.hardware.compute_mode(uuid) is ComputeMode.EXCLUSIVE_PROCESS
    await node.start()

    assert await node.unprepare(claim) is None

    assert not node.hardware.mps_runs(f"claim-{claim['metadata']['uid']}")
    assert node.hardware.compute_mode(uuid) is ComputeMode.DEFAULT


@pytest.mark.parametrize("sharing", [MPS, LONG], ids=lambda sharing: sharing["strategy"])
async def test_what_was_set_for_a_claim_is_not_taken_for_what_was_before(
    node: MigNode, allocated: Any, sharing: dict[str, Any]
) -> None:
    claim = allocated(result("gpu-1"), config=shared_by(sharing))
    await damaged(node, claim)
    uuid = node.devices["gpu-1"].gpu.uuid
    await node.start()
    await node.prepare(claim)

    assert await node.unprepare(claim) is None

    assert node.hardware.compute_mode(uuid) is ComputeMode.DEFAULT
    assert node.hardware.time_slice(uuid) is TimeSlice.DEFAULT


async def test_a_partition_goes_with_its_claim_though_record_and_spec_were_removed(
    node: MigNode, allocated: Any
) -> None:
    await node.start()
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    for path in (*records(node), *node.cdi_root.glob("*.json")):
        path.unlink()

    assert await node.unprepare(claim) is None

    assert node.partitions() == []
    assert len(node.records) == 0


async def test_records_that_somebody_removed_are_written_again(node: MigNode, allocated: Any) -> None:
    await node.start()
    claim = allocated(result(SMALL))
    await node.prepare(claim)
    [path] = records(node)
    before = path.read_bytes()
    path.unlink()

    await node.records.refresh(look=True)

    assert path.read_bytes() == before
