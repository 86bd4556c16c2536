"""Two instances of the driver on one node, one of them stopped in the middle of something: nothing is done twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from tests.eventually import eventually
from tests.faults.breaking import HIT, MOST, Outcome, same, undisturbed
from tests.faults.points import Plan
from tests.faults.rig import EFFECTS, Answer, Launcher, rig
from tests.faults.scenarios import BY_NAME, SCENARIOS, Scenario, Stage, Step

EACH = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
SOME = pytest.mark.parametrize("scenario", [BY_NAME["partition"]], ids=lambda s: s.name)
A_MOMENT = 0.15
"""What a stopped instance holds makes the other one wait, so there is no event to wait for."""


@contextlib.asynccontextmanager
async def two(launcher: Launcher, scenario: Scenario) -> AsyncIterator[tuple[Stage, list[Outcome]]]:
    async with rig(launcher, instances=2) as node:
        stage = await Stage.build(node, scenario)
        yield stage, await undisturbed(stage)
        assert node.is_clean()


async def stopped(stage: Stage, step: Step, plan: Plan, *, timeout: float = 45) -> asyncio.Task[Answer] | None:
    """Have the first instance stop at a point of a step; None, and the step done, when it has no such point."""
    await stage.rig.driver.arm(plan)
    call = asyncio.create_task(step(stage, timeout=timeout))
    stop = asyncio.create_task(stage.rig.driver.happened.wait())
    await asyncio.wait({call, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if stage.rig.driver.fired:
        HIT["stop", stage.rig.driver.fired] += 1
        return call
    await stage.rig.driver.disarm()
    await call
    return None


async def the_same_call_elsewhere(stage: Stage, expected: list[Outcome], number: int) -> bool:
    """The kubelet has lost its connection in each step and asks the other instance, which goes on at the same time."""
    reached = False
    for step, outcome in zip(stage.scenario.steps, expected, strict=True):
        if step.before:
            await step.before(stage)
        first = stage.rig.driver
        call = await stopped(stage, step, Plan(number, "pause", only=EFFECTS))
        reached |= call is not None
        what = f"{stage.scenario.name}: {step.call} while another one is stopped at {first.fired!r}"
        stage.rig.fail_over()
        other = asyncio.create_task(step(stage))
        if call is not None:
            await asyncio.wait({other}, timeout=A_MOMENT)
            await first.disarm()
            await call
        answer = await other
        if answer != outcome.answer:  # refused while the first one was at it: then the kubelet asks again
            assert all(answer.values()), what
            answer = await step(stage)
        await same(stage, answer, outcome, what)
    await stage.reset()
    return reached


@SOME
async def test_a_call_that_is_repeated_at_the_other_instance_is_done_once(
    launcher: Launcher, scenario: Scenario
) -> None:
    async with two(launcher, scenario) as (stage, expected):
        for number in range(1, 40, 6):
            await the_same_call_elsewhere(stage, expected, number)


@pytest.mark.long
@EACH
async def test_a_call_that_is_repeated_at_the_other_instance_anywhere_is_done_once(
    launcher: Launcher, scenario: Scenario
) -> None:
    async with two(launcher, scenario) as (stage, expected):
        for number in range(1, MOST):
            if not await the_same_call_elsewhere(stage, expected, number):
                break


@pytest.mark.parametrize("scenario", [BY_NAME["partition"], BY_NAME["shared"]], ids=lambda s: s.name)
async def test_hardware_that_hangs_in_one_instance_until_the_other_has_unprepared_leaves_nothing(
    launcher: Launcher, scenario: Scenario
) -> None:
    prepares = [step for step in scenario.steps if step.call == "prepare"]
    async with two(launcher, scenario) as (stage, _):
        for number in range(1, 12):
            for step in prepares:
                if step.before:
                    await step.before(stage)
                first = stage.rig.driver
                # The kubelet has given up before it unprepares; it never does both at once.
                with contextlib.suppress(grpc.aio.AioRpcError):
                    call = await stopped(stage, step, Plan(number, "pause", only="^hardware "), timeout=4)
                    if call is None:
                        continue
                    await call
                stage.rig.fail_over()
                unprepares = [
                    asyncio.create_task(Step("unprepare", (name,))(stage, timeout=40)) for name in stage.claims
                ]
                await asyncio.wait(unprepares, timeout=A_MOMENT)
                await first.disarm()
                for unprepare in unprepares:
                    assert list((await unprepare).values()) == ["done"]
                what = f"{scenario.name}: unprepared while a prepare was stopped at {first.fired!r}"
                await eventually(stage.rig.is_clean, what=f"{what}: {stage.rig.state()}")
                break
            for name in stage.claims:
                await Step("unprepare", (name,))(stage)
            await stage.reset()


@SOME
async def test_an_instance_that_starts_does_not_disturb_one_that_is_at_work(
    launcher: Launcher, scenario: Scenario
) -> None:
    async with two(launcher, scenario) as (stage, expected):
        for number in range(1, MOST, 3):
            reached = False
            for step, outcome in zip(scenario.steps, expected, strict=True):
                if step.before:
                    await step.before(stage)
                worker, newcomer = stage.rig.instances
                await newcomer.kill()
                call = await stopped(stage, step, Plan(number, "pause", only=EFFECTS))
                reached |= call is not None
                await newcomer.start(wait=False)
                if call is None:
                    answer = await step(stage)
                else:
                    with contextlib.suppress(AssertionError):  # it waits for what the worker holds
                        await eventually(lambda newcomer=newcomer: newcomer.kubelet.registrar.exists(), within=0.5)
                    await worker.disarm()
                    answer = await call
                await newcomer.serving()
                await same(stage, answer, outcome, f"{scenario.name}: {step.call} stopped at {worker.fired!r}")
            if not reached:
                break
