"""What could still be placed is what the scheduler gives: compared with the embedded one, claim by claim."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driver.inventory import Partitioning, Shares
from driver.inventory.options import parse_shares
from driver.sim.scheduler.allocator import UnschedulableError, allocate
from tests.unit.cluster.world import Object, node, options, slices
from tests.unit.inventory import mig_facts

CLASSES: dict[str, Object] = {"any": {"metadata": {"name": "any"}, "spec": {}}}
ATTRIBUTES = 'device.attributes["gpu.nvidia.com"]'
PROFILES = ("gpu", "1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")


def published(partitioning: str, shares: str) -> list[Object]:
    mode, count = parse_shares(shares)
    offered = options(Partitioning(partitioning), Shares(mode=mode, count=count))
    return slices(inventory=mig_facts.node("H100-SXM5-80GB", 1), offered=offered)


def request(profile: str, count: int, memory: str) -> Object:
    attribute, value = ("type", "gpu") if profile == "gpu" else ("profile", profile)
    # A GPU has no profile: asking for one there is an error in CEL.
    selector = f'"{attribute}" in {ATTRIBUTES} && {ATTRIBUTES}.{attribute} == "{value}"'
    wanted: Object = {
        "deviceClassName": "any",
        "count": count,
        "selectors": [{"cel": {"expression": selector}}],
    }
    if memory:
        wanted["capacity"] = {"requests": {"memory": memory}}
    return {"name": "gpu", "exactly": wanted}


def schedule(
    objects: list[Object], held: list[Object], profile: str, *, count: int = 1, memory: str = ""
) -> Object | None:
    """A claim that has what it asks for, None where the scheduler finds nothing."""
    name = f"claim-{len(held)}"
    metadata = {"namespace": "team-a", "name": name, "uid": f"uid-{name}"}
    claim: Any = {"metadata": metadata, "spec": {"devices": {"requests": [request(profile, count, memory)]}}}
    try:
        [allocation] = allocate(
            {"metadata": {"name": "node-1"}}, [claim], classes=CLASSES, slices=objects, allocated=held
        )
    except UnschedulableError:
        return None
    return {"metadata": metadata, "status": {"allocation": allocation}}


@pytest.mark.parametrize(
    ("partitioning", "shares", "memory"),
    [("dynamic", "disabled", ""), ("dynamic", "2", ""), ("none", "2", ""), ("none", "memory", "1Gi")],
)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_no_more_and_no_less(partitioning: str, shares: str, memory: str, data: st.DataObject) -> None:
    objects = published(partitioning, shares)
    profiles = PROFILES if partitioning == "dynamic" else PROFILES[:1]
    held: list[Object] = []
    for profile in data.draw(st.lists(st.sampled_from(profiles), max_size=3)):
        if (claim := schedule(objects, held, profile, memory=memory)) is not None:
            held.append(claim)

    for profile, count in node(*objects, *held).room.items():
        assert count == 0 or schedule(objects, held, profile, count=count, memory=memory) is not None, profile
        assert schedule(objects, held, profile, count=count + 1, memory=memory) is None, profile
