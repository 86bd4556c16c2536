"""Who of several instances counts GPU time, and from when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from driver.usage import telling
from driver.usage.telling import Usage
from tests.eventually import eventually
from tests.unit.usage.examples import record
from tests.unit.usage.test_collector import Teller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Elsewhere:
    """A lead of which the test says who has it."""

    def __init__(self) -> None:
        self.elsewhere = False

    def is_elsewhere(self) -> bool:
        return self.elsewhere


@pytest.fixture
async def lead(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    monkeypatch.setattr(telling, "LOOK_PERIOD", 0.01)
    return Elsewhere()


@pytest.fixture
async def teller(tmp_path: Path, lead: Any) -> AsyncIterator[Teller]:
    """An instance that holds a claim and counts."""
    teller = Teller(tmp_path)
    await teller.put(record(since=0.0))
    api: Any = None
    usage = Usage(teller.common, api=api, lead=lead, plugin_dir=tmp_path, proc=tmp_path)
    teller.accounts = usage._accounts
    task = asyncio.create_task(usage.account())
    yield teller
    task.cancel()


async def test_an_instance_that_is_alone_counts_at_once(teller: Teller) -> None:
    await eventually(teller.accounts.totals)


async def test_while_another_tells_nothing_is_counted_that_has_grown_old(teller: Teller, lead: Elsewhere) -> None:
    await eventually(teller.accounts.totals)

    lead.elsewhere = True

    await eventually(lambda: not teller.accounts.totals())


async def test_who_tells_next_reads_first_what_the_one_before_has_added_up(teller: Teller, lead: Elsewhere) -> None:
    lead.elsewhere = True
    await eventually(lambda: not teller.accounts.totals())
    other = Teller(teller.root)
    await other.records.open()
    async with other.records.exclusive() as changes:
        changes.remove("uid-of-claim")
    await other.accounts.settle()
    told = other.accounts.totals()

    lead.elsewhere = False

    assert await eventually(teller.accounts.totals) == told
