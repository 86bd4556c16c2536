"""SIGKILL at every call of the NVML library that changes GPUs or looks at them for that; its errors and its hanging."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.breaking import Outcome, Recover, fail_over, killed_at, killed_at_each, restart, same, undisturbed
from tests.faults.points import Plan
from tests.faults.rig import Launcher, rig
from tests.faults.scenarios import BY_NAME, Scenario, Stage
from tests.needs import COMPILER, NO_COMPILER
from tests.nvml.standin import World

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

CALLS = "^nvml "
CHANGES = (
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlComputeInstanceDestroy",
    "nvmlGpuInstanceDestroy",
)
CUT = tuple(BY_NAME[name] for name in ("partition", "made-whole", "several", "reallocated", "shared", "side-by-side"))
EACH = pytest.mark.parametrize("scenario", CUT, ids=lambda scenario: scenario.name)
SOME = pytest.mark.parametrize("scenario", [CUT[0]], ids=lambda scenario: scenario.name)


def h100x8(root: Path) -> World:
    machine = World(root)
    for _ in range(8):
        machine.add()
    return machine


@asynccontextmanager
async def staged(
    launcher: Launcher, scenario: Scenario, *, instances: int = 1
) -> AsyncIterator[tuple[Stage, World, list[Outcome]]]:
    async with rig(launcher, instances=instances, new_machine=h100x8) as node:
        assert node.machine is not None
        stage = await Stage.build(node, scenario)
        yield stage, node.machine, await undisturbed(stage)
        assert node.is_clean()


async def kill_everywhere(
    launcher: Launcher, scenario: Scenario, *, every: int = 1, instances: int = 1, abandon: bool = False
) -> set[str]:
    recover: Recover = restart if instances == 1 else fail_over
    async with staged(launcher, scenario, instances=instances) as (stage, _, expected):
        hit = await killed_at_each(stage, expected, recover, every=every, abandon=abandon, only=CALLS)
        if every == 1 and not abandon:
            calls = {point for outcome in expected for point in outcome.points if point.startswith("nvml ")}
            assert calls, "NVML was not called"
            assert hit >= calls, f"never killed there: {calls - hit}"
    return hit


@SOME
async def test_a_driver_that_is_killed_in_the_library_here_and_there_ends_where_it_would_have(
    launcher: Launcher, scenario: Scenario
) -> None:
    assert await kill_everywhere(launcher, scenario, every=23)


@SOME
async def test_a_driver_that_is_killed_around_a_change_ends_where_it_would_have(
    launcher: Launcher, scenario: Scenario
) -> None:
    async with staged(launcher, scenario) as (stage, _, expected):
        for function in CHANGES:
            for when in ("before", "after"):
                assert await killed_at(stage, expected, 1, restart, only=f"^nvml {function}, {when}$"), function


@pytest.mark.long
@EACH
async def test_a_driver_that_is_killed_at_any_call_ends_where_it_would_have(
    launcher: Launcher, scenario: Scenario
) -> None:
    await kill_everywhere(launcher, scenario)


@pytest.mark.long
@EACH
async def test_a_pod_that_is_gone_when_a_killed_driver_comes_back_leaves_nothing(
    launcher: Launcher, scenario: Scenario
) -> None:
    await kill_everywhere(launcher, scenario, abandon=True)


@pytest.mark.long
@EACH
async def test_the_other_instance_goes_on_where_one_was_killed(launcher: Launcher, scenario: Scenario) -> None:
    await kill_everywhere(launcher, scenario, instances=2)


@pytest.mark.parametrize("function", CHANGES[1:])  # MIG mode that stays on for a while is no obstacle
async def test_a_change_that_fails_is_told_and_got_over(launcher: Launcher, function: str) -> None:
    async with staged(launcher, CUT[0]) as (stage, machine, expected):
        for step, outcome in zip(stage.scenario.steps, expected, strict=True):
            if step.before:
                await step.before(stage)
            machine.fail(function, 999)
            answer = await step(stage, timeout=40)
            assert all(told and "unexpected" not in told for told in answer.values()), answer
            machine.fail(function, None)
            await same(stage, await step(stage, timeout=40), outcome, f"{step.call} when {function} had failed")


@pytest.mark.long
@pytest.mark.parametrize("function", CHANGES)
async def test_a_change_that_hangs_is_got_over(launcher: Launcher, function: str) -> None:
    async with staged(launcher, CUT[0]) as (stage, machine, expected):
        for step, outcome in zip(stage.scenario.steps, expected, strict=True):
            if step.before:
                await step.before(stage)
            machine.set({f"delay.{function}": 3000})
            answer = await step(stage, timeout=4.5)
            assert all(told and "unexpected" not in told for told in answer.values()), answer
            machine.set({f"delay.{function}": None})
            await same(stage, await step(stage, timeout=40), outcome, f"{step.call} when {function} had hung")


async def test_the_calls_of_the_library_are_found_by_themselves(launcher: Launcher) -> None:
    async with staged(launcher, CUT[0]) as (stage, _, _):
        await stage.rig.driver.arm(Plan(only=CALLS))
        await stage.scenario.steps[0](stage)
        seen = await stage.rig.driver.disarm()
        await stage.scenario.steps[-1](stage)

    assert {f"nvml {function}, before" for function in CHANGES[:3]} <= set(seen)
