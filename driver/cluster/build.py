"""From one pool's slices, and the claims that name its devices, to a node of the model. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING

from driver.cluster.fleet import WHOLE, Gpu, Holder, Node, Part, Room, Trouble, Usage, total_room
from driver.cluster.room import left_of, most_together
from driver.cluster.slice_weights import compute_slices, held_weight, weight

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from driver.cluster.objects import Amounts, Claim, Device, Key, Pod, Result, Rule, Slice, Taint

_LATEST = datetime.max.replace(tzinfo=UTC)

Holds = dict[str, list[tuple["Claim", "Result"]]]
"""Claims and what they were given, by device."""


def build_node(
    pool: str,
    slices: Collection[Slice],
    claims: Iterable[Claim],
    pods: Mapping[Key, Pod],
    rules: Iterable[Rule] = (),
) -> Node:
    """What a pool's slices, the claims on it and an administrator's rules say together.

    As for the scheduler, only the newest generation counts, and nothing is free in a pool that is incomplete or
    contradicts itself. What is held is: while a pool is written, the slices that are still to be written say where.
    """
    newest = max((found.generation for found in slices), default=0)
    current = [found for found in slices if found.generation == newest]
    complete = len(current) == max((found.count for found in current), default=0)
    ordered = sorted(current if complete else slices, key=lambda found: (-found.generation, found.name))
    devices: dict[str, Device] = {}
    here = sorted((rule for rule in rules if rule.pool in ("", pool)), key=lambda rule: rule.taint.rule)
    for found in ordered:
        for device in found.devices:
            devices.setdefault(device.name, _ruled(device, pool, here) if here else device)
    holds: Holds = {}
    for claim in sorted(claims, key=lambda claim: claim.key):
        for result in claim.results:
            if result.pool == pool:
                holds.setdefault(result.device, []).append((claim, result))
    left = _left_counters(ordered, devices.values(), holds)
    overdrawn = any(amount < 0 for amounts in left.values() for _, amount in amounts)
    problem = _problem(current, newest, overdrawn=overdrawn)
    by_gpu: dict[str, list[Device]] = {}
    for device in devices.values():
        by_gpu.setdefault(device.gpu, []).append(device)
    usable = complete and not _twice(current)
    gpus = tuple(
        _gpu(siblings, None if not usable else {} if overdrawn else left, holds, pods) for siblings in by_gpu.values()
    )
    return Node(
        name=next((found.node for found in ordered if found.node), pool),
        pool=pool,
        gpus=gpus,
        problem=problem,
        lost=tuple(
            _holder(claim, result, Fraction(0), pods)
            for name, held in holds.items()
            if name not in devices
            for claim, result in held
        ),
        room=total_room(gpu.room for gpu in gpus),
        usage=_usage(holder for gpu in gpus for part in gpu.parts for holder in part.holders),
    )


def _ruled(device: Device, pool: str, rules: Iterable[Rule]) -> Device:
    """The device with the taints that rules add to its own, as the scheduler sees it."""
    more = tuple(rule.taint for rule in rules if rule.taints(device.name, pool=pool))
    return replace(device, taints=(*device.taints, *more)) if more else device


def _left_counters(slices: Sequence[Slice], devices: Iterable[Device], holds: Holds) -> dict[str, Amounts]:
    """What is left of each counter set."""
    taken: dict[str, list[Amounts]] = {}
    for device in devices:
        if device.counter_set and any(not result.admin for _, result in holds.get(device.name, ())):
            taken.setdefault(device.counter_set, []).append(device.shape.counters)
    totals: dict[str, Amounts] = {}
    for found in slices:
        for name, amounts in found.counters:
            totals.setdefault(name, amounts)
    return {name: left_of(amounts, taken.get(name, ())) for name, amounts in totals.items()}


def _twice(slices: Sequence[Slice]) -> str:
    """A name that two devices have; empty where all have their own."""
    names: set[str] = set()
    for found in slices:
        for device in found.devices:
            if device.name in names:
                return device.name
            names.add(device.name)
    return ""


def _problem(current: Sequence[Slice], generation: int, *, overdrawn: bool) -> str:
    if not current:
        return "no ResourceSlice is published"
    expected = max(found.count for found in current)
    if len(current) != expected:
        return f"{len(current)} of {expected} ResourceSlices of generation {generation} are there, so nothing is placed"
    if name := _twice(current):
        return f"two devices are called {name}, so nothing is placed"
    if unread := sum(found.unread for found in current):
        return f"devices that are not as the API says, and are not shown: {unread}"
    return "claims hold more than there is, so nothing that can be cut is placed" if overdrawn else ""


def _gpu(devices: Sequence[Device], left: Mapping[str, Amounts] | None, holds: Holds, pods: Mapping[Key, Pod]) -> Gpu:
    """``left`` of the counters; a set that is not there gives nothing, and None says that nothing is placed at all."""
    compute = compute_slices(devices)
    parts = []
    for device in devices:
        own = weight(device, compute)
        holders = tuple(
            _holder(claim, result, held_weight(device, result, own), pods)
            for claim, result in holds.get(device.name, ())
        )
        # What takes counters is a possibility until somebody holds it; everything else is there.
        if holders or not device.counter_set:
            parts.append(Part(device=device, weight=own, holders=holders, left=_left(device, holders)))
    first = devices[0]
    return Gpu(
        name=first.gpu_name,
        uuid=first.gpu if first.gpu != first.gpu_name else "",
        product=next((device.shape.product for device in devices if device.shape.product), ""),
        slots=max((slot + 1 for device in devices for slot in device.shape.slots), default=0),
        parts=tuple(parts),
        troubles=_troubles(devices),
        room=_room(devices, [part for part in parts if part.is_held], left),
    )


def _holder(claim: Claim, result: Result, held: Fraction, pods: Mapping[Key, Pod]) -> Holder:
    using = [(name, pods.get((claim.namespace, name))) for name in claim.pods]
    return Holder(
        claim=claim.key,
        result=result,
        weight=held,
        since=claim.since,
        pods=tuple((name, pod.phase if pod else "") for name, pod in using),
    )


def _left(device: Device, holders: Iterable[Holder]) -> Amounts:
    if not device.shape.shared or any(taint.forbids for taint in device.taints):
        return ()
    totals = {"shares": device.shape.shares, "memory": device.shape.memory}
    consumed = [holder.result.consumed for holder in holders if not holder.result.admin]
    known = tuple((name, total) for name, total in totals.items() if total is not None)
    names = {name for name, _ in known}
    return left_of(known, [tuple(pair for pair in amounts if pair[0] in names) for amounts in consumed])


def _room(devices: Sequence[Device], held: Sequence[Part], left: Mapping[str, Amounts] | None) -> Room:
    """By profile: how many more of its devices somebody could have who wants nothing else of this GPU."""
    names = {part.device.name for part in held}
    shareable = {
        part.device.name for part in held if part.device.shape.shared and all(rest > 0 for _, rest in part.left)
    }
    free: dict[str, dict[str, list[Amounts]]] = {}
    room: dict[str, int] = {}
    for device in devices:
        kind = device.shape.profile or WHOLE
        room.setdefault(kind, 0)
        if left is None or any(taint.forbids for taint in device.taints):
            continue
        if device.name not in names:
            free.setdefault(kind, {}).setdefault(device.counter_set, []).append(device.shape.counters)
        elif device.name in shareable:  # another share of it takes no counters a second time
            room[kind] += 1
    for kind, takes in free.items():
        for counter_set, amounts in takes.items():
            room[kind] += most_together(tuple(amounts), (left or {}).get(counter_set, ()))
    return room


def _troubles(devices: Sequence[Device]) -> tuple[Trouble, ...]:
    found: dict[tuple[str, str, str, str], list[tuple[str, Taint]]] = {}
    for device in devices:
        for taint in device.taints:
            found.setdefault((taint.key, taint.value, taint.effect, taint.rule), []).append((device.name, taint))
    return tuple(
        Trouble(
            taint=min((taint for _, taint in tainted), key=lambda taint: taint.since or _LATEST),
            devices=() if len(tainted) == len(devices) else tuple(name for name, _ in tainted),
        )
        for tainted in found.values()
    )


def _usage(holders: Iterable[Holder]) -> dict[str, Usage]:
    found: dict[str, Usage] = {}
    for holder in holders:
        timed = holder.weight if holder.since else Fraction(0)
        more = Usage(
            holds=0 if holder.result.admin else 1,
            gpus=holder.weight,
            timed=timed,
            started=timed * int(holder.since.timestamp()) if holder.since else Fraction(0),
        )
        found[holder.namespace] = found.get(holder.namespace, Usage()) + more
    return found
