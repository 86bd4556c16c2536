"""What can never be prepared as the node is now is not offered as healthy, and nobody makes hardware for it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from driver.cdi.directory import SpecDirectory
from driver.claims.chores.watch_cdi import CdiWatch
from tests.eventually import eventually
from tests.unit.inventory.conftest import DRIVER

if TYPE_CHECKING:
    from pathlib import Path

    from driver.hardware.model import Gpu
    from tests.unit.inventory.conftest import World

SEALED = "no container can open its partitions"


async def test_a_gpu_whose_device_file_nobody_knows_gets_no_claims_until_somebody_does(world: World) -> None:
    world.hardware.changed = lambda gpu: replace(gpu, minor=None) if gpu.name == "gpu-3" else gpu
    async with world.running():
        await eventually(lambda: world.published)
        assert world.taints("gpu-3") == {("unpreparable", "no-device-file", "NoSchedule")}
        assert world.taints("gpu-2") == set()
        assert world.said.reasons() == ["GpuNotOffered"]
        (why,) = world.offer.problems.values()
        assert why.startswith("its driver does not tell its device file")

        world.hardware.changed = lambda gpu: gpu
        world.devices.read_again.set()

        await eventually(lambda: world.taints("gpu-3") == set())


async def test_partitions_that_no_container_can_open_get_no_claims_and_their_gpu_does(new_world: Any) -> None:
    def seal(gpu: Gpu) -> Gpu:
        return replace(gpu, partitions_sealed=SEALED) if gpu.name == "gpu-0" else gpu

    world: World = new_world(partitioning="dynamic")
    world.hardware.changed = seal
    async with world.running():
        await eventually(lambda: world.published)
        partitions = [name for name in world.published if name.startswith("gpu-0-mig")]

        assert partitions
        assert all(world.taints(n) == {("unpreparable", "no-partition-files", "NoSchedule")} for n in partitions)
        assert world.taints("gpu-0") == set()
        assert all(world.taints(n) == set() for n in world.published if not n.startswith("gpu-0"))
        assert list(world.offer.problems.values()) == [SEALED]


async def test_a_node_where_specs_cannot_be_written_gets_no_claims_until_they_can(world: World, tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.write_text("a file where the directory should be")
    specs = SpecDirectory(place / "cdi", driver=DRIVER)
    engine: Any = SimpleNamespace(unsettled=set())
    events: Any = world.said
    watch = CdiWatch(
        specs,
        records=world.records,
        engine=engine,
        devices=world.devices,
        defects=world.defects,
        events=events,
        period=0.01,
    )
    watching = asyncio.create_task(watch.run())
    async with world.running():
        await eventually(lambda: world.published)
        assert all(world.taints(n) == {("unpreparable", "cdi-root", "NoSchedule")} for n in world.published)
        (line,) = world.defects.not_ready()
        assert line.startswith(f"node: cdi-root: CDI specs cannot be written: {place}")

        place.unlink()

        await eventually(lambda: world.taints("gpu-0") == set())
        assert world.defects.not_ready() == []
        assert world.said.reasons() == ["NodeDefect", "NodeDefectMended"]
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
