"""Records of claims that nobody asks for again: kept while something may use the device, removed after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from driver.claims.chores.sweep import GRACE, Sweeper
from driver.claims.errors import ClaimError, Reason
from driver.claims.metadata import MetadataFiles
from driver.kube.client import ApiError

from .conftest import DRIVER, ClaimApi, Node

if TYPE_CHECKING:
    from pathlib import Path


class World:
    """A node, its sweeper, and what the sweeper can see."""

    def __init__(self, node: Node, api: ClaimApi) -> None:
        self.now = 0.0
        self.registered_at = float("inf")
        """By the clock by which claims are read; never, so that each look asks again."""
        self.sweeper = Sweeper(
            node.common,
            api=api,  # type: ignore[arg-type]
            engine=node.engine,
            metadata=MetadataFiles(node.cdi_root.parent / "metadata", published=lambda _name: {}),
            registered_at=lambda: self.registered_at,
            clock=lambda: self.now,
        )


@pytest.fixture
def world(node: Node, api: ClaimApi) -> World:
    return World(node, api)


async def sweep_twice(world: World, *, after: float) -> None:
    await world.sweeper.sweep()
    world.now += after
    await world.sweeper.sweep()


async def test_a_claim_that_exists_keeps_its_record(node: Node, world: World, allocated: Any) -> None:
    await node.prepare(allocated())

    await sweep_twice(world, after=10 * GRACE)

    assert len(node.records) == 1


async def test_a_claim_that_is_gone_for_long_loses_record_and_spec(
    node: Node, world: World, api: ClaimApi, allocated: Any
) -> None:
    await node.prepare(allocated())
    api.claims.clear()

    await sweep_twice(world, after=GRACE)

    assert len(node.records) == 0
    assert node.spec_files() == []


async def test_a_claim_that_was_replaced_counts_as_gone(
    node: Node, world: World, api: ClaimApi, allocated: Any
) -> None:
    await node.prepare(allocated())
    api.claims["claim"] = {"metadata": {"uid": "another"}}

    await sweep_twice(world, after=GRACE)

    assert len(node.records) == 0


async def test_a_claim_that_has_just_gone_keeps_its_record(
    node: Node, world: World, api: ClaimApi, allocated: Any
) -> None:
    await node.prepare(allocated())
    api.claims.clear()

    await sweep_twice(world, after=GRACE / 2)

    assert len(node.records) == 1


async def test_a_gpu_with_a_process_on_it_keeps_the_record(
    node: Node, world: World, api: ClaimApi, allocated: Any
) -> None:
    await node.prepare(allocated())
    api.claims.clear()
    node.busy = True

    await sweep_twice(world, after=10 * GRACE)

    assert len(node.records) == 1


async def test_without_an_answer_of_the_api_server_nothing_is_touched(
    node: Node, world: World, api: ClaimApi, allocated: Any
) -> None:
    await node.prepare(allocated())
    api.errors = [ApiError(503, "away")]

    with pytest.raises(ApiError):
        await world.sweeper.sweep()

    assert len(node.records) == 1


async def test_after_a_reboot_a_claim_that_is_gone_loses_its_record_at_once(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    await node.prepare(allocated())
    api.claims.clear()
    rebooted = await Node(tmp_path, api, boot_id="boot-2").start()

    await World(rebooted, api).sweeper.sweep()

    assert len(rebooted.records) == 0


async def test_a_spec_that_names_nothing_of_the_node_is_removed_after_a_while(node: Node, world: World) -> None:
    node.specs.write("orphan", b"{}")

    await sweep_twice(world, after=GRACE)

    assert node.spec_files() == []


@pytest.fixture
async def without_record(node: Node, api: ClaimApi, allocated: Any, tmp_path: Path) -> Node:
    """The driver has started again after somebody removed the record of a prepared claim."""
    claim = allocated()
    await node.prepare(claim)
    (tmp_path / "plugin" / "claims" / f"{claim['metadata']['uid']}.json").unlink()
    return await Node(tmp_path, api).start()


async def test_a_spec_whose_record_was_lost_stays_for_containers_that_restart(
    without_record: Node, api: ClaimApi
) -> None:
    await sweep_twice(World(without_record, api), after=GRACE / 2)

    assert len(without_record.spec_files()) == 1


async def test_a_spec_whose_record_was_lost_stays_while_a_process_is_on_its_gpu(
    without_record: Node, api: ClaimApi
) -> None:
    world = World(without_record, api)
    without_record.busy = True

    await sweep_twice(world, after=10 * GRACE)

    assert len(without_record.spec_files()) == 1


async def test_a_spec_whose_record_was_lost_goes_when_its_gpu_has_been_idle_for_long(
    without_record: Node, api: ClaimApi
) -> None:
    await sweep_twice(World(without_record, api), after=GRACE)

    assert without_record.spec_files() == []


async def test_what_a_spec_names_whose_record_was_lost_is_held_until_its_claim_is_unprepared(
    without_record: Node, api: ClaimApi, allocated: Any
) -> None:
    error = await without_record.prepare(allocated(name="other"))

    assert isinstance(error, ClaimError)
    assert error.reason is Reason.IN_USE
    assert str(without_record.specs.path(api.claims["claim"]["metadata"]["uid"])) in str(error)
    assert await without_record.unprepare(api.claims["claim"]) is None
    assert without_record.spec_files() == []
    assert [device.device for device in await without_record.prepare(api.claims["other"])] == ["gpu-0"]


async def test_a_claim_whose_record_was_lost_keeps_its_devices_when_it_is_prepared_again(
    without_record: Node, api: ClaimApi
) -> None:
    assert [device.device for device in await without_record.prepare(api.claims["claim"])] == ["gpu-0"]

    [record] = without_record.records
    assert (str(record.claim), record.salvaged_from) == ("default/claim", "")


async def test_a_spec_that_is_removed_does_not_end_the_hold_of_a_lost_record(
    without_record: Node, api: ClaimApi, allocated: Any
) -> None:
    without_record.specs.remove(api.claims["claim"]["metadata"]["uid"])

    await World(without_record, api).sweeper.let_go()

    assert isinstance(await without_record.prepare(allocated(name="other")), ClaimError)


async def test_a_spec_without_a_record_stays_as_long_as_nobody_knows_the_devices(
    without_record: Node, api: ClaimApi, tmp_path: Path
) -> None:
    await without_record.unprepare(api.claims["claim"])
    blind = Node(tmp_path, api)
    blind.inventory = {}
    await blind.start()
    blind.specs.write("0b0c1d6c-1c3b-4f6e-9d0a-000000000009", b"{}")

    await sweep_twice(World(blind, api), after=10 * GRACE)

    assert len(blind.spec_files()) == 1


async def test_a_spec_of_a_quarantined_record_stays_for_containers_that_restart(
    node: Node, world: World, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    await node.prepare(claim)
    (tmp_path / "plugin" / "claims" / f"{claim['metadata']['uid']}.json").write_text("damaged")
    node.records.read(claim["metadata"]["uid"])

    await world.sweeper.sweep()

    assert len(node.spec_files()) == 1


async def test_files_of_others_in_the_cdi_root_stay(node: Node, world: World) -> None:
    (node.cdi_root / "nvidia.yaml").write_text("x")
    (node.cdi_root / f"k8s.{DRIVER}-other.json").write_text("x")

    await world.sweeper.sweep()

    assert len(node.spec_files()) == 2


async def test_files_for_containers_that_belong_to_no_claim_are_removed(
    node: Node, world: World, allocated: Any, tmp_path: Path
) -> None:
    claim = allocated()
    await node.prepare(claim)
    files = tmp_path / "metadata"
    for uid in (claim["metadata"]["uid"], "0b0c1d6c-1c3b-4f6e-9d0a-000000000009"):
        (files / uid / "gpu").mkdir(parents=True)
        (files / uid / "gpu" / "metadata.json").touch()

    await world.sweeper.sweep()

    assert [path.name for path in files.iterdir()] == [claim["metadata"]["uid"]]


async def test_an_answer_that_is_no_claim_does_not_say_that_one_is_gone(
    node: Node, world: World, api: ClaimApi, allocated: Any
) -> None:
    await node.prepare(allocated())
    api.claims["claim"] = {}

    with pytest.raises(ApiError, match=r"expected an object with metadata\.uid"):
        await world.sweeper.sweep()

    assert len(node.records) == 1


async def test_a_claim_that_was_read_since_the_kubelet_took_us_is_not_asked_for_again(
    node: Node, world: World, api: ClaimApi, allocated: Any
) -> None:
    world.registered_at = float("-inf")
    await node.prepare(allocated())
    before = api.gets

    await sweep_twice(world, after=10 * GRACE)

    assert api.gets == before


async def test_after_a_start_each_claim_is_asked_for_once_and_again_when_the_kubelet_has_started(
    node: Node, world: World, api: ClaimApi, allocated: Any
) -> None:
    world.registered_at = float("-inf")
    claim = allocated()
    await node.prepare(claim)
    node.common.pods.forget(claim["metadata"]["uid"])  # as after a start of the driver
    before = api.gets

    await sweep_twice(world, after=10 * GRACE)
    after_start = api.gets
    world.registered_at = float("inf")
    await world.sweeper.sweep()

    assert (after_start - before, api.gets - after_start) == (1, 1)
