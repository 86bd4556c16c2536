"""From one pool's slices, and the claims that name its devices, to a node of the model. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING

from driver.cluster.model import WHOLE, Gpu, Holder, Node, Part, Room, Trouble, Usage, total_room
from driver.cluster.room import left_of, most_together
from driver.cluster.weight import compute_slices, held_weight, weight

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from driver.cluster.objects import Amounts, Claim, Device, Key, Pod, Result, Slice, Taint

_LATEST = datetime.max.replace(tzinfo=UTC)

Holds = dict[str, list[tuple["Claim", "Result"]]]
"""Claims and what they were given, by device."""


def build_node(pool: str, slices: Collection[Slice], claims: Iterable[Claim], pods: Mapping[Key, Pod]) -> Node:
    """What a pool's slices and the claims on it say together.

    As for the scheduler, only the newest generation counts, and only if it is complete.
    """
    newest = max((found.generation for found in slices), default=0)
    current = sorted((found for found in slices if found.generation == newest), key=lambda found: found.name)
    expected = max((found.count for found in current), default=0)
    complete = len(current) == expected
    holds: Holds = {}
    for claim in sorted(claims, key=lambda claim: claim.key):
        for result in claim.results:
            if result.pool == pool:
                holds.setdefault(result.device, []).append((claim, result))
    devices: dict[str, Device] = {}
    for found in current if complete else ():
        for device in found.devices:
            devices.setdefault(device.name, device)  # one that is there twice is an error of whoever wrote it
    by_gpu: dict[str, list[Device]] = {}
    for device in devices.values():
        by_gpu.setdefault(device.gpu, []).append(device)
    counters = {name: amounts for found in current for name, amounts in found.counters}
    gpus = tuple(_gpu(siblings, counters, holds, pods) for siblings in by_gpu.values())
    return Node(
        name=next((found.node for found in current if found.node), pool),
        pool=pool,
        gpus=gpus,
        problem=_problem(len(current), expected, newest),
        lost=tuple(
            _holder(claim, result, Fraction(0), pods)
            for name, found in holds.items()
            if name not in devices
            for claim, result in found
        ),
        room=total_room(gpu.room for gpu in gpus),
        usage=_usage(holder for gpu in gpus for part in gpu.parts for holder in part.holders),
    )


def _problem(found: int, expected: int, generation: int) -> str:
    if not found:
        return "no ResourceSlice is published"
    if found != expected:
        return f"{found} of {expected} ResourceSlices of generation {generation} are there"
    return ""


def _gpu(devices: Sequence[Device], counters: Mapping[str, Amounts], holds: Holds, pods: Mapping[Key, Pod]) -> Gpu:
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
        room=_room(devices, {part.device.name for part in parts if part.is_held}, counters),
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


def _room(devices: Sequence[Device], held: Collection[str], counters: Mapping[str, Amounts]) -> Room:
    """By profile: how many more of its devices somebody could have who wants nothing else of this GPU."""
    taken: dict[str, list[Amounts]] = {}
    kinds: dict[str, dict[str, list[Amounts]]] = {}
    for device in devices:
        free = kinds.setdefault(device.shape.profile or WHOLE, {})
        if device.name in held:
            taken.setdefault(device.counter_set, []).append(device.shape.counters)
        elif not any(taint.forbids for taint in device.taints):
            free.setdefault(device.counter_set, []).append(device.shape.counters)
    left = {name: left_of(counters.get(name, ()), taken.get(name, ())) for name in {d.counter_set for d in devices}}
    # What takes no counters goes together with everything.
    return {
        kind: sum(most_together(tuple(takes), left[name]) for name, takes in free.items())
        for kind, free in kinds.items()
    }


def _troubles(devices: Sequence[Device]) -> tuple[Trouble, ...]:
    found: dict[tuple[str, str, str], list[tuple[str, Taint]]] = {}
    for device in devices:
        for taint in device.taints:
            found.setdefault((taint.key, taint.value, taint.effect), []).append((device.name, taint))
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
