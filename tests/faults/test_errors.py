"""The disk is full, read-only, broken or closed to us; hardware fails or hangs: said clearly, and over when it is."""

from __future__ import annotations

import errno

import pytest

from tests.faults.breaking import MOST, failing_at, undisturbed
from tests.faults.points import Plan
from tests.faults.rig import Launcher, rig
from tests.faults.scenarios import BY_NAME, SCENARIOS, Scenario, Stage

EACH = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
SOME = pytest.mark.parametrize("scenario", [BY_NAME["whole"], BY_NAME["partition"]], ids=lambda s: s.name)
# The driver looks at no error's number. Once, only where it happens matters, and EIO happens at every operation; for
# good, each number leaves other operations to recover with.
DISKS = pytest.mark.parametrize(
    ("error", "lasting"),
    [(errno.EIO, False), (errno.ENOSPC, True), (errno.EROFS, True), (errno.EIO, True), (errno.EACCES, True)],
    ids=lambda value: errno.errorcode[value] if value > 1 else "for-good" if value else "once",
)
LASTING = pytest.mark.parametrize("lasting", [False, True], ids=["once", "for-good"])
FILES = r"^(?!hardware |api |connect )"

MADE_TO_WAIT = 4.0
"""A kubelet that gives a call so many seconds; the driver answers 3 s before."""


async def fail_everywhere(launcher: Launcher, scenario: Scenario, plan: Plan, *, every: int = 1) -> None:
    async with rig(launcher) as node:
        stage = await Stage.build(node, scenario)
        expected = await undisturbed(stage)
        timeout = MADE_TO_WAIT if plan.action == "hang" else 45
        for number in range(1, MOST, every):
            plan = Plan(number, plan.action, plan.error, plan.lasting, plan.seconds, plan.only)
            if not await failing_at(stage, expected, plan, timeout=timeout):
                break
        else:
            raise AssertionError(f"{scenario.name} does not end")
        assert node.is_clean()


@SOME
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=lambda number: errno.errorcode[number])
async def test_a_disk_that_fails_here_and_there_is_told_and_got_over(
    launcher: Launcher, scenario: Scenario, error: int
) -> None:
    await fail_everywhere(launcher, scenario, Plan(action="fail", error=error, lasting=True, only=FILES), every=3)


@pytest.mark.long
@EACH
@DISKS
async def test_a_disk_that_fails_at_any_operation_is_told_and_got_over(
    launcher: Launcher, scenario: Scenario, error: int, lasting: bool
) -> None:
    await fail_everywhere(launcher, scenario, Plan(action="fail", error=error, lasting=lasting, only=FILES))


@pytest.mark.parametrize("scenario", [BY_NAME["partition"], BY_NAME["shared"]], ids=lambda s: s.name)
async def test_hardware_that_fails_for_good_is_told_and_got_over(launcher: Launcher, scenario: Scenario) -> None:
    await fail_everywhere(launcher, scenario, Plan(action="fail", lasting=True, only="^hardware "))


@pytest.mark.long
@EACH
@LASTING
async def test_hardware_that_fails_is_told_and_got_over(launcher: Launcher, scenario: Scenario, lasting: bool) -> None:
    await fail_everywhere(launcher, scenario, Plan(action="fail", lasting=lasting, only="^hardware "))


@pytest.mark.parametrize("scenario", [BY_NAME["partition"]], ids=lambda s: s.name)
async def test_an_api_server_that_fails_for_a_moment_goes_unnoticed(launcher: Launcher, scenario: Scenario) -> None:
    await fail_everywhere(launcher, scenario, Plan(action="fail", only="^api .*resourceclaims"))


@pytest.mark.long
@EACH
async def test_hardware_that_hangs_is_told_and_got_over(launcher: Launcher, scenario: Scenario) -> None:
    await fail_everywhere(launcher, scenario, Plan(action="hang", seconds=2.0, only="^hardware .*before"))
