"""A backend has what its devices can do: one that can only read GPUs is enough for whole ones."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from driver.hardware import Backend, ContainerEdits, DeviceNode, Gpu, Inventory, Partition
from driver.health.monitor import NOT_WATCHED, Monitor
from driver.health.report import describe
from driver.health.store import ConditionStore
from tests.eventually import eventually
from tests.unit.claims.conftest import ClaimApi, Node, claim, result
from tests.unit.claims.test_sharing import config
from tests.unit.inventory.conftest import BOOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.inventory.conftest import World

GPU = Gpu(name="gpu-3", uuid="GPU-3", index=0, minor=3, product_name="Example")


class ReadOnly:
    """All that a backend must have."""

    def __init__(self) -> None:
        self.reads = 0

    def inventory(self) -> Inventory:
        self.reads += 1
        return Inventory(driver_version="1.2.3", cuda_version="", gpus=(GPU,))

    def missing_file(self) -> str:
        return ""

    def common_edits(self) -> ContainerEdits:
        return ContainerEdits()

    def device_edits(self, gpu: Gpu, partition: Partition | None = None) -> ContainerEdits:
        return ContainerEdits(device_nodes=(DeviceNode(path=f"/dev/example{gpu.minor}"),))

    def close(self) -> None: ...


class ReadOnlyNode(Node):
    """A node whose claims get what the world has found."""

    def __init__(self, root: Path, api: ClaimApi, world: World) -> None:
        super().__init__(root, api)
        self.world = world

    async def known(self) -> Any:
        return await self.world.devices.known()


@pytest.fixture
async def node(tmp_path: Path, world: World) -> ReadOnlyNode:
    backend: Backend = ReadOnly()
    world.hardware = backend  # type: ignore[assignment]
    node = ReadOnlyNode(tmp_path / "claims", ClaimApi(), world)
    await node.start()
    return node


async def test_its_gpus_are_published_prepared_and_given_back(node: ReadOnlyNode) -> None:
    wanted = node.api.claims["claim"] = claim(result("gpu-3"))

    async with node.world.running():
        await eventually(lambda: list(node.world.published) == ["gpu-3"])
        [device] = await node.prepare(wanted)
        [edits] = json.loads((node.cdi_root / node.spec_files()[0]).read_text())["devices"]
        await node.unprepare(wanted)

    assert device.device == "gpu-3"
    assert edits["containerEdits"]["deviceNodes"] == [{"path": "/dev/example3", "permissions": "rwm", "type": "c"}]
    assert node.spec_files() == []


async def test_a_claim_for_what_it_cannot_do_says_so_and_leaves_nothing(node: ReadOnlyNode) -> None:
    long = config("TimeSlicing", interval="Long")
    wanted = node.api.claims["claim"] = claim(result("gpu-3"), config=[long])

    async with node.world.running():
        answer = await node.prepare(wanted)

    assert "ReadOnly cannot set how processes share a GPU" in str(answer)
    assert node.spec_files() == []
    assert list(node.records) == []


async def test_the_health_of_its_gpus_is_unknown_and_they_are_read_again_and_again(tmp_path: Path) -> None:
    again: list[None] = []
    monitor = Monitor(
        ReadOnly(),
        store=ConditionStore(tmp_path, boot_id=BOOT),
        gpu_uuids=[GPU.uuid],
        inventory_changed=lambda: again.append(None),
        unwatched_seconds=0.001,
    )

    async with asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(monitor.run())
        await eventually(lambda: len(again) > 2)
        watch.cancel()

    assert [describe(c) for c in monitor.conditions[GPU.uuid]] == [f"not watched for errors: {NOT_WATCHED}"]
