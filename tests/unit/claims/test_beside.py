"""What others do on the node meanwhile: another instance, an administrator."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from driver.base import files
from driver.claims import unprepare
from driver.claims.errors import Reason
from driver.claims.ledger.records import Records
from tests.eventually import eventually

from .conftest import ClaimApi, Node, result

if TYPE_CHECKING:
    from collections.abc import Iterator


async def test_an_unprepare_through_another_instance_while_the_claim_is_read_leaves_one_story(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    other = await Node(tmp_path, api).start()

    async def meanwhile() -> None:
        api.on_get = None
        assert await other.unprepare(claim) is None

    api.on_get = meanwhile

    await node.prepare(claim)

    # The kubelet asks the one whose answer came last; whichever it was, an unprepare leaves nothing.
    assert len(node.spec_files()) == len((await Node(tmp_path, api).start()).records)
    assert await other.unprepare(claim) is None
    assert node.spec_files() == []
    assert len((await Node(tmp_path, api).start()).records) == 0


async def test_what_one_instance_prepared_the_other_unprepares_and_the_device_is_free_for_both(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated(name="first")
    other = await Node(tmp_path, api).start()
    await node.prepare(claim)

    assert await other.unprepare(claim) is None

    [device] = await node.prepare(allocated(name="second"))
    assert device.device == "gpu-0"


async def test_each_record_has_a_time_stamp_of_its_own_so_that_another_instance_sees_it(
    tmp_path: Path, api: ClaimApi, allocated: Any
) -> None:
    node = await Node(tmp_path, api).start()
    ticks = iter(range(1_000_000_001, 1_000_000_100))
    records = Records(
        tmp_path / "plugin" / "claims", boot_id="boot-1", quarantine=node.records.quarantine, clock=ticks.__next__
    )
    claim = allocated()
    await node.prepare(claim)
    [record] = node.records

    stamps = []
    for _ in range(3):
        async with records.exclusive() as changes:
            changes.put(record)
        [path] = (tmp_path / "plugin" / "claims").glob("*.json")
        stamps.append(path.stat().st_mtime_ns)

    assert stamps == [1_000_000_001, 1_000_000_002, 1_000_000_003]


@pytest.fixture
def stopped(node: Node, tmp_path: Path) -> Iterator[None]:
    """Another instance that was stopped while it changed records."""
    with (tmp_path / "plugin" / "claims" / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("stopped")
async def test_an_instance_that_hangs_while_it_changes_records_is_named_before_the_kubelet_gives_up(
    node: Node, allocated: Any
) -> None:
    error = await node.prepare(allocated(), seconds_left=4)

    assert error.reason is Reason.RECORD
    assert "another instance of the driver has held" in str(error)
    assert str(node.records.lock_path) in str(error)
    assert node.spec_files() == []


@pytest.mark.usefixtures("stopped")
async def test_a_caller_that_goes_while_another_instance_is_waited_for_leaves_nothing(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    call = asyncio.create_task(node.prepare(claim))
    await eventually(lambda: api.gets == 1)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert list((tmp_path / "plugin" / "claims").glob("*.json")) == []
    assert node.spec_files() == []


async def test_a_spec_directory_that_an_administrator_removes_is_made_again(node: Node, allocated: Any) -> None:
    first = allocated(name="first")
    await node.prepare(first)
    shutil.rmtree(node.cdi_root)

    [device] = await node.prepare(first)

    assert device.device == "gpu-0"
    assert len(node.spec_files()) == 1
    shutil.rmtree(node.cdi_root)
    assert await node.unprepare(first) is None


async def test_half_written_files_of_a_killed_instance_are_removed_by_the_one_that_lives(
    node: Node, tmp_path: Path
) -> None:
    record = tmp_path / "plugin" / "claims" / files.temporary_name("dead.json")
    record.write_text("{")
    names = tmp_path / "plugin" / files.temporary_name("device-names.json")
    names.write_text("{")
    staged = next(path for path in node.cdi_root.iterdir() if path.is_dir()) / files.temporary_name("dead.json")
    staged.write_text("{")

    await node.records.tidy()
    node.specs.tidy()
    there = [record.exists(), names.exists(), staged.exists()]
    await node.records.tidy(older=-1)
    node.specs.tidy(older=-1)

    assert there == [True] * 3  # they may be another instance's, at work
    assert [record.exists(), names.exists(), staged.exists()] == [False] * 3


async def test_a_claim_that_is_unprepared_while_another_instance_is_waited_for_is_not_prepared_after_that(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unprepare, "PATIENCE", 0.1)
    claim = allocated()
    with (tmp_path / "plugin" / "claims" / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        call = asyncio.create_task(node.prepare(claim))
        await eventually(lambda: any(thread.name == "lock" for thread in threading.enumerate()))
        assert await node.unprepare(claim) is None

    error = await call

    assert error.reason is Reason.REPLACED
    assert node.spec_files() == []
    assert node.records.read(claim["metadata"]["uid"]) is None


async def test_a_directory_of_records_that_an_administrator_removes_is_made_again(
    node: Node, tmp_path: Path, allocated: Any
) -> None:
    first = allocated(name="first")
    await node.prepare(first)
    shutil.rmtree(tmp_path / "plugin" / "claims")

    [second] = await node.prepare(allocated(result("gpu-1"), name="second"))
    [again] = await node.prepare(first)

    assert (second.device, again.device) == ("gpu-1", "gpu-0")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, files.LARGEST + 1)


@pytest.mark.parametrize("odd", [pipe, Path.mkdir, huge])
async def test_what_is_no_record_in_the_place_of_one_is_set_aside_unread_and_its_devices_are_held(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any, odd: Any
) -> None:
    holder = allocated(name="holder")
    await node.prepare(holder)
    path = tmp_path / "plugin" / "claims" / f"{holder['metadata']['uid']}.json"
    path.unlink()
    odd(path)

    restarted = await Node(tmp_path, api).start()
    error = await restarted.prepare(allocated(name="second"))

    assert error.reason is Reason.IN_USE
    assert "whose record was damaged or lost: see" in str(error)
    assert [problem for _, problem in restarted.quarantined] == ["it is no file of at most 4 MiB"]
    assert await restarted.unprepare(holder) is None
    assert [device.device for device in await restarted.prepare(allocated(name="second"))] == ["gpu-0"]


async def test_what_a_claim_holds_is_held_while_its_record_cannot_be_read(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    other = await Node(tmp_path, api).start()
    holder = allocated(name="holder")
    await node.prepare(holder)
    record = tmp_path / "plugin" / "claims" / f"{holder['metadata']['uid']}.json"
    record.unlink()
    record.symlink_to(record.name)
    await other.prepare(allocated(result("gpu-1"), name="other"))

    error = await node.prepare(allocated(name="second"))

    assert error.reason is Reason.IN_USE
    assert "still held by claim default/holder" in str(error)


async def test_a_leftover_that_cannot_be_removed_does_not_keep_the_driver_from_starting(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    (tmp_path / "plugin" / "claims" / "a.tmp").mkdir()

    started = await Node(tmp_path, api).start()

    assert [device.device for device in await started.prepare(allocated())] == ["gpu-0"]


async def test_what_a_claim_holds_stays_held_when_the_directory_of_records_is_removed(
    node: Node, tmp_path: Path, allocated: Any
) -> None:
    holder = allocated(name="holder")
    await node.prepare(holder)
    [before] = node.records
    shutil.rmtree(tmp_path / "plugin" / "claims")

    error = await node.prepare(allocated(name="other"))

    assert error.reason is Reason.IN_USE
    assert list(node.records) == [before]
    assert (tmp_path / "plugin" / "claims" / f"{holder['metadata']['uid']}.json").exists()


async def test_a_claim_whose_record_was_removed_is_unprepared_as_its_record_said(
    node: Node, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    await node.prepare(claim)
    shutil.rmtree(tmp_path / "plugin" / "claims")

    assert await node.unprepare(claim) is None

    assert node.spec_files() == []
    assert len(node.records) == 0
    assert [device.device for device in await node.prepare(allocated(name="other"))] == ["gpu-0"]


async def test_records_are_not_written_again_once_another_instance_has_ended_their_claims(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    await node.prepare(claim)
    other = await Node(tmp_path, api).start()
    await other.unprepare(claim)

    [device] = await node.prepare(allocated(name="second"))

    assert device.device == "gpu-0"
    assert len(node.records) == 1
