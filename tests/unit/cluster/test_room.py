"""What could still be placed is what brute force over the counters finds."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driver.cluster import read_slice
from driver.cluster.room import STEPS, most_together
from tests.unit.cluster.world import DRIVER, claim, gpu, slices
from tests.unit.inventory import mig_facts

if TYPE_CHECKING:
    from driver.cluster import Amounts

NAMES = ("a", "b", "c")
AMOUNTS = st.tuples(*(st.integers(0, 3) for _ in NAMES)).map(lambda found: tuple(zip(NAMES, found, strict=True)))


def brute_force(takes: list[Amounts], left: Amounts) -> int:
    """The size of the biggest subset that fits."""
    return max(
        size
        for size in range(len(takes) + 1)
        for chosen in itertools.combinations(takes, size)
        if all(
            sum(dict(amounts).get(name, 0) for amounts in chosen) <= dict(left).get(name, 0) for name in names(takes)
        )
    )


def names(takes: list[Amounts]) -> set[str]:
    return {name for amounts in takes for name, _ in amounts}


@settings(deadline=None)
@given(st.lists(AMOUNTS, max_size=8), AMOUNTS)
def test_of_any_devices(takes: list[Amounts], left: Amounts) -> None:
    assert most_together(tuple(takes), left) == brute_force(takes, left)


@pytest.mark.parametrize("model", mig_facts.MODELS)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_of_a_gpu_that_is_cut_at_random(model: str, data: st.DataObject) -> None:
    published = slices(inventory=mig_facts.node(model, 1))
    read = [found for obj in published if (found := read_slice(obj, driver=DRIVER)) is not None]
    devices = [device for found in read for device in found.devices]
    [(_, left)] = [counters for found in read for counters in found.counters]
    held = []
    for device in data.draw(st.permutations(devices))[: data.draw(st.integers(0, 5))]:
        if brute_force([device.shape.counters], left):
            held.append(device)
            rest = dict(left)
            left = tuple((name, rest[name] - dict(device.shape.counters).get(name, 0)) for name in rest)

    room = gpu(*published, *(claim(f"claim-{index}", device.name) for index, device in enumerate(held))).room

    free: dict[str, list[Amounts]] = {}
    for device in devices:
        free.setdefault(device.shape.profile or "gpu", [])
        if device not in held:
            free[device.shape.profile or "gpu"].append(device.shape.counters)
    assert dict(room) == {kind: brute_force(takes, left) for kind, takes in free.items()}


def test_a_search_without_an_end_says_what_it_has_found() -> None:
    takes = tuple((("x", 7 + index % 5), ("y", 11 - index % 5)) for index in range(200))

    assert 0 < most_together(takes, (("x", 900), ("y", 900))) <= 200
    assert STEPS < 1 << 16
