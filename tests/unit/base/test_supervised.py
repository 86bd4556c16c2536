"""Background work: an error of it is said once, and tried again after longer and longer pauses."""

from __future__ import annotations

import asyncio

import pytest

from driver.base.supervised import LASTING, supervised


class Work:
    """Fails so often, each time after so long, and then is done."""

    def __init__(self, *, failures: int, lasts: float = 0.0) -> None:
        self._left = failures
        self._lasts = lasts
        self.now = 0.0
        self.pauses: list[float] = []

    async def __call__(self) -> None:
        self.now += self._lasts
        self._left -= 1
        if self._left >= 0:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._fail())

    async def _fail(self) -> None:
        raise KeyError("metadata")

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


async def run(work: Work) -> None:
    await supervised(
        work, name="work", fatal=(LookupError,) if work.now else (), clock=lambda: work.now, sleep=work.sleep
    )


async def test_what_fails_is_tried_again_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(failures=30)

    await run(work)

    assert len(work.pauses) == 30
    assert sum(work.pauses[15:]) > 60  # 15 pauses of half a minute on the average
    [said] = caplog.records
    assert said.getMessage() == "work failed unexpectedly, trying again: KeyError('metadata')"
    assert said.exc_info is not None


async def test_what_has_worked_for_long_is_tried_again_soon() -> None:
    work = Work(failures=30, lasts=2 * LASTING)

    await run(work)

    assert max(work.pauses) <= 0.5


async def test_a_fatal_error_ends_it() -> None:
    work = Work(failures=1)
    work.now = 1.0

    with pytest.raises(ExceptionGroup):
        await run(work)

    assert work.pauses == []
