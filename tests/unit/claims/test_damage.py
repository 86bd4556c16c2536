"""A damaged record: its device stays taken until somebody who knows says that it is free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from driver.claims.errors import ClaimError
from driver.claims.ledger.damage import UNKNOWN, stand_in
from driver.claims.ledger.record import Placement, Record, State
from driver.inventory.catalogue import catalogue
from driver.inventory.options import DeviceOptions, Options, Partitioning
from tests.unit.inventory.mig_facts import node as mig_node

from .conftest import DRIVER, POOL, Node
from .test_sweep import World

if TYPE_CHECKING:
    from .conftest import ClaimApi

GARBAGE = '{"schema": 1, "claim'
SHARE = "0b0c1d6c-1c3b-4f6e-9d0a-000000000001"


def damage(node: Node, claim: dict[str, Any], content: str = GARBAGE) -> None:
    path = node.cdi_root.parent / "plugin" / "claims" / f"{claim['metadata']['uid']}.json"
    path.unlink()  # an editor writes another file
    path.write_text(content)


@pytest.fixture
async def restarted(node: Node, api: ClaimApi, tmp_path: Path, allocated: Any) -> Node:
    """After the record of ``holder``, which has gpu-0, was damaged while no instance ran."""
    holder = allocated(name="holder")
    await node.prepare(holder)
    damage(node, holder)
    return await Node(tmp_path, api).start()


async def test_its_device_is_not_given_to_another_claim(restarted: Node, allocated: Any) -> None:
    error = await restarted.prepare(allocated(name="other"))

    assert isinstance(error, ClaimError)
    [(path, _)] = restarted.quarantined
    assert str(path) in str(error)
    assert restarted.api.claims["holder"]["metadata"]["uid"] in str(error)


async def test_other_devices_are(restarted: Node, allocated: Any) -> None:
    [device] = await restarted.prepare(
        allocated({"device": "gpu-1"} | {"request": "r", "driver": DRIVER, "pool": POOL})
    )

    assert device.device == "gpu-1"


async def test_unprepare_lets_go_of_it(restarted: Node, allocated: Any) -> None:
    assert await restarted.unprepare(restarted.api.claims["holder"]) is None

    [device] = await restarted.prepare(allocated(name="other"))
    assert device.device == "gpu-0"


async def test_its_own_claim_is_prepared_anew(restarted: Node) -> None:
    [device] = await restarted.prepare(restarted.api.claims["holder"])

    assert device.device == "gpu-0"
    assert [record.salvaged_from for record in restarted.records] == [""]


async def test_it_stays_taken_over_the_next_restart(
    restarted: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    again = await Node(tmp_path, api).start()

    assert isinstance(await again.prepare(allocated(name="other")), ClaimError)
    assert len(again.quarantined) == 0


async def test_an_operator_who_deletes_the_file_frees_it(restarted: Node, api: ClaimApi, allocated: Any) -> None:
    [(path, _)] = restarted.quarantined
    path.unlink()

    await World(restarted, api).sweeper.let_go()

    [device] = await restarted.prepare(allocated(name="other"))
    assert device.device == "gpu-0"


async def test_the_sweeper_does_not_take_a_claim_without_a_name_for_gone(
    restarted: Node, api: ClaimApi, allocated: Any
) -> None:
    world = World(restarted, api)
    await world.sweeper.sweep()
    world.now += 10_000
    await world.sweeper.sweep()

    assert isinstance(await restarted.prepare(allocated(name="other")), ClaimError)


async def test_a_record_that_is_damaged_while_we_run_is_written_again_as_we_know_it(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    await node.prepare(claim)
    [before] = node.records
    damage(node, claim)

    devices = await node.prepare(claim)

    assert devices == before.devices
    assert list((await Node(tmp_path, api).start()).records) == [before]


async def test_without_its_cdi_spec_nothing_can_start_any_more_and_nothing_is_held(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    holder = allocated(name="holder")
    await node.prepare(holder)
    damage(node, holder)
    node.specs.remove(holder["metadata"]["uid"])
    restarted = await Node(tmp_path, api).start()

    [device] = await restarted.prepare(allocated(name="other"))

    assert device.device == "gpu-0"


async def test_devices_that_become_known_later_are_held_then(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    holder = allocated(name="holder")
    await node.prepare(holder)
    damage(node, holder)
    restarted = Node(tmp_path, api)
    known, restarted.inventory = restarted.inventory, {}
    await restarted.start()
    assert len(restarted.records) == 0

    restarted.inventory = known
    restarted.records.hold_by_specs()

    assert isinstance(await restarted.prepare(allocated(name="other")), ClaimError)


def held(*names: str, spec: bytes | None = None) -> Record | None:
    offered = catalogue(
        mig_node("H100-SXM5-80GB", 2), Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC))
    )
    return stand_in(
        "u-1",
        json.dumps({"devices": [{"name": name} for name in names]}).encode() if spec is None else spec,
        source="/quarantine/u-1.json",
        devices={device.name: device for device in offered},
        driver=DRIVER,
        pool=POOL,
        boot_id="boot-1",
    )


def test_a_partition_is_held_with_its_placement_so_that_unprepare_destroys_it() -> None:
    record = held("u-1-gpu-0-mig-1g10gb-19-3")

    assert record is not None
    assert record.devices[0].placement == Placement(profile="1g.10gb", start=3)
    assert record.devices[0].slots == (3,)
    assert record.state is State.PREPARING


def test_a_share_keeps_its_id() -> None:
    record = held(f"u-1-gpu-1-{SHARE}")

    assert record is not None
    assert (record.devices[0].device, record.devices[0].share_id) == ("gpu-1", SHARE)


@pytest.mark.parametrize("name", ["u-1-gpu-1-admin", f"u-1-gpu-1-{SHARE}-admin"])
def test_what_a_claim_only_looked_at_is_free_for_others(name: str) -> None:
    record = held(name)

    assert record is not None
    assert [(device.device, device.admin) for device in record.devices] == [("gpu-1", True)]


def test_only_names_of_the_claim_and_of_devices_that_are_there_count() -> None:
    record = held("u-1-gpu-1", "u-2-gpu-0", "u-1-gpu-99", "u-1-")

    assert record is not None
    assert [device.device for device in record.devices] == ["gpu-1"]
    assert record.claim.name == UNKNOWN


@pytest.mark.parametrize(
    "spec", [b"", b"[]", b"\xff", b'{"devices": 5}', b'{"devices": [1, {"name": 2}]}', b"[" * 99999]
)
def test_a_spec_that_says_nothing_holds_nothing(spec: bytes) -> None:
    assert held(spec=spec) is None
