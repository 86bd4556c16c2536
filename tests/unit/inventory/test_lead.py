"""Which of several instances of a node publishes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from driver.inventory.lead import Lead
from tests.eventually import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "instances"


def test_one_that_is_alone_leads(directory: Path) -> None:
    assert Lead(directory).later() is None


def test_the_one_that_came_last_leads(directory: Path) -> None:
    old, new = Lead(directory), Lead(directory)
    old.later()

    assert new.later() is None
    assert old.later() is not None


def test_one_that_has_not_come_yet_is_in_nobodys_way(directory: Path) -> None:
    old, _starting = Lead(directory), Lead(directory)

    assert old.later() is None


async def test_the_older_leads_again_when_the_newer_has_gone(directory: Path) -> None:
    old, new = Lead(directory), Lead(directory)
    old.later()
    new.later()
    later = old.later()
    assert later is not None
    waiting = asyncio.ensure_future(old.gone(later))
    await asyncio.sleep(0)
    assert not waiting.done()

    new.leave()

    await asyncio.wait_for(waiting, PATIENCE)
    assert old.later() is None


async def test_of_three_the_second_leads_when_the_third_has_gone(directory: Path) -> None:
    first, second, third = Lead(directory), Lead(directory), Lead(directory)
    for lead in (first, second, third):
        lead.later()

    third.leave()

    assert second.later() is None
    assert first.later() is not None


async def test_waiting_for_one_that_has_gone_already_ends_at_once(directory: Path) -> None:
    await asyncio.wait_for(Lead(directory).gone("00000007-" + "0" * 32), PATIENCE)


def test_what_dead_instances_left_counts_for_nothing_and_goes(directory: Path) -> None:
    directory.mkdir()
    (directory / ("00000009-" + "a" * 32)).touch()
    (directory / (".entering-" + "b" * 32)).touch()

    lead = Lead(directory)

    assert lead.later() is None
    assert len(list(directory.iterdir())) == 1


def test_where_nothing_can_be_written_one_that_is_alone_leads(tmp_path: Path) -> None:
    (tmp_path / "instances").write_text("in the way")

    assert Lead(tmp_path / "instances").later() is None


def test_who_has_no_place_yet_leads_only_where_nobody_else_lives(directory: Path) -> None:
    starting = Lead(directory)
    assert not starting.is_elsewhere()

    running = Lead(directory)
    running.later()
    assert starting.is_elsewhere()
    assert not running.is_elsewhere()

    starting.later()
    assert running.is_elsewhere()
    assert not starting.is_elsewhere()

    starting.leave()
    assert not running.is_elsewhere()
