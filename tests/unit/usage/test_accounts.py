"""GPU time: it outlives processes, is counted once, and never goes back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from driver.base import files
from driver.claims.ledger import ended
from driver.claims.ledger.quarantine import Quarantine
from driver.claims.ledger.records import Records
from driver.usage import accounts
from driver.usage.accounts import Accounts, Line
from tests.unit.usage.examples import BOOT, device, partition, record

if TYPE_CHECKING:
    from pathlib import Path

    from driver.claims.ledger.record import Record

WHOLE = Line("default", "gpu", "H100", "")
PART = Line("default", "mig", "H100", "1g.10gb")


class Instance:
    """One driver's ledger and accounts on a node; make another for a restart or an upgrade."""

    def __init__(self, root: Path, *, now: float = 100.0, boot_id: str = BOOT) -> None:
        self.root, self.now = root, now
        self.records = Records(
            root / "claims",
            boot_id=boot_id,
            quarantine=Quarantine(root / "quarantine", lambda *_: None),
            boot_clock=self.clock,
        )
        self.accounts = Accounts(self.records, root / "gpu-time.json", clock=self.clock)

    def clock(self) -> float:
        return self.now

    async def start(self) -> Instance:
        await self.records.open()
        await self.accounts.settle()
        return self

    async def put(self, one: Record) -> None:
        async with self.records.exclusive() as changes:
            changes.put(one)

    async def end(self, name: str = "claim") -> None:
        async with self.records.exclusive() as changes:
            changes.remove(f"uid-of-{name}")

    def seconds(self, line: Line = WHOLE) -> float:
        totals = self.accounts.totals()
        return totals[line].device_seconds if line in totals else 0.0

    def left(self) -> list[str]:
        return sorted(path.name for path in (self.root / "ended").iterdir())


async def restarted(instance: Instance) -> Instance:
    return await Instance(instance.root, now=instance.now).start()


@pytest.fixture
async def node(tmp_path: Path) -> Instance:
    return await Instance(tmp_path).start()


async def test_what_is_held_counts_as_time_goes_on(node: Instance) -> None:
    await node.put(record(since=100))
    node.now = 130

    assert node.seconds() == 30


async def test_devices_count_by_their_weight(node: Instance) -> None:
    await node.put(record("claim", device(), partition(), device("gpu-1", admin=True)))
    node.now = 107

    totals = node.accounts.totals()

    assert set(totals) == {WHOLE, PART}
    assert totals[WHOLE][:2] == (7, 7)
    assert totals[PART].device_seconds == 7
    assert totals[PART].gpu_seconds == pytest.approx(1, abs=1e-4)


async def test_an_ended_claim_stays_counted(node: Instance) -> None:
    await node.put(record())
    node.now = 130
    await node.end()
    node.now = 500
    assert node.seconds() == 30

    await node.accounts.settle()

    assert node.seconds() == 30
    assert node.left() == []
    assert (await restarted(node)).seconds() == 30


async def test_a_process_that_is_killed_before_it_adds_up_loses_nothing(node: Instance) -> None:
    await node.put(record("held"))
    await node.put(record("ended"))
    node.now = 130
    await node.end("ended")
    node.now = 140
    before = node.seconds()

    assert (await restarted(node)).seconds() == before == 70


