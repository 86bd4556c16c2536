"""DeviceTaintRules: what they select, and what they make of the model."""

from __future__ import annotations

from typing import Any

import pytest

from driver.cluster import read_rule
from driver.inventory import Partitioning, Shares
from driver.inventory.options import ShareBy
from tests.unit.cluster.test_model import tainted
from tests.unit.cluster.world import DRIVER, claim, gpu, node, options, put, rule, slices, state


@pytest.mark.parametrize(
    "selector",
    [
        {"driver": DRIVER, "pool": "node-1", "device": "gpu-0"},
        {"pool": "node-1", "device": "gpu-0"},
        {"device": "gpu-0"},
    ],
)
@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
def test_a_rule_keeps_new_claims_off_the_device_that_it_selects(selector: dict[str, str], effect: str) -> None:
    first, second = node(*slices(offered=options(Partitioning.NONE)), rule(effect=effect, **selector)).gpus

    [trouble] = first.troubles
    assert (first.is_sick, first.room, trouble.devices) == (True, {"gpu": 0}, ())
    assert (trouble.taint.rule, str(trouble.taint)) == ("drain", f"rule drain: example.com/drain:{effect}")
    assert (second.troubles, second.room) == ((), {"gpu": 1})


@pytest.mark.parametrize("selector", [{}, {"driver": DRIVER}, {"pool": "node-1"}])
def test_what_a_selector_leaves_out_it_does_not_ask_for(selector: dict[str, str]) -> None:
    found = node(*slices(), rule(**selector))

    assert set(found.room.values()) == {0}


@pytest.mark.parametrize(
    "selector",
    [
        {"driver": "gpu.example.com", "device": "gpu-0"},
        {"pool": "node-2", "device": "gpu-0"},
        {"device": "gpu-7"},
        {"device": "gpu-0", "deviceClassName": "gpu.nvidia.com"},  # nobody here can say what that selects
    ],
)
def test_a_rule_taints_nothing_that_it_does_not_select(selector: dict[str, str]) -> None:
    assert node(*slices(), rule(**selector)) == node(*slices())


def test_a_rule_without_a_selector_selects_nothing() -> None:
    nobody = rule()
    del nobody["spec"]["deviceSelector"]

    assert node(*slices(), nobody) == node(*slices())


def test_a_rule_with_effect_none_only_tells() -> None:
    found = gpu(*slices(), rule(effect="None", device="gpu-0"))

    assert (found.is_sick, found.room["gpu"]) == (False, 1)
    assert [trouble.devices for trouble in found.troubles] == [("gpu-0",)]


def test_a_rule_for_one_partition_leaves_the_others() -> None:
    found = gpu(*slices(), rule(device="gpu-0-mig-7g80gb-0-0"))

    assert (found.room["7g.80gb"], found.room["gpu"]) == (0, 1)


def test_of_what_a_rule_taints_nothing_is_left_for_more_shares() -> None:
    shared = slices(offered=options(Partitioning.NONE, Shares(mode=ShareBy.COUNT, count=4)))
    one = claim("one", "gpu-0", consumedCapacity={"shares": "1"}, shareID="a")

    [part] = gpu(*shared, one, rule(device="gpu-0")).parts

    assert part.left == ()


def test_the_drivers_taint_and_rules_with_the_same_words_are_told_apart() -> None:
    own = {"key": "example.com/drain", "effect": "NoSchedule"}
    found = gpu(*tainted(slices(), own, "gpu-0"), rule("b", device="gpu-0"), rule("a", device="gpu-0"))

    assert [trouble.taint.rule for trouble in found.troubles] == ["", "a", "b"]


def test_a_rule_that_goes_takes_its_taint_along() -> None:
    found = state(*slices(), rule(pool="node-1", device="gpu-0"))
    before = found.fleet()
    found.put_rule(("", "drain"), None)

    after = found.fleet()

    assert [fleet.nodes[0].gpus[0].room["gpu"] for fleet in (before, after)] == [0, 1]


def test_a_rule_touches_the_nodes_that_it_is_about() -> None:
    found = state(*slices("node-1"), *slices("node-2"))
    before = found.fleet()
    put(found, rule(pool="node-1"))

    after = found.fleet()

    assert after.nodes[0] != before.nodes[0]
    assert after.nodes[1] is before.nodes[1]


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {},
        {"deviceSelector": {}},
        {"deviceSelector": [], "taint": {"key": "a", "effect": "NoSchedule"}},
        {"deviceSelector": {"device": 5}, "taint": {"key": "a", "effect": "NoSchedule"}},
        {"deviceSelector": {"pool": "a\x1b[2J"}, "taint": {"key": "a", "effect": "NoSchedule"}},
        {"deviceSelector": {}, "taint": {"key": 5, "effect": "NoSchedule"}},
        {"deviceSelector": {}, "taint": {"key": "a"}},
        {"deviceSelector": {}, "taint": "a"},
    ],
)
def test_a_rule_that_is_not_as_the_api_says_is_passed_over(spec: Any) -> None:
    assert read_rule({"metadata": {"name": "odd"}, "spec": spec}, driver=DRIVER) is None
