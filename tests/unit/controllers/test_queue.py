import asyncio

import pytest

from driver.kube.client import ApiError
from driver.sim.controllers.queue import WorkQueue
from tests.eventually import PATIENCE


async def work(queue, sync):
    """Run the queue until ``sync`` has raised StopAsyncIteration."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StopAsyncIteration):
            await queue.run(sync)


async def test_a_key_waits_only_once():
    seen = []
    queue = WorkQueue("thing")
    for key in ("a", "a", "b", "a"):
        queue.add(key)

    async def sync(key):
        seen.append(key)
        if key == "b":
            raise StopAsyncIteration

    await work(queue, sync)

    assert seen == ["a", "b"]


async def test_a_refused_write_is_tried_again():
    attempts = []
    queue = WorkQueue("thing")
    queue.add("a")

    async def sync(key):
        attempts.append(key)
        if len(attempts) == 3:
            raise StopAsyncIteration
        raise ApiError(409, "conflict")

    await work(queue, sync)

    assert attempts == ["a", "a", "a"]


async def test_an_answer_in_seconds_is_an_appointment():
    calls = []
    queue = WorkQueue("thing")
    queue.add("a")

    async def sync(key):
        calls.append(key)
        if len(calls) == 2:
            raise StopAsyncIteration
        return 0.01

    await work(queue, sync)

    assert calls == ["a", "a"]


async def test_a_defect_ends_the_queue():
    queue = WorkQueue("thing")
    queue.add("a")

    async def sync(_key):
        raise KeyError("defect")

    with pytest.raises(KeyError, match="defect"):
        await queue.run(sync)
