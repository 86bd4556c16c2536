"""How a record is written down: pure. What a newer version says is kept."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, TypeVar

from driver.base.quantity import is_quantity
from driver.claims.allocation import PodRef, check_ref
from driver.claims.errors import ClaimError
from driver.claims.ledger.device_sharing import DeviceSharing, Strategy
from driver.claims.ledger.record import Placement, PreparedDevice, Record, State
from driver.hardware import ComputeMode, Partition, TimeSlice
from driver.inventory import DeviceOptions, Partitioning, Shares, parse_shares

T = TypeVar("T")

SCHEMA = 1
PARTS = ("placement", "partition", "sharing")
"""Objects of a device that a record may or may not have; what a newer version says inside goes with them."""


class DamagedRecordError(Exception):
    """A record's bytes cannot be understood."""


def encode(record: Record) -> bytes:
    """The file's content."""
    return json.dumps(_merged(record.unknown, _encode(record))).encode()  # indented, it would take the slow encoder


def decode(data: bytes, *, uid: str) -> Record:
    """Read a file's content. Raises DamagedRecordError, also for a record that belongs to another UID."""
    try:
        raw = json.loads(data)
        record = Record(
            claim=check_ref(*(_a(str, raw["claim"][part]) for part in ("namespace", "name", "uid"))),
            allocation=_a(str, raw["allocation"]),
            boot_id=_a(str, raw["bootID"]),
            driver=_a(str, raw["driver"]),
            state=State(raw["state"]),
            devices=tuple(_decode_device(device) for device in _a(list, raw["devices"])),
            prepared_at=_a(str, raw["preparedAt"]),
            held_since=_number(raw.get("heldSince")),
            pods=tuple(PodRef(_a(str, pod["name"]), _a(str, pod["uid"])) for pod in _a(list, raw.get("pods") or [])),
            of_one_pod=_a(bool, raw.get("ofOnePod", False)),
            metadata=_a(str, raw["metadata"]) if raw.get("metadata") is not None else None,
            salvaged_from=_a(str, raw.get("salvagedFrom", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ClaimError) as error:
        raise DamagedRecordError(f"{type(error).__name__}: {error}") from error
    if record.claim.uid != uid:
        raise DamagedRecordError(f"it belongs to claim UID {record.claim.uid}")
    return replace(record, unknown=unknown) if (unknown := _rest(raw, _encode(record))) else record


def _encode(record: Record) -> dict[str, Any]:
    claim = record.claim
    raw: dict[str, Any] = {
        "schema": SCHEMA,
        "claim": {"namespace": claim.namespace, "name": claim.name, "uid": claim.uid},
        "allocation": record.allocation,
        "bootID": record.boot_id,
        "driver": record.driver,
        "state": record.state,
        "devices": [_merged_device(device) for device in record.devices],
        "preparedAt": record.prepared_at,
    }
    if record.held_since is not None:
        raw["heldSince"] = record.held_since
    if record.pods:
        raw["pods"] = [{"name": pod.name, "uid": pod.uid} for pod in record.pods]
    if record.of_one_pod:
        raw["ofOnePod"] = True
    if record.metadata is not None:
        raw["metadata"] = record.metadata
    if record.salvaged_from:
        raw["salvagedFrom"] = record.salvaged_from
    return raw


def _encode_device(device: PreparedDevice) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "requests": device.requests,
        "pool": device.pool,
        "device": device.device,
        "cdiDeviceIDs": device.cdi_ids,
        "gpuUUID": device.gpu_uuid,
        "slots": device.slots,
        "whole": device.whole,
    }
    if device.share_id is not None:
        raw["shareID"] = device.share_id
        raw["consumed"] = dict(device.consumed)
    if device.admin:
        raw["admin"] = True
    if device.subrequest:
        raw["subrequest"] = device.subrequest
    if device.product:
        raw["product"] = device.product
    if device.weight is not None:
        raw["weight"] = device.weight
    if device.placement is not None:
        raw["placement"] = {"profile": device.placement.profile, "start": device.placement.start}
    if device.partition is not None:
        part = device.partition
        raw["partition"] = {
            "profile": part.profile,
            "profileID": part.profile_id,
            "start": part.start,
            "size": part.size,
            "uuid": part.uuid,
            "gi": part.gi_id,
            "ci": part.ci_id,
        }
    if device.sharing is not None:
        raw["sharing"] = _encode_sharing(device.sharing)
    if device.offered is not None:
        shares = device.offered.shares
        raw["offered"] = {
            "partitioning": device.offered.partitioning,
            "shares": str(shares.count or shares.mode),
            "sharesMemoryReserve": shares.memory_reserve,
        }
    return raw


def _decode_device(raw: dict[str, Any]) -> PreparedDevice:
    """One device of a record. Raises ValueError, KeyError, TypeError or AttributeError."""
    placement, partition, offered = raw.get("placement"), raw.get("partition"), raw.get("offered")
    device = PreparedDevice(
        requests=tuple(_a(str, request) for request in _a(list, raw["requests"])),
        pool=_a(str, raw["pool"]),
        device=_a(str, raw["device"]),
        cdi_ids=tuple(_a(str, name) for name in _a(list, raw["cdiDeviceIDs"])),
        gpu_uuid=_a(str, raw["gpuUUID"]),
        slots=tuple(_a(int, slot) for slot in _a(list, raw["slots"])),
        whole=_a(bool, raw["whole"]),
        share_id=_a(str, raw["shareID"]) if raw.get("shareID") is not None else None,
        consumed=tuple((name, _amount(value)) for name, value in _a(dict, raw.get("consumed") or {}).items()),
        admin=_a(bool, raw.get("admin", False)),
        subrequest=_a(str, raw.get("subrequest", "")),
        product=_a(str, raw.get("product", "")),
        weight=_number(raw.get("weight")),
        placement=Placement(profile=_a(str, placement["profile"]), start=_a(int, placement["start"]))
        if placement
        else None,
        partition=Partition(
            gpu_uuid=raw["gpuUUID"],
            profile=_a(str, partition["profile"]),
            profile_id=_a(int, partition["profileID"]),
            start=_a(int, partition["start"]),
            size=_a(int, partition["size"]),
            uuid=_a(str, partition["uuid"]),
            gi_id=_a(int, partition["gi"]),
            ci_id=_a(int, partition["ci"]),
        )
        if partition
        else None,
        sharing=decode_sharing(raw["sharing"]) if raw.get("sharing") is not None else None,
        offered=_decode_offer(offered) if isinstance(offered, dict) else None,
    )
    return replace(device, unknown=unknown) if (unknown := _rest(raw, _encode_device(device))) else device


def _encode_sharing(sharing: DeviceSharing) -> dict[str, Any]:
    """What a record's file says."""
    raw: dict[str, Any] = {"strategy": sharing.strategy}
    if sharing.strategy is Strategy.TIME_SLICING:
        raw["interval"] = sharing.interval
    else:
        raw |= {"daemon": sharing.daemon, "position": sharing.position, "multiUser": sharing.multi_user}
    optional = {
        "memoryMiB": sharing.memory_mib,
        "threadPercentage": sharing.thread_percentage,
        "intervalBefore": sharing.interval_before,
        "modeBefore": sharing.mode_before,
    }
    return raw | {name: value for name, value in optional.items() if value is not None}


def decode_sharing(raw: Any) -> DeviceSharing:
    """Read what ``_encode_sharing`` gave. Raises ValueError, KeyError, TypeError or AttributeError."""
    sharing = DeviceSharing(
        strategy=Strategy(raw["strategy"]),
        interval=TimeSlice(raw.get("interval", TimeSlice.DEFAULT)),
        daemon=raw.get("daemon", ""),
        position=raw.get("position", 0),
        memory_mib=raw.get("memoryMiB"),
        thread_percentage=raw.get("threadPercentage"),
        multi_user=raw.get("multiUser", False),
        interval_before=TimeSlice(raw["intervalBefore"]) if raw.get("intervalBefore") is not None else None,
        mode_before=ComputeMode(raw["modeBefore"]) if raw.get("modeBefore") is not None else None,
    )
    numbers = (sharing.memory_mib or 0, sharing.thread_percentage or 0, sharing.position)
    types = {type(number) for number in numbers} | {int}
    if types != {int} or type(sharing.daemon) is not str or type(sharing.multi_user) is not bool:
        raise TypeError(f"not how a device is shared: {raw!r:.80}")
    if sharing.strategy is Strategy.MPS and not _safe(sharing.daemon):
        raise ValueError(f"{sharing.daemon!r:.80} is no id of an MPS daemon")
    return sharing


def _safe(daemon: str) -> bool:
    """An id becomes a part of a path, of what is removed too."""
    return bool(daemon) and len(daemon) <= 128 and daemon[0].isalnum() and all(c.isalnum() or c in "-." for c in daemon)


def _decode_offer(raw: dict[str, Any]) -> DeviceOptions | None:
    try:
        mode, count = parse_shares(_a(str, raw["shares"]))
        return DeviceOptions(
            partitioning=Partitioning(raw["partitioning"]),
            shares=Shares(mode=mode, count=count, memory_reserve=_a(int, raw["sharesMemoryReserve"])),
        )
    except (ValueError, KeyError, TypeError):
        return None  # a newer version offers in ways that this one does not know; that is no damage


def _rest(raw: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What a file says beyond what we would write, objects within objects too; lists are their owners' business."""
    rest = {}
    for key, value in raw.items():
        if key not in known:
            rest[key] = value
        elif isinstance(value, dict) and isinstance(known[key], dict) and (inner := _rest(value, known[key])):
            rest[key] = inner
    return rest


def _merged(unknown: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Known fields and those that were kept; where a name has become known meanwhile, what we know counts."""
    if not unknown:
        return known
    merged = {**unknown, **known}
    for key, value in unknown.items():
        if isinstance(value, dict) and isinstance(known.get(key), dict):
            merged[key] = _merged(value, known[key])
    return merged


def _merged_device(device: PreparedDevice) -> dict[str, Any]:
    raw = _encode_device(device)
    unknown = {key: value for key, value in device.unknown.items() if key in raw or key not in PARTS}
    return _merged(unknown, raw)


def _amount(value: Any) -> str:
    """Others compute with what a claim takes, so it has to be a number for their sake. Raises ValueError, TypeError."""
    if not is_quantity(_a(str, value)):
        raise ValueError(f"{value!r:.80} is not a quantity")
    return str(value)


def _number(value: Any) -> float | None:
    """A number that may be missing. Raises TypeError, ValueError."""
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"a number from 0 on expected, found {value!r:.80}")
    return float(value)


def _a(kind: type[T], value: Any) -> T:
    """The value, if it is of the type that it has to have. Raises TypeError."""
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, found {value!r:.80}")
    return value
