"""What the scheduler may allocate together by our counters, held against what the hardware can place, for each GPU.

The scheduler's side is read off the published slices alone. The hardware's side is a model of its own, written from the
tables: instances start where their profile may, overlap in no memory slice, are no more than the profile's number, and
one of them at most has media extensions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity

from driver.inventory.catalogue import catalogue
from driver.inventory.options import DeviceOptions, Options, Partitioning
from driver.inventory.slices import build_slices
from tests.unit.inventory.mig_facts import FACTS, MODELS, node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DYNAMIC = Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC))
Amounts = Counter[tuple[str, str]]


@dataclass(frozen=True)
class Place:
    """A partition as the hardware's tables have it; ``profile`` None is the whole GPU."""

    profile: str | None
    start: int = 0


def placeable(model: str, places: frozenset[Place]) -> bool:
    slots, profiles = FACTS[model]["slots"], FACTS[model]["profiles"]
    if Place(None) in places:
        return len(places) == 1
    taken: list[int] = []
    instances: Counter[str] = Counter()
    for place in places:
        _, _, size, starts, *_ = profiles[place.profile]
        if place.start not in starts:
            return False
        taken += range(place.start, place.start + size)
        instances[str(place.profile)] += 1
    return (
        len(taken) == len(set(taken))
        and all(slot < slots for slot in taken)
        and all(count <= profiles[name][4] for name, count in instances.items())
        and sum(count for name, count in instances.items() if "+me" in name) <= 1
    )


@dataclass(frozen=True)
class Published:
    """A pool as the scheduler reads it."""

    available: Amounts
    consumption: dict[Place, Amounts]

    def allowed(self, places: frozenset[Place]) -> bool:
        used: Amounts = Counter()
        for place in places:
            used.update(self.consumption[place])
        return all(amount <= self.available[counter] for counter, amount in used.items())

    def without(self, counter: tuple[str, str]) -> Published:
        """The same pool with so much of one counter that it keeps nobody away."""
        left = {
            place: Counter({c: n for c, n in used.items() if c != counter}) for place, used in self.consumption.items()
        }
        return Published(available=self.available, consumption=left)


@cache
def published(model: str) -> Published:
    inventory = node(model)
    devices = catalogue(inventory, DYNAMIC)
    slices = build_slices(inventory, {}, driver_name="gpu.nvidia.com", devices=devices)
    places = {device.name: Place(device.profile and device.profile.name, device.start or 0) for device in devices}
    available = [
        ((counters["name"], name), exact(counter))
        for spec in slices
        for counters in spec.get("sharedCounters", ())
        for name, counter in counters["counters"].items()
    ]
    consumption = {
        places[device["name"]]: Counter(
            {
                (entry["counterSet"], name): exact(counter)
                for entry in device["consumesCounters"]
                for name, counter in entry["counters"].items()
            }
        )
        for spec in slices
        for device in spec.get("devices", ())
    }
    assert {key for used in consumption.values() for key in used} <= {key for key, _ in available}
    return Published(available=Counter(dict(available)), consumption=consumption)


def exact(counter: dict[str, str]) -> int:
    value = parse_quantity(counter["value"])
    assert value == value.to_integral_value(), "a counter is a whole number"
    return int(Decimal(value))


def all_sets(places: list[Place], fits: Callable[[frozenset[Place]], bool]) -> Iterator[frozenset[Place]]:
    """Every set that fits; a set fits only if each part of it does, so growing from the fitting ones finds all."""

    def grow(current: frozenset[Place], rest: int) -> Iterator[frozenset[Place]]:
        yield current
        for index in range(rest, len(places)):
            larger = current | {places[index]}
            if fits(larger):
                yield from grow(larger, index + 1)

    yield from grow(frozenset(), 0)


@pytest.mark.parametrize("model", MODELS)
def test_every_placement_of_every_profile_is_published_and_nothing_else(model: str):
    expected = {Place(name, start) for name, facts in FACTS[model]["profiles"].items() for start in facts[3]}

    assert set(published(model).consumption) == expected | {Place(None)}


@pytest.mark.parametrize("model", MODELS)
def test_what_the_counters_allow_is_just_what_can_be_placed(model: str):
    pool = published(model)
    places = sorted(pool.consumption, key=lambda place: (place.profile or "", place.start))

    allowed = set(all_sets(places, pool.allowed))
    legal = set(all_sets(places, lambda found: placeable(model, found)))

    assert allowed - legal == set(), "the scheduler would allocate what cannot be created"
    assert legal - allowed == set(), "the scheduler would refuse what could be created"


@pytest.mark.parametrize("model", MODELS)
def test_a_whole_gpu_takes_all_that_there_is(model: str):
    pool = published(model)

    assert pool.consumption[Place(None)] == pool.available


@pytest.mark.parametrize("model", MODELS)
def test_no_rule_is_counted_that_the_other_counters_keep(model: str):
    pool = published(model)
    places = sorted(pool.consumption, key=lambda place: (place.profile or "", place.start))

    for counter in pool.available:
        if not counter[1].startswith("memory-slice-"):
            more = all_sets(places, pool.without(counter).allowed)
            assert any(not pool.allowed(found) for found in more)


@pytest.mark.parametrize("model", MODELS)
def test_a_partition_takes_its_memory_slices_and_nothing_of_what_it_does_not_use(model: str):
    facts = FACTS[model]["profiles"]

    for place, used in published(model).consumption.items():
        assert 0 not in used.values()
        if place.profile is not None:
            slices = {f"memory-slice-{place.start + n}" for n in range(facts[place.profile][2])}
            assert {name for _, name in used if name.startswith("memory-slice-")} == slices


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=50)
@given(data=st.data())
def test_any_order_of_allocation_comes_to_the_same(model: str, data: Any):
    pool = published(model)
    order = data.draw(st.permutations(sorted(pool.consumption, key=str)))

    allocated: set[Place] = set()
    for place in order:
        if pool.allowed(frozenset(allocated | {place})):
            assert placeable(model, frozenset(allocated | {place}))
            allocated.add(place)

    assert all(not placeable(model, frozenset(allocated | {place})) for place in order if place not in allocated)
