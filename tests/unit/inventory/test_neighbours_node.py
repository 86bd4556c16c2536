"""The Node is asked for over the network: at the start, and when a device plugin may have come."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from driver.inventory.neighbours import NODE_LATER, PERIOD, RETRY_LONGEST, Coexistence
from driver.kube import ApiError
from driver.observe.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path

DRIVER = "gpu.nvidia.com"


class World:
    """A Node, its directory of device plugins, and who looks at them."""

    existing = ()

    def __init__(self, root: Path) -> None:
        self.now = 0.0
        self.asked = 0
        self.amount = "0"
        self.error: ApiError | None = None
        self.plugins = root / "device-plugins"
        self.plugins.mkdir()
        (self.plugins / "kubelet.sock").touch()
        self.coexistence = Coexistence(
            self,  # type: ignore[arg-type]
            driver_name=DRIVER,
            node_name="node",
            plugins_dir=root / "plugins",
            registry_dir=root / "registry",
            own_socket=root / "registry/own.sock",
            ignore=False,
            publisher=self,
            changed=lambda: None,
            events=self,  # type: ignore[arg-type]
            metrics=Metrics(driver_name=DRIVER),
            clock=lambda: self.now,
            sleep=self.pause,
        )
        self.pauses: list[float] = []

    async def pause(self, seconds: float) -> None:
        """Ten times; then somebody ends it."""
        if len(self.pauses) == 10:
            raise asyncio.CancelledError
        self.pauses.append(seconds)

    async def get(self, _path: str, **_: Any) -> dict[str, Any]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        meta = {"name": "node", "uid": "u", "resourceVersion": "1"}
        return {"metadata": meta, "status": {"allocatable": {"nvidia.com/gpu": self.amount}}}

    def warn(self, _reason: str, _message: str) -> None:
        pass

    async def for_seconds(self, seconds: float) -> int:
        """How often the Node is asked for meanwhile."""
        before, end = self.asked, self.now + seconds
        while self.now < end:
            self.now += PERIOD
            await self.coexistence.read()
        return self.asked - before


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.coexistence.read()
    assert world.asked == 1
    return world


async def test_where_nothing_changes_it_is_not_asked_for_again(world: World) -> None:
    assert await world.for_seconds(3600) == 0


async def test_a_kubelet_that_starts_again_is_no_device_plugin(world: World) -> None:
    (world.plugins / "kubelet.sock").unlink()
    (world.plugins / "kubelet.sock").touch()

    assert await world.for_seconds(3600) == 0


async def test_a_device_plugin_of_any_name_that_comes_is_seen_by_what_it_offers_a_little_later(world: World) -> None:
    (world.plugins / "somebody.sock").touch()
    asked_at_once = await world.for_seconds(PERIOD)
    world.amount = "8"

    await world.for_seconds(NODE_LATER)

    assert asked_at_once == 1
    assert "nvidia.com/gpu: 8" in world.coexistence.problem


async def test_one_that_offers_nothing_of_ours_is_asked_about_twice(world: World) -> None:
    (world.plugins / "somebody.sock").touch()

    assert await world.for_seconds(3600) == 2


async def test_as_long_as_one_offers_gpus_it_is_asked_for_until_it_does_not(world: World) -> None:
    world.amount = "8"
    (world.plugins / "somebody.sock").touch()
    await world.for_seconds(PERIOD)
    world.amount = "0"

    await world.for_seconds(PERIOD)

    assert world.coexistence.problem == ""


async def test_without_an_answer_it_is_asked_for_until_there_is_one(world: World) -> None:
    world.error = ApiError(0, "no answer")
    (world.plugins / "somebody.sock").touch()
    await world.for_seconds(10 * PERIOD)
    world.error, world.amount = None, "8"

    await world.for_seconds(PERIOD)

    assert world.asked == 12
    assert "nvidia.com/gpu: 8" in world.coexistence.problem


async def test_a_server_that_does_not_answer_is_asked_at_longer_and_longer_intervals(tmp_path: Path) -> None:
    random.seed(1)
    world = World(tmp_path)
    world.error = ApiError(0, "no answer")

    with pytest.raises(asyncio.CancelledError):
        await world.coexistence.run()

    assert all(pause <= RETRY_LONGEST for pause in world.pauses)
    assert sum(world.pauses[5:]) > sum(world.pauses[:3])
    assert sum(world.pauses) > 10
