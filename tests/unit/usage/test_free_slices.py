"""What is left of GPUs that are cut for claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from driver.claims.ledger.record import Placement
from driver.inventory import DeviceOptions, Options, Partitioning, survey
from driver.usage.attribution import Holding
from driver.usage.free_slices import Room, room
from tests.unit.inventory.mig_facts import node
from tests.unit.usage.examples import device, record

if TYPE_CHECKING:
    from driver.inventory import Device

DYNAMIC = Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC))
H100 = "H100-SXM5-80GB"


def offered(options: Options = DYNAMIC) -> tuple[Device, ...]:
    return survey(node(H100), options).devices


def held(profile: str = "", start: int = 0, *, share_id: str | None = None) -> Holding:
    """A partition, or without a profile the whole GPU."""
    [found] = [d for d in offered() if (d.profile.name if d.profile else "") == profile and (d.start or 0) == start]
    part = device(
        found.name,
        gpu_uuid=found.gpu.uuid,
        slots=tuple(sorted(found.slots)),
        whole=not profile,
        placement=Placement(profile=profile, start=start) if profile else None,
        share_id=share_id,
    )
    return Holding(record=record("claim", part), device=part, pods=())


@pytest.mark.parametrize(
    ("parts", "left"),
    [
        ([], Room(free=7, largest=7)),
        ([held()], Room(free=0, largest=0)),
        ([held("1g.10gb", 6)], Room(free=6, largest=4)),
        ([held("1g.10gb", 0)], Room(free=6, largest=3)),
        ([held("1g.10gb", 0), held("1g.10gb", 4)], Room(free=5, largest=2)),
        ([held("3g.40gb", 0), held("3g.40gb", 4)], Room(free=1, largest=0)),
        ([held("1g.20gb", 0)], Room(free=6, largest=3)),
        ([held("1g.20gb", 0), held("1g.20gb", 2), held("1g.20gb", 4), held("1g.20gb", 6)], Room(free=3, largest=0)),
        ([held("3g.40gb", 0, share_id="a"), held("3g.40gb", 0, share_id="b")], Room(free=4, largest=3)),
    ],
)
def test_slices_are_free_that_no_claim_holds_and_the_largest_is_what_still_fits(
    parts: list[Holding], left: Room
) -> None:
    assert room(offered(), parts) == {("gpu-0", "GPU-0"): left}


def test_a_gpu_that_is_not_cut_for_claims_has_no_room_to_speak_of() -> None:
    assert room(offered(Options()), [held()]) == {}
