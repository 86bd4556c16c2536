"""Where a profile has room on a node, and who stands in the way elsewhere: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from driver.base.quantity import format_quantity, parse_quantity
from driver.health import Effect
from driver.inventory import capacity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from driver.claims import PreparedDevice, Record
    from driver.cluster import Rule
    from driver.inventory import Device

WHOLE = "gpu"
"""What a whole GPU is called among the profiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One device of the profile, and what is in its way; nothing means that it is free."""

    device: Device
    blockers: tuple[str, ...] = ()
    left: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Of a shared device: what is left of each capacity, and how much there is, as quantities."""


def profiles(devices: Iterable[Device]) -> tuple[str, ...]:
    """The profiles that are offered, in order of publication."""
    return tuple(dict.fromkeys(_name(device) for device in devices))


def find_room(
    devices: Iterable[Device],
    profile: str | None,
    records: Iterable[Record],
    *,
    taints: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType({}),
    rules: Sequence[Rule] = (),
) -> tuple[Room, ...]:
    """Each device of a profile with what is in its way: claims and taints; shares of one device are in nobody's way.

    Args:
        devices: what the node offers.
        profile: ``1g.10gb`` and the like, or ``gpu``; None for all that is offered.
        records: what is prepared. What the scheduler has allocated and nobody has prepared yet is not known here.
        taints: those of the devices, by name, as they are published.
        rules: DeviceTaintRules for this node's pool.
    """
    offered = tuple(devices)
    held = [(record, part) for record in records for part in record.devices if not part.admin]
    by_name = {device.name: device for device in offered}
    return tuple(
        _room(device, held, by_name, [*_tainted(taints.get(device.name, ())), *_ruled(device, rules)])
        for device in offered
        if profile is None or _name(device) == profile
    )


def _room(
    device: Device,
    held: list[tuple[Record, PreparedDevice]],
    by_name: dict[str, Device],
    tainted: list[str],
) -> Room:
    blockers = [*tainted, *_blockers(device, held, by_name)]
    left = {}
    sharing = [(record, part) for record, part in held if part.device == device.name and part.share_id is not None]
    for name, published in capacity(device).items() if device.shares else ():
        total = parse_quantity(published["value"])
        takers = {
            str(record.claim): dict(part.consumed)[name] for record, part in sharing if name in dict(part.consumed)
        }
        rest = total - sum(
            (parse_quantity(amount) for _, part in sharing for key, amount in part.consumed if key == name),
            start=parse_quantity("0"),
        )
        left[name] = (format_quantity(max(0, int(rest))), published["value"])
        if rest < parse_quantity(_least(published)):
            blockers.append(f"nothing is left of its {published['value']} of {name}, taken by {', '.join(takers)}")
    return Room(device=device, blockers=tuple(blockers), left=left)


def _tainted(taints: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"tainted {taint_text(taint)}" for taint in taints if taint["effect"] != Effect.NONE]


def _ruled(device: Device, rules: Iterable[Rule]) -> list[str]:
    return [
        f"tainted by DeviceTaintRule {rule.taint.rule} ({rule.taint.words})"
        for rule in rules
        if rule.taint.forbids and rule.device in ("", device.name)
    ]


def taint_text(taint: Mapping[str, Any]) -> str:
    """A taint in kubectl's words: ``key=value:effect``."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def _least(published: Mapping[str, Any]) -> str:
    """The least that a claim can take of a capacity; what everyone may leave out stops nobody."""
    policy = published.get("requestPolicy") or {}
    allowed = policy.get("validRange")
    return str(allowed["min"] if allowed else policy.get("default", "0"))


def _blockers(device: Device, held: list[tuple[Record, PreparedDevice]], by_name: dict[str, Device]) -> list[str]:
    found = []
    for record, part in held:
        if part.gpu_uuid != device.gpu.uuid:
            continue
        if part.device == device.name and part.share_id is not None and device.shares:
            continue
        holder = f"the damaged record {record.salvaged_from}" if record.salvaged_from else f"claim {record.claim}"
        who = f"{holder} holds {part.device}"
        if device.slots & set(part.slots):
            found.append(who)
        elif _media(device) and (other := by_name.get(part.device)) is not None and _media(other):
            found.append(f"{who} with the GPU's only media extensions")
    if device.partition is None:
        known = {(part.gpu_uuid, frozenset(part.slots)) for _, part in held}
        found += [
            f"{partition.profile} at memory slice {partition.start} ({partition.uuid or 'unfinished'}) is there, "
            "and no claim's record names it"
            for partition in device.gpu.partitions
            if partition.slots & device.slots and (partition.gpu_uuid, partition.slots) not in known
        ]
    return found


def _media(device: Device) -> bool:
    return device.profile is not None and device.profile.media_extensions


def _name(device: Device) -> str:
    return device.profile.name if device.profile else WHOLE
