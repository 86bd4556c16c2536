"""The lock at which the driver's instances meet. Two FileLocks are two processes to flock."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from driver.claims.ledger.lock import FileLock
from tests.eventually import PATIENCE, eventually


@pytest.fixture
def lock(tmp_path: Path) -> FileLock:
    return FileLock(str(tmp_path / ".lock"))


@pytest.fixture
def other(tmp_path: Path) -> FileLock:
    return FileLock(str(tmp_path / ".lock"))


def threads() -> int:
    return sum(thread.name == "lock" for thread in threading.enumerate())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def given_up(lock: FileLock) -> None:
    with pytest.raises(TimeoutError):
        await lock.acquire(within=0.01)


async def test_who_comes_second_gets_it_when_the_first_lets_go(lock: FileLock, other: FileLock) -> None:
    first = await other.acquire()
    second = asyncio.create_task(lock.acquire())
    await eventually(threads)

    os.close(first)

    os.close(await second)


async def test_all_who_wait_get_it_one_after_the_other(lock: FileLock, other: FileLock) -> None:
    held = 0
    first = await other.acquire()

    async def hold() -> None:
        nonlocal held
        descriptor = await lock.acquire()
        held += 1
        assert held == 1
        await asyncio.sleep(0)
        held -= 1
        os.close(descriptor)

    waiting = asyncio.gather(*(hold() for _ in range(20)))
    await eventually(threads)
    os.close(first)

    await waiting


async def test_however_many_wait_in_vain_one_thread_is_left(lock: FileLock, other: FileLock) -> None:
    first = await other.acquire()

    await asyncio.gather(*(given_up(lock) for _ in range(20)))
    await given_up(lock)

    assert threads() == 1
    os.close(first)
    await eventually(lambda: threads() == 0)


async def test_a_lock_that_comes_when_nobody_waits_any_more_is_given_back(lock: FileLock, other: FileLock) -> None:
    first = await other.acquire()
    await given_up(lock)

    os.close(first)

    os.close(await other.acquire(within=PATIENCE))


async def test_who_comes_after_others_gave_up_gets_it(lock: FileLock, other: FileLock) -> None:
    first = await other.acquire()
    await given_up(lock)
    late = asyncio.create_task(lock.acquire())
    await asyncio.sleep(0)

    os.close(first)

    os.close(await late)
    os.close(await lock.acquire(within=PATIENCE))


async def test_a_caller_that_goes_while_it_waits_leaves_no_descriptor_open(lock: FileLock, other: FileLock) -> None:
    first = await other.acquire()
    before = descriptors()
    waiting = asyncio.create_task(lock.acquire())
    await eventually(threads)
    waiting.cancel()

    os.close(first)

    await eventually(lambda: threads() == 0)
    await eventually(lambda: descriptors() == before - 1)


async def test_a_directory_that_was_removed_is_made_again(tmp_path: Path) -> None:
    lock = FileLock(str(tmp_path / "gone" / ".lock"))

    os.close(await lock.acquire())

    assert (tmp_path / "gone" / ".lock").exists()


async def test_a_path_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        await FileLock(str(tmp_path)).acquire()
