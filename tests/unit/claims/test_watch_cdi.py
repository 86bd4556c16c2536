"""A CDI spec that somebody removes is back within seconds, as long as its claim is prepared."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from driver.claims.chores.watch_cdi import CdiWatch
from driver.inventory import Defects, Devices
from driver.observe import Metrics

from .conftest import DRIVER, ClaimApi, Node, result

if TYPE_CHECKING:
    from pathlib import Path


class Watch:
    """A watch over a node's CDI root, whoever renews specs when they are told, and what an operator is told."""

    def __init__(self, node: Node) -> None:
        self.warned: list[str] = []
        self.devices = Devices()
        events: Any = self
        self._engine = node.engine
        self._watch = CdiWatch(
            node.specs,
            records=node.records,
            engine=node.engine,
            devices=self.devices,
            defects=Defects(events=events, metrics=Metrics(driver_name=DRIVER)),
            events=events,
        )

    async def look(self, *, times: int) -> None:
        for _ in range(times):
            self._watch.check_specs()
            if self.devices.specs_again.is_set():
                self.devices.specs_again.clear()
                await self._engine.restore()

    def warn(self, reason: str, message: str) -> None:
        self.warned.append(f"{reason}: {message}")


@pytest.fixture
def watch(node: Node) -> Watch:
    return Watch(node)


async def test_a_lost_spec_is_written_again_as_it_was(node: Node, watch: Watch, allocated: Any) -> None:
    await node.prepare(allocated())
    [name] = node.spec_files()
    before = (node.cdi_root / name).read_bytes()
    (node.cdi_root / name).unlink()

    await watch.look(times=3)

    assert (node.cdi_root / name).read_bytes() == before
    assert len(watch.warned) == 1
    assert watch.warned[0].startswith("LostCdiSpec: the CDI specs of default/claim were gone")


async def test_a_lost_directory_is_made_again(node: Node, watch: Watch, allocated: Any) -> None:
    await node.prepare(allocated())
    names = node.spec_files()
    shutil.rmtree(node.cdi_root)

    await watch.look(times=3)

    assert node.spec_files() == names


async def test_what_another_instance_has_unprepared_stays_away(
    node: Node, watch: Watch, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    await node.prepare(claim)
    other = await Node(tmp_path, api).start()
    assert await other.unprepare(claim) is None

    await watch.look(times=3)

    assert node.spec_files() == []
    assert watch.warned == []
    assert len(node.records) == 0


async def test_a_spec_that_is_away_for_one_look_is_not_touched(node: Node, watch: Watch, allocated: Any) -> None:
    await node.prepare(allocated())
    [name] = node.spec_files()
    content = (node.cdi_root / name).read_bytes()
    (node.cdi_root / name).unlink()

    await watch.look(times=1)
    nothing = node.spec_files()
    (node.cdi_root / name).write_bytes(content)
    inode = (node.cdi_root / name).stat().st_ino
    await watch.look(times=1)

    assert nothing == []
    assert (node.cdi_root / name).stat().st_ino == inode
    assert watch.warned == []


async def test_one_spec_that_cannot_be_written_keeps_no_other_from_it(
    node: Node, watch: Watch, allocated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2):
        await node.prepare(allocated(result(f"gpu-{number}"), name=f"claim-{number}"))
    names = node.spec_files()
    for name in names:
        (node.cdi_root / name).unlink()
    del node.inventory["gpu-0"]  # it cannot be said what its spec is to hold

    await watch.look(times=5)

    assert len(node.spec_files()) == 1
    assert len(watch.warned) == 1
    assert not watch.devices.specs_again.is_set()  # nobody is told over and over of what was tried in vain
