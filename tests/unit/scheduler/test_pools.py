from driver.sim.scheduler.pools import gather, newest
from tests.unit.scheduler.builders import NODE, device, slice_of

COUNTERS = [{"name": "gpu-0", "counters": {"memory": {"value": "8"}}}]


def consuming(name, counter_set="gpu-0", counter="memory", amount="1"):
    return device(name, consumesCounters=[{"counterSet": counter_set, "counters": {counter: {"value": amount}}}])


def ids(pool):
    return [candidate.id.device for candidate in pool.devices]


def test_devices_come_by_driver_pool_slice_name_and_position():
    slices = [
        slice_of([device("b1"), device("b0")], name="2", pool="p2"),
        slice_of([device("a1")], name="00001-x", pool="p1", slices=2),
        slice_of([device("a0")], name="00000-x", pool="p1", slices=2),
        slice_of([device("z")], name="0", pool="p9", driver="a.example.com"),
    ]

    assert [ids(pool) for pool in gather(NODE, slices)] == [["z"], ["a0", "a1"], ["b1", "b0"]]


def test_only_the_newest_generation_counts():
    slices = [slice_of([device("old")], name="1"), slice_of([device("new")], name="2", generation=2)]

    assert [ids(pool) for pool in gather(NODE, slices)] == [["new"]]
    assert [s["metadata"]["name"] for s in newest(slices)] == ["2"]


def test_a_pool_with_missing_slices_is_incomplete():
    (pool,) = gather(NODE, [slice_of([device("gpu-0")], slices=2)])

    assert pool.incomplete
    assert not pool.usable


def test_slices_for_other_nodes_complete_a_pool():
    slices = [
        slice_of([device("here")], name="1", slices=2),
        slice_of([device("there")], name="2", slices=2, nodeName="node-b"),
    ]

    (pool,) = gather(NODE, slices)

    assert pool.usable
    assert ids(pool) == ["here"]
    assert [candidate.id.device for candidate in pool.elsewhere] == ["there"]


def test_a_pool_whose_newer_generation_is_elsewhere_is_left_alone():
    slices = [
        slice_of([device("here")], name="1", slices=2),
        slice_of([device("there")], name="2", slices=1, generation=2, nodeName="node-b"),
    ]

    assert gather(NODE, slices) == []


def test_duplicate_devices_make_a_pool_invalid():
    (pool,) = gather(NODE, [slice_of([device("gpu-0"), device("gpu-0")])])

    assert pool.invalid == "duplicate device name gpu-0"


def test_duplicate_counter_sets_make_a_pool_invalid():
    slices = [slice_of(None, name=n, slices=2, nodeName="node-a", sharedCounters=COUNTERS) for n in "12"]

    (pool,) = gather(NODE, slices)

    assert pool.invalid == "duplicate counter set name gpu-0"


def test_unknown_counters_make_a_pool_invalid():
    def invalid(bad):
        counters = slice_of(None, name="1", slices=2, nodeName="node-a", sharedCounters=COUNTERS)
        (pool,) = gather(NODE, [counters, slice_of([bad], name="2", slices=2)])
        return pool.invalid

    assert invalid(consuming("d", counter_set="gpu-1")) == "counter set gpu-1 not found"
    assert invalid(consuming("d", counter="engines")) == "counter engines not found in counter set gpu-0"
    assert invalid(consuming("d")) == ""


def test_taint_rules_are_added_to_the_devices_that_they_select():
    taint = {"key": "maintenance", "effect": "NoSchedule"}
    rule = {"spec": {"deviceSelector": {"driver": "gpu.nvidia.com", "device": "gpu-1"}, "taint": taint}}

    (pool,) = gather(NODE, [slice_of([device("gpu-0"), device("gpu-1")])], [rule, {"spec": {"taint": taint}}])

    assert [list(candidate.taints) for candidate in pool.devices] == [[], [taint]]