async def test_what_was_added_up_is_not_added_again_though_its_files_are_still_there(
    node: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.put(record())
    node.now = 130
    await node.end()
    with monkeypatch.context() as patch:
        patch.setattr(node.records.ended, "remove", lambda _names: (_ for _ in ()).throw(OSError("killed here")))
        with pytest.raises(OSError, match="killed here"):
            await node.accounts.settle()
    assert len(node.left()) == 1

    again = await restarted(node)

    assert again.seconds() == 30
    assert again.left() == []
    await again.put(record("next", since=130))
    again.now = 135
    await again.end("next")
    await again.accounts.settle()
    assert again.seconds() == 35


async def test_another_allocation_of_a_claim_is_another_term(node: Instance) -> None:
    await node.put(record("claim", device(), since=100))
    node.now = 130
    await node.put(record("claim", partition(), since=130))
    node.now = 140

    assert (node.seconds(), node.seconds(PART)) == (30, 10)
    again = await restarted(node)
    assert (again.seconds(), again.seconds(PART)) == (30, 10)


async def test_a_record_that_is_written_again_is_the_same_term(node: Instance) -> None:
    await node.put(record())
    node.now = 120
    await node.put(record())
    node.now = 130

    assert node.seconds() == 30
    assert node.left() == []


async def test_a_process_that_is_killed_before_it_replaces_a_record_counts_it_once(
    node: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.put(record(since=100))
    node.now = 130
    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", lambda *_, **__: (_ for _ in ()).throw(OSError("killed here")))
        with pytest.raises(Exception, match="cannot write"):
            await node.put(record("claim", partition(), since=130))
    node.now = 135
    assert (node.seconds(), node.seconds(PART)) == (35, 0)  # it goes on, too, where only the disk was full
    node.now = 130

    again = await restarted(node)
    again.now = 140
    assert again.seconds() == 40
    await again.end()
    assert again.seconds() == 40
    await again.accounts.settle()
    assert (again.seconds(), again.left()) == (40, [])


async def test_two_instances_count_once(node: Instance) -> None:
    other = await restarted(node)
    await node.put(record("first"))
    await other.put(record("second"))
    for instance in (node, other):
        await instance.records.refresh()
        instance.now = 110
    assert (node.seconds(), other.seconds()) == (20, 20)

    await node.end("first")
    await other.records.refresh()
    await node.accounts.settle()
    await other.accounts.settle()
    for instance in (node, other):
        instance.now = 115

    assert (node.seconds(), other.seconds()) == (25, 25)


async def test_a_counter_does_not_go_back_where_another_instance_ended_a_claim(node: Instance) -> None:
    other = await restarted(node)
    await node.put(record())
    await other.records.refresh()
    other.now = node.now = 110
    await other.end()
    node.now = 120  # what it does not know yet
    assert node.seconds() == 20

    await node.records.refresh()
    assert node.seconds() == 20
    await node.accounts.settle()
    assert node.seconds() == 20

    assert (await restarted(node)).seconds() == 20  # nor for who comes after it


async def test_what_another_instance_has_added_up_is_not_added_again_however_often_it_did(node: Instance) -> None:
    await node.put(record("first"))
    node.now = 130
    await node.end("first")
    other = await restarted(node)  # adds that up
    await other.put(record("second", since=130))
    other.now = node.now = 140
    await other.end("second")
    await other.accounts.settle()

    await node.accounts.settle()

    assert (node.seconds(), node.records.ended.recent) == (40, {})
    assert (await restarted(node)).seconds() == 40


async def test_who_tells_next_begins_where_the_one_before_was(node: Instance) -> None:
    later = await restarted(node)
    await later.put(record())
    later.now = node.now = 130
    await later.end()
    await later.accounts.settle()  # and is killed
    told = later.seconds()
    node.accounts.rest()

    assert node.accounts.totals() == {}  # rather than less than was told: a counter that goes back is counted anew
    await node.accounts.settle()

    assert node.seconds() == told == 30


async def test_everything_begins_anew_with_the_boot(node: Instance) -> None:
    await node.put(record())
    node.now = 130
    await node.end()
    await node.accounts.settle()
    await node.put(record("held"))
    await node.put(record("ended"))
    await node.end("ended")

    later = await Instance(node.root, now=5, boot_id="boot-2").start()

    assert later.accounts.totals() == {}
    assert later.left() == []


async def test_a_claim_of_which_nobody_noted_the_beginning_is_not_counted(node: Instance) -> None:
    await node.put(record(since=None))
    node.now = 130
    assert node.accounts.totals() == {}

    await node.end()

    assert node.left() == []


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"bootID": "boot-1", "lines": [[1]], "settled": [3]}'])
async def test_a_damaged_file_is_begun_anew(node: Instance, content: str) -> None:
    (node.root / "gpu-time.json").write_text(content)

    again = await restarted(node)
    await again.put(record())
    again.now = 130

    assert again.seconds() == 30


async def test_lines_are_bounded_and_those_of_ended_claims_go_first(node: Instance) -> None:
    await node.put(record("held", namespace="held", since=1))
    for number in range(accounts.MOST_LINES + 5):
        node.now += 1
        await node.put(record("claim", namespace=f"n-{number}", since=node.now))
        await node.end()
    await node.accounts.settle()

    namespaces = {line.namespace for line in node.accounts.totals()}

    assert "held" in namespaces
    assert "n-0" not in namespaces
    assert f"n-{accounts.MOST_LINES + 4}" in namespaces
    assert len(namespaces) <= accounts.MOST_LINES + 1


async def test_a_claim_ends_although_its_time_cannot_be_noted(node: Instance) -> None:
    await node.put(record())
    (node.root / "ended").rmdir()
    node.now = 130

    await node.end()

    assert not list((node.root / "claims").glob("*.json"))
    assert node.seconds() == 30  # as long as the process lives


async def test_as_many_as_end_are_kept_in_memory_until_they_are_added_up(node: Instance) -> None:
    for number in range(ended.MANY):
        assert not node.records.ended.are_many
        await node.put(record(f"claim-{number}"))
        await node.end(f"claim-{number}")
    assert node.records.ended.are_many  # somebody is told that it is time

    await node.accounts.settle()

    assert not node.records.ended.are_many
    assert node.records.ended.recent == {}
    assert node.left() == []


async def test_on_a_full_disk_no_more_than_so_many_are_kept(node: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended, "MOST", 3)
    for number in range(5):
        await node.put(record(f"claim-{number}"))
        await node.end(f"claim-{number}")

    assert len(node.records.ended.recent) == len(node.left()) == 3


async def test_nothing_is_written_while_nothing_ends(node: Instance) -> None:
    await node.put(record())
    before = sorted((path, path.stat().st_mtime_ns) for path in node.root.rglob("*"))

    for _ in range(3):
        node.now += 60
        await node.accounts.settle()
        node.accounts.totals()

    assert sorted((path, path.stat().st_mtime_ns) for path in node.root.rglob("*")) == before


def counting(real: Any, name: str, calls: list[str]) -> Any:
    def call(*args: Any, **more: Any) -> Any:
        calls.append(name)
        return real(*args, **more)

    return call


async def test_the_end_of_a_claim_costs_no_more_than_to_remove_its_record(
    node: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.put(record("noted"))
    await node.put(record("not-noted", since=None))
    calls: list[str] = []
    for name in ("open", "write", "pwrite", "pread", "rename", "unlink", "link", "stat", "scandir"):
        monkeypatch.setattr(os, name, counting(getattr(os, name), name, calls))

    await node.end("not-noted")
    removed, calls[:] = list(calls), []
    await node.end("noted")

    assert calls == [call.replace("unlink", "rename") for call in removed]
    assert removed.count("unlink") == 1
