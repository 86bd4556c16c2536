"""How the processes of claims share a device: what a claim gets, and what its daemons are to be.

Pure. A device that goes to one claim is shared by that claim's own processes only, so its parameters decide. A device
that goes to several claims (shares) is a thing between them: how it is shared is for the DeviceClass, or the node's
setting, to say. A claim may repeat that, and it may lower its own limits; it cannot change what the others have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from driver.base.quantity import parse_quantity
from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.device_sharing import DeviceSharing, Strategy, go_together, way_of
from driver.hardware import MpsDaemon, MpsLimits, TimeSlice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from driver.claims.allocation import ClaimRef
    from driver.claims.config import Applied, GpuSharing, MigDeviceSharing, MpsConfig
    from driver.claims.ledger.holders import Holders
    from driver.claims.ledger.record import PreparedDevice, Record
    from driver.inventory import Device

MIB = 1 << 20
FIRST_CAPABILITY = 7
"""Limits need Volta or newer (NVIDIA's MPS documentation); compute capabilities count Volta as 7."""


def check_ways(record: Record, held: Holders) -> None:
    """Refuse a share that would be shared in another way than its device is already. Raises ClaimError."""
    for device in record.devices:
        if device.share_id is None or device.admin:
            continue
        wanted = way_of(device.sharing)
        for there, holder in held.ways(device, except_for=record.claim.uid).items():
            if not go_together(wanted, there):
                raise ClaimError(
                    Reason.IN_USE,
                    f"device {device.device} is shared by {there}, because claim {holder.claim} (UID "
                    f"{holder.claim.uid}) has it so; claim {record.claim} would share it by {wanted}, and the two do "
                    "not go together. Let their DeviceClasses say the same, or offer them different devices",
                )


def plan_sharing(
    claim: ClaimRef,
    devices: Sequence[PreparedDevice],
    *,
    known: Mapping[str, Device],
    applied: Sequence[Applied],
    enforce: bool,
) -> tuple[PreparedDevice, ...]:
    """The devices of a claim with how they are shared; ``enforce``: shares without a word about it use MPS.

    Raises ClaimError for what cannot be, and for what is not the claim's to decide.
    """
    if not enforce and not any(one.config is not None for one in applied):
        return tuple(devices)
    planned = list(devices)
    daemons: list[tuple[MpsConfig | None, list[int]]] = []
    for number, (device, one) in enumerate(zip(devices, applied, strict=True)):
        if device.admin:
            continue
        if device.share_id is not None:
            planned[number] = _share(claim, device, known[device.device], one, enforce=enforce)
        elif (asked := one.sharing) is not None and asked.strategy == Strategy.MPS:
            _check_capable(claim, known[device.device])
            members = next(
                (m for c, m in daemons if device.whole and c == asked.mps_config and devices[m[0]].whole), None
            )
            if members is None:
                daemons.append((asked.mps_config, [number]))
            else:
                members.append(number)
        elif asked is not None and (interval := _interval(asked)) is not TimeSlice.DEFAULT:
            planned[number] = replace(device, sharing=DeviceSharing(strategy=Strategy.TIME_SLICING, interval=interval))
    limits = _limits_by_device(claim, devices, applied)
    for index, (config, numbers) in enumerate(daemons):
        for position, number in enumerate(numbers):
            sharing = DeviceSharing(
                strategy=Strategy.MPS,
                daemon=f"claim-{claim.uid}" + (f"-{index}" if index else ""),
                position=position,
                memory_mib=limits.get(number),
                thread_percentage=_percentage(config),
                multi_user=bool(config and config.multi_user),
            )
            planned[number] = replace(devices[number], sharing=sharing)
    _check_consistent(claim, planned)
    return tuple(planned)


def daemons_of(
    record: Record, on_device: Callable[[PreparedDevice], Iterable[PreparedDevice]]
) -> tuple[MpsDaemon, ...]:
    """The control daemons that a record's devices need, once its partitions are known.

    ``on_device`` gives all shares of a device, of all claims: a daemon allows what the biggest of them is allowed, and
    each claim's environment lowers that to its own share.
    """
    members: dict[str, list[PreparedDevice]] = {}
    for device in record.devices:
        if device.sharing is not None and device.sharing.daemon:
            members.setdefault(device.sharing.daemon, []).append(device)
    found = []
    for name, devices in members.items():
        if devices[0].share_id is not None:
            devices = devices[:1]
            everyone = [
                d.sharing for d in (*on_device(devices[0]),) if d.sharing is not None and d.sharing.daemon == name
            ]
        else:
            devices = sorted(devices, key=lambda device: device.sharing.position if device.sharing else 0)
            everyone = []
        own = [device.sharing for device in devices if device.sharing is not None]
        highest = everyone or own
        found.append(
            MpsDaemon(
                id=name,
                gpu_uuids=tuple(device.gpu_uuid for device in devices),
                devices=tuple(hardware_uuid(device) for device in devices),
                memory_mib=(_most(s.memory_mib for s in everyone),) if everyone else tuple(s.memory_mib for s in own),
                thread_percentage=_most(sharing.thread_percentage for sharing in highest),
                multi_user=own[0].multi_user,
            )
        )
    return tuple(found)


def hardware_uuid(device: PreparedDevice) -> str:
    """What CUDA calls a device: the partition's UUID, or the GPU's."""
    return device.partition.uuid if device.partition is not None else device.gpu_uuid


def client_limits(device: PreparedDevice) -> MpsLimits:
    """What a share's containers are held to; a daemon that serves one claim holds them itself."""
    sharing = device.sharing
    if sharing is None or device.share_id is None:
        return MpsLimits()
    return MpsLimits(memory_mib=sharing.memory_mib, thread_percentage=sharing.thread_percentage)


def _share(
    claim: ClaimRef, device: PreparedDevice, known: Device, applied: Applied, *, enforce: bool
) -> PreparedDevice:
    """A share with how it is shared: by the class or the node; the claim's own parameters may only lower its limits."""
    base, own = applied.class_sharing, applied.claim_sharing
    strategy = base.strategy if base is not None else Strategy.MPS if enforce else Strategy.TIME_SLICING
    interval = _interval(base) if base is not None else TimeSlice.DEFAULT
    several = strategy == Strategy.MPS and (
        base is None or base.mps_config is None or base.mps_config.multi_user is not False
    )
    if own is not None:
        given = own.mps_config.multi_user if own.mps_config is not None else None
        different = own.strategy != strategy or _interval(own, interval) is not interval or given not in (None, several)
        if different:
            raise ClaimError(
                Reason.CONFIG,
                f"claim {claim} has a share of device {device.device} and asks for sharing of its own, which would "
                f"change it for the other claims too: on shared devices strategy, interval and multiUser come from the "
                f"DeviceClass or the node's settings. Here they say: {strategy}"
                + (f", interval {interval}" if strategy == Strategy.TIME_SLICING else f", multiUser {several}"),
            )
    if strategy != Strategy.MPS:
        opinion = base is not None and getattr(base, "time_slicing_config", None) is not None
        sharing = DeviceSharing(strategy=Strategy.TIME_SLICING, interval=interval) if opinion else None
        return replace(device, sharing=sharing)
    _check_capable(claim, known)
    try:
        memory, threads = share_limits(device, known)
    except ValueError as error:
        raise ClaimError(
            Reason.INVALID_REQUEST, f"claim {claim}, consumed capacity of {device.device}: {error}"
        ) from None
    for config in (base.mps_config if base is not None else None, own.mps_config if own is not None else None):
        if config is not None:
            memory = _least(memory, _memory_limit(claim, config, [device], 0))
            threads = _least(threads, _percentage(config))
    sharing = DeviceSharing(
        strategy=Strategy.MPS,
        daemon=f"device-{device.device}",
        memory_mib=memory,
        thread_percentage=threads,
        multi_user=several,
    )
    return replace(device, sharing=sharing)


def share_limits(device: PreparedDevice, known: Device) -> tuple[int | None, int | None]:
    """What a share's consumed capacity comes to: MiB of memory, and percent of the threads; None where it is silent."""
    consumed = dict(device.consumed)
    memory, count = (int(parse_quantity(consumed.get(name, "0"))) for name in ("memory", "shares"))
    part = None
    if known.shares.count and count:
        part = 100 * count // known.shares.count
    elif memory and known.memory_bytes:
        part = 100 * memory // max(known.shares.memory(known.memory_bytes), MIB)
    return (memory // MIB or None), (None if part is None else min(max(part, 1), 100))


def _limits_by_device(
    claim: ClaimRef, devices: Sequence[PreparedDevice], applied: Sequence[Applied]
) -> dict[int, int | None]:
    """Memory limits of the devices that are not shared between claims. An index counts the devices of its config."""
    groups: list[tuple[MpsConfig, list[int]]] = []
    for number, (device, one) in enumerate(zip(devices, applied, strict=True)):
        config = one.sharing.mps_config if one.sharing is not None else None
        if config is None or device.admin or device.share_id is not None:
            continue
        members = next((members for known, members in groups if known == config), None)
        if members is None:
            groups.append((config, [number]))
        else:
            members.append(number)
    return {
        number: _memory_limit(claim, config, [devices[member] for member in members], position)
        for config, members in groups
        for position, number in enumerate(members)
    }


def _memory_limit(claim: ClaimRef, config: MpsConfig, devices: Sequence[PreparedDevice], position: int) -> int | None:
    """The limit of one of a config's devices in MiB: its own, or else the default."""
    own = config.default_per_device_pinned_memory_limit or {}
    names = [str(index) for index in range(len(devices))]
    uuids = [d.partition.uuid if d.partition is not None else d.gpu_uuid if d.whole else "" for d in devices]
    for key in own:
        if key not in names and (not key or key not in uuids):
            raise ClaimError(
                Reason.CONFIG,
                f"claim {claim}: mpsConfig.defaultPerDevicePinnedMemoryLimit names {key!r:.80}, which is no "
                f"device that it is for: {', '.join(names)}{' or ' if any(uuids) else ''}"
                f"{', '.join(filter(None, uuids))} is accepted",
            )
    both = [uuid for name, uuid in zip(names, uuids, strict=True) if name in own and uuid in own]
    if both:
        raise ClaimError(
            Reason.CONFIG,
            f"claim {claim}: mpsConfig.defaultPerDevicePinnedMemoryLimit names {both[0]} twice, by UUID and by index",
        )
    limit = own.get(names[position]) or own.get(uuids[position]) or config.default_pinned_device_memory_limit
    return None if limit is None else int(parse_quantity(limit)) // MIB


def _interval(asked: GpuSharing | MigDeviceSharing, default: TimeSlice = TimeSlice.DEFAULT) -> TimeSlice:
    config = getattr(asked, "time_slicing_config", None)
    return TimeSlice(config.interval) if config is not None else default


def _percentage(config: MpsConfig | None) -> int | None:
    """0 is no limit, as leaving it out is."""
    return (config.default_active_thread_percentage or None) if config is not None else None


def _check_capable(claim: ClaimRef, known: Device) -> None:
    major = (known.gpu.compute_capability or "").partition(".")[0]
    if major.isdecimal() and int(major) < FIRST_CAPABILITY:
        raise ClaimError(
            Reason.CONFIG,
            f"claim {claim}: device {known.name} has compute capability {known.gpu.compute_capability}, MPS with "
            f"limits needs {FIRST_CAPABILITY}.0 or higher; without MPS processes take turns (TimeSlicing)",
        )


def _check_consistent(claim: ClaimRef, devices: Sequence[PreparedDevice]) -> None:
    """Within one claim: one way of sharing for each device, and one daemon for each request."""
    by_device: dict[str, str] = {}
    by_request: dict[str, tuple[str, str]] = {}
    for device in devices:
        if device.admin:
            continue
        wanted = way_of(device.sharing)
        before = by_device.setdefault(device.device, wanted)
        if not go_together(before, wanted):
            raise ClaimError(
                Reason.CONFIG, f"claim {claim} would share device {device.device} both by {before} and by {wanted}"
            )
        daemon = device.sharing.daemon if device.sharing is not None else ""
        for request in device.requests:
            known, other = by_request.setdefault(request, (daemon, device.device))
            if known != daemon:
                raise ClaimError(
                    Reason.CONFIG,
                    f"claim {claim}: request {request} has devices {other} and {device.device}, which different MPS "
                    "daemons serve, and a container can talk to one only: use a request for each, and give each to a "
                    "container of its own",
                )


def _least(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _most(values: Iterable[int | None]) -> int | None:
    """The highest limit; None, which is none at all, is higher than any."""
    known = list(values)
    limited = [value for value in known if value is not None]
    return max(limited) if known and len(limited) == len(known) else None
