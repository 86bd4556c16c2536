"""What slices, claims and pods say together."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest

from driver.cluster import read_claim, read_pod, read_slice
from driver.hardware.model import MigMode
from driver.inventory import Partitioning, Shares
from driver.inventory.options import ShareBy
from tests.unit.cluster.world import DRIVER, claim, cut, fleet, gpu, node, options, pod, put, slices, state
from tests.unit.inventory import mig_facts

SICK = {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoExecute", "timeAdded": "2026-03-01T09:00:00Z"}
NOTE = {"key": "gpu.nvidia.com/repair", "effect": "None"}


def tainted(objects: list[dict[str, Any]], taint: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    """The same slices, with a taint on these devices."""
    for obj in objects:
        for device in obj["spec"].get("devices") or ():
            if device["name"] in names:
                device["taints"] = [taint]
    return objects


def devices_of(objects: list[dict[str, Any]], name: str) -> list[str]:
    found = [device["name"] for obj in objects for device in obj["spec"].get("devices") or ()]
    return [device for device in found if device == name or device.startswith(f"{name}-mig-")]


def test_a_node_has_its_gpus() -> None:
    found = node(*slices())

    assert (found.name, found.problem) == ("node-1", "")
    assert [(gpu.name, gpu.uuid, gpu.product, gpu.slots) for gpu in found.gpus] == [
        ("gpu-0", "GPU-0", "H100-SXM5-80GB", 8),
        ("gpu-1", "GPU-1", "H100-SXM5-80GB", 8),
    ]


def test_a_partition_that_nobody_holds_is_a_possibility_only() -> None:
    assert gpu(*slices()).parts == ()


def test_a_held_partition_has_its_place_and_its_holder() -> None:
    held = claim("train", "gpu-0-mig-1g10gb-19-6", pods=("train-0",))

    [part] = gpu(*slices(), held, pod("train-0")).parts

    assert (part.kind, part.device.shape.slots, part.weight) == ("1g.10gb", (6,), Fraction(1, 7))
    [holder] = part.holders
    assert (holder.claim, holder.pods, holder.weight) == (("team-a", "train"), (("train-0", "Running"),), part.weight)
    assert holder.since == datetime(2026, 3, 1, 10, tzinfo=UTC)


def test_a_pod_that_cannot_be_seen_is_named_all_the_same() -> None:
    [part] = gpu(*slices(), claim("train", "gpu-0", pods=("train-0",))).parts

    assert part.holders[0].pods == (("train-0", ""),)


def test_whoever_has_admin_access_takes_nothing() -> None:
    found = gpu(*slices(), claim("monitor", "gpu-0", adminAccess=True))

    assert [part.is_held for part in found.parts] == [False]
    assert (found.weight, found.room["gpu"]) == (0, 1)


def test_a_held_partition_leaves_what_the_counters_leave() -> None:
    found = gpu(*slices(), claim("train", "gpu-0-mig-3g40gb-9-0"))

    assert dict(found.room) == {
        "gpu": 0,
        "1g.10gb": 3,
        "1g.10gb+me": 1,
        "1g.20gb": 2,
        "2g.20gb": 1,
        "3g.40gb": 1,
        "4g.40gb": 0,
        "7g.80gb": 0,
    }


def test_the_room_of_a_node_is_that_of_its_gpus() -> None:
    found = node(*slices(), claim("train", "gpu-0"))

    assert (found.room["gpu"], found.room["1g.10gb"], found.room["7g.80gb"]) == (1, 7, 1)


def test_partitions_that_an_administrator_made_are_there_whether_held_or_not() -> None:
    inventory = cut(mig_facts.node("H100-SXM5-80GB", mode=MigMode.ENABLED), ("1g.10gb", 0), ("1g.10gb", 1))
    published = slices(inventory=inventory, offered=options(Partitioning.STATIC))

    found = gpu(*published, claim("train", "gpu-0-mig-1g10gb-19-0"))

    assert [(part.device.uuid, part.device.shape.slots, part.is_held) for part in found.parts] == [
        ("MIG-1", (1,), False),
        ("MIG-0", (0,), True),
    ]
    assert (dict(found.room), found.weight) == ({"1g.10gb": 1}, Fraction(1, 7))


def test_a_shared_gpu_says_what_is_left() -> None:
    shares = Shares(mode=ShareBy.COUNT, count=4)
    published = slices(offered=options(Partitioning.NONE, shares))
    taken = {"shareID": "a", "consumedCapacity": {"shares": "1", "memory": "20Gi"}}

    found = gpu(*published, claim("one", "gpu-0", **taken), claim("two", "gpu-0", **taken))

    [part] = found.parts
    assert [holder.weight for holder in part.holders] == [Fraction(1, 4), Fraction(1, 4)]
    assert dict(part.left) == {"shares": 2, "memory": (81559 << 20) - (40 << 30)}
    assert (found.weight, dict(found.room)) == (Fraction(1, 2), {"gpu": 1})


def test_a_taint_of_all_devices_is_the_gpus() -> None:
    published = slices()
    found = node(*tainted(published, SICK, *devices_of(published, "gpu-0")))

    [trouble] = found.gpus[0].troubles
    assert (str(trouble.taint), trouble.devices) == ("gpu.nvidia.com/xid=79:NoExecute", ())
    assert [gpu.is_sick for gpu in found.gpus] == [True, False]
    assert (found.room["gpu"], found.gpus[0].room["gpu"]) == (1, 0)


def test_a_taint_of_one_device_names_it() -> None:
    found = gpu(*tainted(slices(), SICK, "gpu-0-mig-1g10gb-19-6"))

    assert [trouble.devices for trouble in found.troubles] == [("gpu-0-mig-1g10gb-19-6",)]
    assert (found.room["1g.10gb"], found.room["gpu"]) == (6, 1)


def test_a_taint_without_an_effect_forbids_nothing() -> None:
    found = gpu(*tainted(slices(), NOTE, "gpu-0"))

    assert (len(found.troubles), found.is_sick, found.room["gpu"]) == (1, False, 1)


def test_devices_of_other_drivers_are_not_ours() -> None:
    published, held = slices(), claim("net", "gpu-0")
    for obj in published:
        obj["spec"]["driver"] = "nic.example.com"
    held["status"]["allocation"]["devices"]["results"][0]["driver"] = "nic.example.com"

    assert fleet(*published, held).nodes == ()


def test_slices_of_an_old_generation_do_not_count() -> None:
    old, new = slices(generation=1), slices(generation=2, inventory=mig_facts.node("H100-SXM5-80GB", 1))
    for obj in old:
        obj["metadata"]["name"] += "-old"

    assert [gpu.name for gpu in node(*old, *new).gpus] == ["gpu-0"]


def test_nothing_is_free_in_an_incomplete_pool_and_it_says_so() -> None:
    found = node(*slices()[1:], claim("train", "gpu-0"))

    assert found.problem == "2 of 3 ResourceSlices of generation 1 are there, so nothing is placed"
    assert set(found.room.values()) == {0}
    assert found.usage["team-a"].gpus == 1


def test_while_a_pool_is_written_the_rest_of_it_says_who_holds_what() -> None:
    inventory = mig_facts.node("H100-SXM5-80GB", 4)
    before, after = slices(inventory=inventory), slices(inventory=inventory, generation=2)
    held = (claim("first", "gpu-0"), claim("last", "gpu-3"))

    found = node(*after[:2], *before[2:], *held)

    assert [gpu.weight for gpu in found.gpus] == [1, 0, 0, 1]
    assert (found.lost, set(found.room.values())) == ((), {0})
    assert found.problem == "2 of 5 ResourceSlices of generation 2 are there, so nothing is placed"


def test_nothing_is_free_where_two_devices_have_one_name() -> None:
    published = slices()
    published[-1]["spec"]["devices"].append(published[-1]["spec"]["devices"][0])

    found = node(*published)

    assert found.problem == "two devices are called gpu-1, so nothing is placed"
    assert set(found.room.values()) == {0}


def test_nothing_that_can_be_cut_is_free_where_claims_hold_more_than_there_is() -> None:
    found = node(*slices(), claim("one", "gpu-0"), claim("two", "gpu-0-mig-1g10gb-19-6"))

    assert found.problem == "claims hold more than there is, so nothing that can be cut is placed"
    assert set(found.room.values()) == {0}


def test_devices_that_cannot_be_read_are_counted() -> None:
    published = slices()
    published[-1]["spec"]["devices"][0]["name"] = 7

    assert node(*published).problem == "devices that are not as the API says, and are not shown: 1"


def test_a_device_that_is_gone_is_still_held() -> None:
    found = node(*slices(), claim("train", "gpu-7"))

    assert [(holder.claim, holder.result.device) for holder in found.lost] == [(("team-a", "train"), "gpu-7")]


def test_a_node_without_slices_is_shown_for_its_claims() -> None:
    found = node(claim("train", "gpu-0", node="gone"))

    assert (found.name, found.problem) == ("gone", "no ResourceSlice is published")


def test_what_namespaces_have_and_for_how_long() -> None:
    found = fleet(
        *slices(),
        claim("train", "gpu-0"),
        claim("nb", "gpu-1-mig-1g10gb-19-6", "gpu-1-mig-1g10gb-19-5", namespace="team-b"),
    )

    assert {name: (usage.holds, usage.gpus) for name, usage in found.usage.items()} == {
        "team-a": (1, 1),
        "team-b": (2, Fraction(2, 7)),
    }
    hours = found.usage["team-b"].hours(datetime(2026, 3, 1, 17, tzinfo=UTC))
    assert hours == pytest.approx(2.0)


def test_a_change_touches_its_node_only() -> None:
    objects = [obj for number in (1, 2) for obj in slices(f"node-{number}")]
    known = state(*objects)
    before = known.fleet()

    put(known, claim("train", "gpu-0", node="node-2"))
    after = known.fleet()

    assert after.nodes[0] is before.nodes[0]
    assert after.nodes[1].usage["team-a"].holds == 1


def test_the_same_again_changes_nothing() -> None:
    known = state(*slices(), claim("train", "gpu-0"))
    before = known.fleet()

    put(known, *slices(), claim("train", "gpu-0"))

    assert known.fleet().nodes[0] is before.nodes[0]


def test_a_pod_that_starts_is_seen() -> None:
    known = state(*slices(), claim("train", "gpu-0", pods=("train-0",)), pod("train-0", "Pending"))
    known.fleet()

    put(known, pod("train-0", "Running"))

    assert known.fleet().nodes[0].gpus[0].parts[0].holders[0].pods == (("train-0", "Running"),)


def test_what_is_deleted_is_gone() -> None:
    known = state(*slices(), claim("train", "gpu-0", pods=("train-0",)))
    known.fleet()

    known.replace_claims({})
    freed = known.fleet()
    known.replace_slices({})

    assert (freed.usage, freed.nodes[0].room["gpu"]) == ({}, 2)
    assert known.fleet().nodes == ()


def mutations(obj: Any) -> list[Any]:
    """The object with each of its values, however deep, replaced by something odd."""
    odd = (None, 7, "x" * 300, [], {}, [None], {"a": []}, True, -1, [[]])
    if isinstance(obj, dict):
        return [{**obj, key: new} for key in obj for new in (*odd, *mutations(obj[key]))]
    if isinstance(obj, list):
        return [
            [*obj[:index], new, *obj[index + 1 :]] for index in range(min(2, len(obj))) for new in mutations(obj[index])
        ]
    return []


def test_odd_objects_are_passed_over() -> None:
    inventory = mig_facts.node("A30-24GB", 1)
    inventory = replace(inventory, gpus=(replace(inventory.gpus[0], mig_profiles=inventory.gpus[0].mig_profiles[:1]),))
    good = slices(inventory=inventory)
    tainted(good, SICK, "gpu-0")
    held = claim("train", "gpu-0", pods=("p",), consumedCapacity={"memory": "1Gi"}, shareID="a")

    for obj in (*(odd for whole in good for odd in mutations(whole)), *mutations(held), *mutations(pod("p"))):
        known = state(*good, held, pod("p"))
        known.put_slice(("", "odd"), read_slice(obj, driver=DRIVER))
        known.put_claim(("a", "odd"), read_claim(obj, driver=DRIVER))
        known.put_pod(("a", "odd"), read_pod(obj))
        assert known.fleet().nodes


@pytest.mark.parametrize("odd", [None, 7, "text", [], {}, {"spec": 1}, {"metadata": {}, "spec": {"driver": DRIVER}}])
def test_what_is_no_object_is_passed_over(odd: Any) -> None:
    assert (read_slice(odd, driver=DRIVER), read_claim(odd, driver=DRIVER), read_pod(odd)) == (None, None, None)
