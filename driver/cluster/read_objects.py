"""From the API's dicts to what is kept: whatever is not as the API says is passed over, never an error."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from driver.base.quantity import is_quantity, parse_quantity
from driver.cluster.objects import Amount, Amounts, Claim, Device, Pod, Result, Rule, Shape, Slice, Taint, gpu_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

_MEMORY_SLICE, _MEMORY_CAPACITY = "memory-slice-", "memorySlice"
_SLOTS = frozenset(range(64))
"""No GPU has so many memory slices; whoever says more is not believed."""


class OddError(ValueError):
    """Something is not as the API says."""


def read_slice(obj: Any, *, driver: str) -> Slice | None:
    """A slice of this driver; None for any other, and for one that no scheduler could use either."""
    try:
        spec = _get(obj, "spec", dict)
        if spec.get("driver") != driver:
            return None
        pool = _get(spec, "pool", dict)
        devices = tuple(_read_all(_device, spec, "devices"))
        return Slice(
            name=_get(_get(obj, "metadata", dict), "name", str),
            pool=sys.intern(_get(pool, "name", str)),
            node=sys.intern(_get(spec, "nodeName", str, "")),
            generation=_get(pool, "generation", int),
            count=_get(pool, "resourceSliceCount", int),
            devices=devices,
            counters=tuple(
                (_get(found, "name", str), _amounts(found, "counters"))
                for found in _get(spec, "sharedCounters", list, [])
            ),
            unread=len(_get(spec, "devices", list, [])) - len(devices),
        )
    except OddError:
        return None


def read_claim(obj: Any, *, driver: str, pool: str = "") -> Claim | None:
    """A claim that has devices of this driver, and in this pool, if one is given; None for any other."""
    try:
        metadata = _get(obj, "metadata", dict)
        status = _get(obj, "status", dict, {})
        allocation = _get(status, "allocation", dict, {})
        found = _get(_get(allocation, "devices", dict, {}), "results", list, [])
        ours = [result for result in found if isinstance(result, dict) and result.get("driver") == driver]
        read = _read_all(_result, {"results": ours}, "results")
        results = tuple(result for result in read if pool in ("", result.pool))
        if not results:
            return None
        return Claim(
            namespace=sys.intern(_get(metadata, "namespace", str)),
            name=_get(metadata, "name", str),
            uid=_get(metadata, "uid", str, ""),
            since=_time(allocation.get("allocationTimestamp")),
            results=results,
            pods=tuple(
                consumer["name"]
                for consumer in _get(status, "reservedFor", list, [])
                if isinstance(consumer, dict)
                and consumer.get("resource") == "pods"
                and isinstance(consumer.get("name"), str)
                and consumer["name"].isprintable()
            ),
        )
    except OddError:
        return None


def read_pod(obj: Any) -> Pod | None:
    """A pod that has claims, its own or those made for extended resources; None for any other."""
    try:
        metadata, spec = _get(obj, "metadata", dict), _get(obj, "spec", dict)
        status = _get(obj, "status", dict, {})
        if not spec.get("resourceClaims") and not status.get("extendedResourceClaimStatus"):
            return None
        return Pod(
            namespace=sys.intern(_get(metadata, "namespace", str)),
            name=_get(metadata, "name", str),
            node=sys.intern(_get(spec, "nodeName", str, "")),
            phase="Terminating" if metadata.get("deletionTimestamp") else sys.intern(_get(status, "phase", str, "")),
        )
    except OddError:
        return None


def read_rule(obj: Any, *, driver: str, pool: str = "") -> Rule | None:
    """A DeviceTaintRule for devices of this driver, and of this pool, if one is given; None for any other.

    As the API has it: what a selector leaves out it does not ask for, and without a selector nothing is selected.
    """
    try:
        spec = _get(obj, "spec", dict)
        selector: dict[str, Any] | None = _get(spec, "deviceSelector", dict, None)
        if selector is None or not selector.keys() <= {"driver", "pool", "device"}:
            return None
        of_driver, of_pool = _get(selector, "driver", str, ""), _get(selector, "pool", str, "")
        if of_driver not in ("", driver) or (pool and of_pool not in ("", pool)):
            return None
        return Rule(
            taint=replace(_taint(_get(spec, "taint", dict)), rule=_get(_get(obj, "metadata", dict), "name", str)),
            pool=of_pool,
            device=_get(selector, "device", str, ""),
        )
    except OddError:
        return None


def _device(obj: Any) -> Device:
    name = sys.intern(_get(obj, "name", str))
    attributes = _get(obj, "attributes", dict, {})
    profile, product = _text(attributes, "profile"), _text(attributes, "productName")
    uuid, parent = _text(attributes, "uuid"), _text(attributes, "parentUUID")
    is_partition = bool(profile or parent)
    consumes = _get(obj, "consumesCounters", list, [])
    if len(consumes) > 1:  # a device of ours is of one GPU
        raise OddError(name)
    counters = _amounts(consumes[0], "counters") if consumes else ()
    capacity = _get(obj, "capacity", dict, {})
    shared = obj.get("allowMultipleAllocations") is True
    return Device(
        name=name,
        gpu=parent or (uuid if not is_partition else "") or gpu_name(name),
        uuid=uuid,
        counter_set=sys.intern(_get(consumes[0], "counterSet", str)) if consumes else "",
        shape=_shape(
            profile,
            product,
            _slots(counters, capacity),
            counters,
            _capacity(capacity, "memory"),
            _capacity(capacity, "shares") if shared else None,
            shared,
        ),
        taints=tuple(_read_all(_taint, obj, "taints")),
    )


@lru_cache(maxsize=4096)
def _shape(
    profile: str,
    product: str,
    slots: tuple[int, ...],
    counters: Amounts,
    memory: Amount | None,
    shares: Amount | None,
    shared: bool,
) -> Shape:
    return Shape(
        profile=profile,
        product=product,
        slots=slots,
        counters=counters,
        memory=memory,
        shares=shares,
        shared=shared,
    )


def _slots(counters: Amounts, capacity: dict[str, Any]) -> tuple[int, ...]:
    """From the counters of a partition that may be made, from the capacities of one that there is."""
    if counters:
        return _counted(counters)
    return _numbers(str(name).removeprefix(_MEMORY_CAPACITY) for name in capacity)


@lru_cache(maxsize=4096)
def _counted(counters: Amounts) -> tuple[int, ...]:
    return _numbers(name.removeprefix(_MEMORY_SLICE) for name, _ in counters)


def _numbers(texts: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted({int(text) for text in texts if text.isdecimal() and len(text) <= 2} & _SLOTS))


def _taint(obj: Any) -> Taint:
    return Taint(
        key=sys.intern(_get(obj, "key", str)),
        value=_get(obj, "value", str, ""),
        effect=sys.intern(_get(obj, "effect", str)),
        since=_time(obj.get("timeAdded")),
    )


def _result(obj: Any) -> Result:
    return Result(
        request=_get(obj, "request", str, ""),
        pool=sys.intern(_get(obj, "pool", str)),
        device=sys.intern(_get(obj, "device", str)),
        admin=obj.get("adminAccess") is True,
        share_id=_get(obj, "shareID", str, ""),
        consumed=_plain_amounts(_get(obj, "consumedCapacity", dict, {})),
    )


def _read_all(read: Any, obj: Any, key: str) -> Iterator[Any]:
    """Those of a list that can be read."""
    for item in _get(obj, key, list, []):
        try:
            yield read(item)
        except OddError:
            continue


def _amounts(obj: Any, key: str) -> Amounts:
    """Counters: ``{"memory": {"value": "1Gi"}}``."""
    counters = _get(obj, key, dict, {})
    return _plain_amounts({name: found.get("value") for name, found in counters.items() if isinstance(found, dict)})


def _plain_amounts(found: dict[Any, Any]) -> Amounts:
    try:
        return _interned(tuple(found.items()))
    except TypeError:
        raise OddError(found) from None  # a value of a kind that has no hash


@lru_cache(maxsize=4096)
def _interned(items: tuple[tuple[str, Any], ...]) -> Amounts:
    return tuple((name, _amount(value)) for name, value in items)


def _capacity(capacity: dict[str, Any], name: str) -> Amount | None:
    found = capacity.get(name)
    if not isinstance(found, dict):
        return None
    return _amount(found.get("value"))


def _amount(text: Any) -> Amount:
    if not isinstance(text, str) or not is_quantity(text):
        raise OddError(text)
    return _exact(text)


@lru_cache(maxsize=4096)
def _exact(text: str) -> Amount:
    value = Fraction(parse_quantity(text))
    return int(value) if value.denominator == 1 else value


def _text(attributes: dict[str, Any], name: str) -> str:
    found = attributes.get(name)
    text = found.get("string") if isinstance(found, dict) else None
    return sys.intern(text) if isinstance(text, str) and text.isprintable() else ""


def _time(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


_REQUIRED: Any = object()


def _get(obj: Any, key: str, kind: type[T], default: T = _REQUIRED) -> T:
    """A field of this kind; the default where it is not there or null. Raises OddError."""
    found = obj.get(key) if isinstance(obj, dict) else _REQUIRED
    if found is None and default is not _REQUIRED:
        return default
    if type(found) is not kind or (isinstance(found, str) and not found.isprintable()):  # it goes to terminals
        raise OddError(key)
    return found
