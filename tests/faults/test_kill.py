"""SIGKILL at every effect of the driver: what the next call finds is as if nothing had happened."""

from __future__ import annotations

import re

import pytest

from tests.eventually import eventually
from tests.faults.breaking import HIT, MOST, fail_over, killed_at, killed_at_each, restart, same, undisturbed
from tests.faults.points import Plan
from tests.faults.rig import EFFECTS, DeadError, Launcher, rig
from tests.faults.scenarios import BY_NAME, SCENARIOS, Scenario, Stage, lose_specs

EACH = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


# What a node may do beside: files for containers, and the claim's status.
WITH_ALL = ("--device-metadata", "--device-status")
BESIDE = r"hardware inventory|device-names\.json|conditions\.json"
"""What looks at the GPUs from time to time: it may come during a step, and need not come again."""


async def kill_everywhere(
    launcher: Launcher,
    scenario: Scenario,
    *,
    every: int = 1,
    instances: int = 1,
    abandon: bool = False,
    flags: tuple[str, ...] = (),
) -> set[str]:
    """Kill at each effect (or at every so-manyth) of a scenario. Returns where that was."""
    async with rig(launcher, instances=instances, flags=flags) as node:
        stage = await Stage.build(node, scenario)
        expected = await undisturbed(stage)
        recover = restart if instances == 1 else fail_over
        hit = await killed_at_each(stage, expected, recover, every=every, abandon=abandon)
        if every == 1 and not abandon:
            # Threads run side by side, so that a number does not always stand for the same point.
            points = {point for outcome in expected for point in outcome.points if not re.search(BESIDE, point)}
            for point in points - hit:
                hit.update(await killed_at(stage, expected, 1, recover, only=f"^{re.escape(point)}$"))
            missed = points - hit
            assert not missed, f"never killed there: {missed}"
        assert node.is_clean()
    return hit


@pytest.mark.parametrize("scenario", [BY_NAME[name] for name in ("whole", "reallocated")], ids=lambda s: s.name)
async def test_a_driver_that_is_killed_here_and_there_ends_where_it_would_have(
    launcher: Launcher, scenario: Scenario
) -> None:
    assert await kill_everywhere(launcher, scenario, every=9)


async def test_files_for_containers_and_statuses_survive_kills_here_and_there(launcher: Launcher) -> None:
    hit = await kill_everywhere(launcher, BY_NAME["shared"], every=9, flags=WITH_ALL)

    assert any("metadata" in point for point in hit)


@pytest.mark.long
@EACH
async def test_a_driver_that_is_killed_at_any_effect_ends_where_it_would_have(
    launcher: Launcher, scenario: Scenario
) -> None:
    # With everything switched on that a claim may have beside: its effects are all those without, and some more.
    await kill_everywhere(launcher, scenario, flags=WITH_ALL)


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


@pytest.mark.long
@EACH
async def test_the_other_instance_cleans_up_where_one_was_killed(launcher: Launcher, scenario: Scenario) -> None:
    await kill_everywhere(launcher, scenario, instances=2, abandon=True)


@pytest.mark.long
@pytest.mark.parametrize("scenario", [BY_NAME["two-at-once"]], ids=lambda s: s.name)
async def test_a_start_that_is_killed_at_any_effect_is_made_up_for_by_the_next(
    launcher: Launcher, scenario: Scenario
) -> None:
    async with rig(launcher) as node:
        stage = await Stage.build(node, scenario)
        expected = await undisturbed(stage)
        prepare, unprepare = scenario.steps
        await prepare(stage)
        for number in range(1, MOST):
            await node.driver.kill()
            await lose_specs(stage)
            try:
                await node.driver.start(Plan(number, only=EFFECTS))
                specs = len(stage.claims)
                await eventually(lambda specs=specs: node.driver.dead.is_set() or len(node.node.specs()) == specs)
                await node.driver.disarm()
                break
            except DeadError:
                assert node.driver.fired, node.driver.text()
                HIT["kill", node.driver.fired] += 1
            await node.driver.start()
            await same(stage, await prepare(stage), expected[0], f"killed at the start at {node.driver.fired!r}")
        await unprepare(stage)
        assert node.is_clean()
