"""What tells a process to end, and that its work cleans up before it does."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from driver.base.signals import ToldToEndError, ending, until_told

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKING = (signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """As a program starts that a person runs, however the tests were started."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, *ASKING)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, *ASKING], ids=lambda number: number.name)
async def test_work_that_is_told_to_end_cleans_up_first(number: signal.Signals) -> None:
    cleaned = []

    async def work() -> None:
        try:
            signal.raise_signal(number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    with pytest.raises(ToldToEndError) as told:
        await until_told(work())

    assert (told.value.number, cleaned) == (number, [True])


async def test_work_that_is_done_has_an_answer() -> None:
    async def work() -> str:
        return "done"

    assert await until_told(work()) == "done"


async def test_whoever_asks_again_does_not_wait() -> None:
    async def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    with pytest.raises(ToldToEndError):
        await until_told(work())


@pytest.mark.parametrize("number", ASKING, ids=lambda number: number.name)
def test_what_a_shell_has_us_ignore_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)

    assert number not in ending()
    assert signal.SIGTERM in ending()
