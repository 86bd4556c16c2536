"""What must hold for any slices and any sequence of claims."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from driver.sim import quantity
from driver.sim.scheduler.allocator import UnschedulableError
from tests.unit.scheduler.builders import allocated, claim, device, exactly, run, slice_of

COUNTERS = 4
CAPACITY = 8


@st.composite
def devices(draw):
    """A few devices: exclusive or shared, whole or a part of one of two GPUs."""
    found = []
    for number in range(draw(st.integers(1, 6))):
        fields = {"attributes": {"kind": {"string": draw(st.sampled_from("ab"))}}}
        if gpu := draw(st.sampled_from(["", "gpu-0", "gpu-1"])):
            amount = str(draw(st.integers(1, COUNTERS)))
            fields["consumesCounters"] = [{"counterSet": gpu, "counters": {"memory": {"value": amount}}}]
        if draw(st.booleans()):
            fields["allowMultipleAllocations"] = True
            fields["capacity"] = {"memory": {"value": str(CAPACITY)}}
        else:
            fields["capacity"] = {"memory": {"value": str(draw(st.integers(1, CAPACITY)))}}
        if draw(st.integers(0, 4)) == 0:
            fields["taints"] = [{"key": "broken", "effect": "NoSchedule"}]
        found.append(device(f"d{number}", **fields))
    return found


@st.composite
def claims(draw):
    requests = []
    for number in range(draw(st.integers(1, 2))):
        fields = {"count": draw(st.integers(1, 2))}
        if draw(st.booleans()):
            fields["capacity"] = {"requests": {"memory": str(draw(st.integers(1, CAPACITY)))}}
        if draw(st.integers(0, 3)) == 0:
            fields["tolerations"] = [{"operator": "Exists"}]
        kind = draw(st.sampled_from(["", "a", "b"]))
        selector = f'device.attributes["gpu.nvidia.com"].kind == "{kind}"' if kind else ""
        requests.append(exactly(f"r{number}", selector=selector, **fields))
    same = [{"matchAttribute": "gpu.nvidia.com/kind"}] if draw(st.booleans()) else []
    return claim(*requests, constraints=same)


def slices_with(found):
    sets = [{"name": gpu, "counters": {"memory": {"value": str(COUNTERS)}}} for gpu in ("gpu-0", "gpu-1")]
    return [
        slice_of(None, name="0", slices=2, nodeName="node-a", sharedCounters=sets),
        slice_of(found, name="1", slices=2),
    ]


def results(held):
    return [r for c in held for r in c["status"]["allocation"]["devices"]["results"]]


def allocate_in_turn(found, wanted):
    """All claims one after the other; those that do not fit are left out."""
    held = []
    ids = iter(range(1000))
    for one in wanted:
        try:
            (result,) = run(one, slices_with(found), allocated=held, share_id=lambda: f"share-{next(ids)}")
        except UnschedulableError:
            continue
        held.append(allocated(one, result))
    return held


@given(devices(), st.lists(claims(), max_size=6))
def test_nothing_is_ever_given_twice(found, wanted):
    specs = {d["name"]: d for d in found}

    given_ = results(allocate_in_turn(found, wanted))

    exclusive = Counter(r["device"] for r in given_ if "shareID" not in r)
    assert all(count == 1 for count in exclusive.values())
    shares = [r["shareID"] for r in given_ if "shareID" in r]
    assert len(set(shares)) == len(shares)
    capacity = Counter()
    for result in given_:
        if "shareID" in result:
            capacity[result["device"]] += quantity.parse(result["consumedCapacity"]["memory"])
    assert all(amount <= CAPACITY for amount in capacity.values())
    counters = Counter()
    for name in {r["device"] for r in given_}:
        for consumed in specs[name].get("consumesCounters", []):
            counters[consumed["counterSet"]] += int(consumed["counters"]["memory"]["value"])
    assert all(amount <= COUNTERS for amount in counters.values())


@given(devices(), st.lists(claims(), max_size=4))
def test_the_same_input_gives_the_same_allocations(found, wanted):
    assert allocate_in_turn(found, wanted) == allocate_in_turn(found, wanted)


@given(devices(), claims())
def test_each_result_satisfies_its_request(found, wanted):
    specs = {d["name"]: d for d in found}
    requests = {r["name"]: r["exactly"] for r in wanted["spec"]["devices"]["requests"]}
    held = results(allocate_in_turn(found, [wanted]))

    for result in held:
        request, spec = requests[result["request"]], specs[result["device"]]
        kind = spec["attributes"]["kind"]["string"]
        assert all(f'== "{kind}"' in s["cel"]["expression"] for s in request.get("selectors", []))
        assert "tolerations" in request or "taints" not in spec
    if held and "constraints" in wanted["spec"]["devices"]:
        assert len({specs[r["device"]]["attributes"]["kind"]["string"] for r in held}) == 1
    assert not held or Counter(r["request"] for r in held) == {n: r["count"] for n, r in requests.items()}
