"""The rig measures right: on two nodes what it tells is held against what the embedded API server has seen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from driver.sim.kubelet import Options
from tests.eventually import eventually
from tests.scale.fleet import AS_REAL, Fleet
from tests.scale.load import MODES
from tests.scale.measure import Plan, Trial
from tests.scale.site import Site, embedded
from tests.short import short_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from driver.sim.apiserver.faults import Request

SMALL = Plan(nodes=2, gpus=3, fill=0.5, times=2, rate=20, seconds=0.1, idle=0.5, burst=2)
QUICK = Options(wiping_delay=600)


@pytest.fixture
async def place() -> AsyncIterator[tuple[Site, Path]]:
    with short_directory() as root:
        async with embedded(root, connections=100) as site:
            await site.install()
            yield site, root


async def run(
    place: tuple[Site, Path], mode: str, plan: Plan, *, options: Options, seen: Counter[str] | None = None
) -> tuple[dict[str, Any], Fleet]:
    """One mode; ``seen`` are the requests that the server has seen, which the drivers are to have told at the end."""
    site, root = place
    fleet = Fleet(site, root, size=plan.nodes, parallel=2, options=options)
    async with fleet.running():
        await fleet.start(("--devices=fake:h100x8", *MODES[mode].flags))
        result = await Trial(site, fleet, mode, plan, lambda _text: None).run()

        async def agreed() -> bool:  # a request is counted when its answer is here
            return (await fleet.numbers()).by("gpu_dra_api_requests_total", "verb", "resource") == seen

        if seen is not None:
            await eventually(agreed, what=f"drivers tell of {seen}")
    return result, fleet


async def test_what_is_told_is_what_the_server_has_seen(place: tuple[Site, Path]) -> None:
    seen: Counter[str] = Counter()

    def see(request: Request) -> None:
        if request.user.name.startswith("system:serviceaccount:"):
            seen[f"{request.verb} {request.resource}"] += 1

    assert place[0].server is not None
    place[0].server.fault = see

    result, _ = await run(place, "partitions", SMALL, options=QUICK, seen=seen)

    assert result["fill"]["start"]["n"] == SMALL.long == 3
    assert result["churn"]["start"]["n"] == SMALL.short * SMALL.times == 6
    assert result["churn"]["prepare"]["prepare"]["kubelet"]["n"] == 6
    assert result["churn"]["requests"]["get resourceclaims"] >= 6
    assert result["failed"] == {"PrepareResources": 0, "UnprepareResources": 0}
    assert result["left"] == {"records": 0, "CDI specs": 0}
    assert result["restart"]["slice_writes"] == 0
    assert result["taint"]["slice_writes"] == 1


async def test_what_is_left_behind_is_counted(place: tuple[Site, Path]) -> None:
    site, root = place
    fleet = Fleet(site, root, size=2, parallel=1)
    (fleet.nodes[1].cdi / "k8s.gpu.nvidia.com-claim_a.json").touch()
    claims = fleet.nodes[0].kubelet.plugins_dir / "gpu.nvidia.com/claims"
    claims.mkdir(parents=True)
    (claims / "a.json").touch()

    assert fleet.left() == {"records": 1, "CDI specs": 1}


@pytest.mark.long
async def test_ten_nodes_through_rolling_upgrades_and_restarts_lose_nothing_and_ask_for_little(
    place: tuple[Site, Path],
) -> None:
    plan = Plan(nodes=10, gpus=8, fill=0.9, times=3, rate=10, seconds=1, idle=20, burst=20)

    result, _ = await run(place, "partitions", plan, options=AS_REAL)

    assert result["failed"] == {"PrepareResources": 0, "UnprepareResources": 0}
    assert result["failed_calls"] == 0
    assert result["left"] == {"records": 0, "CDI specs": 0}
    assert set(result["idle"]["requests"]) <= {"watch resourceslices"}
    assert result["restart"]["slice_writes"] == 0
    assert set(result["restart"]["requests"].values()) == {10}  # its Node, its slices, and a watch of them
    assert result["refused_429"] == 0
    assert result["fill"]["requests"] == {"get resourceclaims": plan.long}
