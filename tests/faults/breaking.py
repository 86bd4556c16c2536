"""Running scenarios that are disturbed at one point, and comparing with a run that was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.eventually import eventually
from tests.faults.points import Plan
from tests.faults.rig import EFFECTS, Answer, DeadError, without_ids
from tests.faults.scenarios import Stage, Step

MOST = 400
"""More points than any step has: a guard against a step that never ends."""
HIT: Counter[tuple[str, str]] = Counter()
"""What went wrong where, over all tests: (action, point)."""


@dataclass(frozen=True)
class Outcome:
    """What a step of an undisturbed run said and left."""

    answer: Answer
    state: dict[str, str]
    points: list[str]


Recover = Callable[[Stage], Awaitable[Any]]


async def restart(stage: Stage) -> None:
    """The container runtime starts the driver again."""
    await stage.rig.driver.start()


async def fail_over(stage: Stage) -> None:
    """Another instance is there already and gets the kubelet's next call; the dead one comes back later."""
    dead = stage.rig.driver
    stage.rig.fail_over()
    stage.later = dead


async def undisturbed(stage: Stage) -> list[Outcome]:
    """Run a scenario without a fault: what every other run has to come to."""
    outcomes = []
    for step in stage.scenario.steps:
        if step.before:
            await step.before(stage)
        await stage.rig.driver.arm(Plan(only=EFFECTS))
        answer = await step(stage)
        seen = await stage.rig.driver.disarm()
        assert all(isinstance(told, list) or told == "done" for told in answer.values()), answer
        outcomes.append(Outcome(answer, stage.rig.state(), seen))
    assert stage.rig.is_clean(), stage.rig.state()
    await stage.reset()
    return outcomes


async def killed_at(
    stage: Stage,
    expected: list[Outcome],
    number: int,
    recover: Recover,
    *,
    abandon: bool = False,
    only: str = EFFECTS,
) -> list[str]:
    """Run a scenario with a SIGKILL at the point of that number in each step; ``abandon``: the pod is gone by then.

    ``only`` is a regular expression for the points that count.

    Returns the points at which the driver was killed; none when no step has so many.
    """
    fired: list[str] = []
    for step, undisturbed_one in zip(stage.scenario.steps, expected, strict=True):
        if step.before:
            await step.before(stage)
        what = f"{stage.scenario.name}: {step.call} {','.join(step.claims)} killed at point {number}"
        await stage.rig.driver.arm(Plan(at=number, only=only))
        try:
            answer = await step(stage)
            await stage.rig.driver.disarm()
        except DeadError:
            point = stage.rig.driver.fired
            assert point, f"{what}: the driver died by itself:\n{stage.rig.driver.text()}"
            HIT["kill", point] += 1
            fired.append(point)
            await recover(stage)
            if abandon and step.call == "prepare":
                break
            answer = await step(stage)
        await same(stage, answer, undisturbed_one, f"{what} ({fired[-1] if fired else 'not reached'})")
        await _bring_back(stage)
    if abandon and fired:
        await abandoned(stage, f"{stage.scenario.name}: abandoned after a kill at point {number} ({fired[-1]})")
    await stage.reset()
    return fired


async def killed_at_each(
    stage: Stage,
    expected: list[Outcome],
    recover: Recover,
    *,
    every: int = 1,
    abandon: bool = False,
    only: str = EFFECTS,
) -> set[str]:
    """Kill at each point (or at every so-manyth) of each step, one after another. Returns where that was."""
    hit: set[str] = set()
    for number in range(1, MOST, every):
        fired = await killed_at(stage, expected, number, recover, abandon=abandon, only=only)
        if not fired:
            return hit
        hit.update(fired)
    raise AssertionError(f"{stage.scenario.name} does not end")


async def failing_at(stage: Stage, expected: list[Outcome], plan: Plan, *, timeout: float = 45) -> list[str]:
    """Run a scenario with a fault at one point of each step; returns where it was."""
    fired: list[str] = []
    for step, undisturbed_one in zip(stage.scenario.steps, expected, strict=True):
        if step.before:
            await step.before(stage)
        driver = stage.rig.driver
        await driver.arm(plan)
        answer = await step(stage, timeout=timeout)
        await driver.disarm()
        what = f"{stage.scenario.name}: {step.call} {','.join(step.claims)} with {plan} at {driver.fired!r}"
        if driver.fired:
            HIT[_action(plan), driver.fired] += 1
            fired.append(driver.fired)
            for told in answer.values():
                assert told, f"{what}: no answer"
                assert "unexpected" not in told, f"{what}: not a clear answer: {told}\n{driver.text()}"
            answer = await step(stage)
        await same(stage, answer, undisturbed_one, f"{what}; the first answer was {answer}")
    await stage.reset()
    return fired


async def same(stage: Stage, answer: Answer, expected: Outcome, what: str) -> None:
    """The answer and everything on disk is what it is in a run that nothing disturbed."""
    assert answer == expected.answer, f"{what}: {answer}\n{stage.rig.driver.text()}"
    assert not stage.rig.contradictions(), f"{what}: {stage.rig.contradictions()}"
    found, wanted = stage.rig.state(), expected.state
    if stage.scenario.in_any_order:
        found, wanted = without_ids(found), without_ids(wanted)
    differing = {
        path: (found.get(path), wanted.get(path))
        for path in (found.keys() | wanted.keys()) - stage.rig.specs_that_follow()
        if found.get(path) != wanted.get(path)
    }
    assert not differing, f"{what}: {differing}"


async def abandoned(stage: Stage, what: str) -> None:
    """The kubelet unprepares every claim of a pod that has gone, whether or not it ever got an answer."""
    for name in stage.claims:
        answer = await Step("unprepare", (name,))(stage)
        assert answer == {name: "done"}, f"{what}: {answer}"
    await _bring_back(stage)
    await eventually(stage.rig.is_clean, what=f"{what}: {stage.rig.state()}")


async def _bring_back(stage: Stage) -> None:
    if stage.later is not None:
        dead, stage.later = stage.later, None
        await dead.start()


def _action(plan: Plan) -> str:
    return f"errno {plan.error}" if plan.error else plan.action
