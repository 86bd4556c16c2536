"""Resource pools as the scheduler sees them from one node: newest generation, complete, valid, in allocation order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from driver.sim import quantity
from driver.sim.scheduler import nodes, tolerations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from fractions import Fraction


class DeviceId(NamedTuple):
    """Identity of a device in the cluster."""

    driver: str
    pool: str
    device: str

    def __str__(self) -> str:
        return "/".join(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """What allocated claims hold."""

    exclusive: frozenset[DeviceId] = frozenset()
    shared: Mapping[DeviceId, Mapping[str, Fraction]] = field(default_factory=dict)
    """Consumed capacity of devices that allow several allocations."""

    @classmethod
    def by(cls, claims: Iterable[Mapping[str, Any]]) -> InUse:
        """Sum up the allocations of all claims; those with admin access hold nothing."""
        exclusive: set[DeviceId] = set()
        shared: dict[DeviceId, dict[str, Fraction]] = {}
        for claim in claims:
            allocation = (claim.get("status") or {}).get("allocation") or {}
            for result in (allocation.get("devices") or {}).get("results") or []:
                if result.get("adminAccess"):
                    continue
                device = DeviceId(result["driver"], result["pool"], result["device"])
                if result.get("shareID") is None:
                    exclusive.add(device)
                    continue
                sums = shared.setdefault(device, {})
                for name, amount in (result.get("consumedCapacity") or {}).items():
                    sums[name] = sums.get(name, quantity.parse(0)) + quantity.parse(amount)
        return cls(exclusive=frozenset(exclusive), shared=shared)

    def holds(self, device: DeviceId) -> bool:
        """Whether any part of the device is allocated."""
        return device in self.exclusive or device in self.shared


Counters = dict[tuple[str, str], "Fraction"]
"""Amount by (counter set, counter)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A device that may be allocated, with what the search needs at hand."""

    id: DeviceId
    spec: Mapping[str, Any]
    """The entry of ``spec.devices``."""
    slice: Mapping[str, Any]
    """The ResourceSlice's spec."""
    counters: Counters
    taints: tuple[Mapping[str, Any], ...]
    """Those of the slice and those of DeviceTaintRules."""

    @property
    def shared(self) -> bool:
        """Whether several claims may hold it at the same time, each a part of its capacity."""
        return bool(self.spec.get("allowMultipleAllocations"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """One pool. ``devices`` are those in slices for the node, ``elsewhere`` those for other nodes."""

    driver: str
    name: str
    devices: tuple[Candidate, ...] = ()
    elsewhere: tuple[Candidate, ...] = ()
    counters: Counters = field(default_factory=dict)
    incomplete: bool = False
    invalid: str = ""
    """Why nothing may be allocated from it, empty for a valid pool."""

    @property
    def usable(self) -> bool:
        """Whether anything may be allocated from the pool."""
        return not self.incomplete and not self.invalid


class InvalidPoolError(Exception):
    """A pool whose slices contradict each other."""


def gather(
    node: Mapping[str, Any], slices: Sequence[Mapping[str, Any]], rules: Sequence[Mapping[str, Any]] = ()
) -> list[Pool]:
    """All pools with slices for the node, in the order in which the search tries them."""
    relevant: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for slice_ in slices:
        if _relevant(node, slice_["spec"]):
            relevant.setdefault(_pool_id(slice_), []).append(slice_)
    pools: list[Pool] = []
    for (driver, name), known in relevant.items():
        generation = max(_generation(s) for s in known)
        current = sorted((s for s in known if _generation(s) == generation), key=lambda s: s["metadata"]["name"])
        count = current[0]["spec"]["pool"]["resourceSliceCount"]
        everything = current
        if len(current) != count:  # the rest may be for other nodes
            of_pool = [s for s in slices if _pool_id(s) == (driver, name)]
            if any(_generation(s) > generation for s in of_pool):
                continue  # being replaced, and the new generation has nothing for this node yet
            everything = [s for s in of_pool if _generation(s) == generation]
        if len(everything) != count:
            pools.append(Pool(driver=driver, name=name, incomplete=True))
            continue
        seen = {s["metadata"]["name"] for s in current}
        others = [s for s in everything if s["metadata"]["name"] not in seen]
        pools.append(_build(driver, name, current, others, rules))
    return sorted(pools, key=lambda pool: (pool.driver, pool.name))


def newest(slices: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The slices of the highest generation that their pool has."""
    slices = list(slices)
    highest: dict[tuple[str, str], int] = {}
    for slice_ in slices:
        highest[_pool_id(slice_)] = max(_generation(slice_), highest.get(_pool_id(slice_), 0))
    return [s for s in slices if _generation(s) == highest[_pool_id(s)]]


def _build(
    driver: str,
    name: str,
    current: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    rules: Sequence[Mapping[str, Any]],
) -> Pool:
    try:
        counters = _counters(current)
        devices = tuple(c for s in current for c in _candidates(s["spec"], counters, rules))
        elsewhere = tuple(c for s in others for c in _candidates(s["spec"], counters, rules))
        names: set[str] = set()
        for device in devices:
            if device.id.device in names:
                raise InvalidPoolError(f"duplicate device name {device.id.device}")
            names.add(device.id.device)
    except InvalidPoolError as error:
        return Pool(driver=driver, name=name, invalid=str(error))
    return Pool(driver=driver, name=name, devices=devices, elsewhere=elsewhere, counters=counters)


def _counters(slices: Sequence[Mapping[str, Any]]) -> Counters:
    found: Counters = {}
    sets: set[str] = set()
    for slice_ in slices:
        for counter_set in slice_["spec"].get("sharedCounters") or []:
            if counter_set["name"] in sets:
                raise InvalidPoolError(f"duplicate counter set name {counter_set['name']}")
            sets.add(counter_set["name"])
            for counter, amount in counter_set["counters"].items():
                found[counter_set["name"], counter] = quantity.parse(amount["value"])
    return found


def _candidates(
    spec: Mapping[str, Any], available: Counters, rules: Sequence[Mapping[str, Any]]
) -> Iterable[Candidate]:
    sets = {name for name, _ in available}
    for device in spec.get("devices") or []:
        counters: Counters = {}
        for consumed in device.get("consumesCounters") or []:
            counter_set = consumed["counterSet"]
            if counter_set not in sets:
                raise InvalidPoolError(f"counter set {counter_set} not found")
            for counter, amount in consumed["counters"].items():
                if (counter_set, counter) not in available:
                    raise InvalidPoolError(f"counter {counter} not found in counter set {counter_set}")
                counters[counter_set, counter] = quantity.parse(amount["value"])
        identity = DeviceId(spec["driver"], spec["pool"]["name"], device["name"])
        yield Candidate(
            id=identity,
            spec=device,
            slice=spec,
            counters=counters,
            taints=(*(device.get("taints") or ()), *tolerations.from_rules(rules, *identity)),
        )


def _relevant(node: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("sharedCounters")) or nodes.selects(node, spec)


def _pool_id(slice_: Mapping[str, Any]) -> tuple[str, str]:
    return slice_["spec"]["driver"], slice_["spec"]["pool"]["name"]


def _generation(slice_: Mapping[str, Any]) -> int:
    return int(slice_["spec"]["pool"].get("generation") or 0)
