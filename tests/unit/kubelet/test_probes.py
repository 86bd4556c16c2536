"""One probe of our own sockets for all who ask."""

from __future__ import annotations

import asyncio

import pytest

from driver.kubelet.probes import FRESH, Liveness


class Probe:
    """Answers when it is told to, and counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.alive = True
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self) -> bool:
        self.asked += 1
        await self.may_end.wait()
        return self.alive


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_all_who_ask_while_a_probe_is_under_way_share_it() -> None:
    probe = Probe()
    probe.may_end.clear()
    live = Liveness(probe)
    askers = [asyncio.create_task(live()) for _ in range(1000)]
    await asyncio.sleep(0)

    probe.may_end.set()

    assert await asyncio.gather(*askers) == [True] * 1000
    assert probe.asked == 1


async def test_an_answer_counts_for_a_moment_and_no_longer() -> None:
    probe, clock = Probe(), Clock()
    live = Liveness(probe, clock=clock)
    assert await live()
    probe.alive = False

    clock.now += FRESH - 0.01
    assert await live()
    clock.now += 0.02
    assert not await live()


async def test_an_asker_that_goes_takes_the_probe_from_nobody() -> None:
    probe = Probe()
    probe.may_end.clear()
    live = Liveness(probe)
    first, second = asyncio.create_task(live()), asyncio.create_task(live())
    await asyncio.sleep(0)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    probe.may_end.set()

    assert await second
