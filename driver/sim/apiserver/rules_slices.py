"""ResourceSlice and DeviceTaintRule: defaults, feature gates, and every limit that the real server enforces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semver import Version

from driver.sim import quantity
from driver.sim.apiserver import checks
from driver.sim.apiserver.errors import Errors, Object, forbidden_field, invalid_value, required, too_long, unsupported

if TYPE_CHECKING:
    from driver.sim.apiserver.context import Context

MAX_DEVICES = 128
MAX_DEVICES_ADVANCED = 64
"""With taints or counters on any device of the slice."""
MAX_ATTRIBUTES_AND_CAPACITIES = 32
MAX_VALUE_BYTES = 64
MAX_COUNTER_SETS = 8
MAX_COUNTERS = 32
MAX_CONSUMES = 2
MAX_TAINTS = 16
MAX_VALID_VALUES = 10

_LISTS = ("bools", "ints", "strings", "versions")
"""Their gate is off up to 1.37."""
_HOST_RESOURCES = ("nodeAllocatableResourceMappings", "nodeAllocatableResources")
"""Of 1.36 and of 1.37; their gate is off in both."""
_SCALARS = ("bool", "int", "string", "version")
_EFFECTS = ("NoExecute", "NoSchedule", "None")
_NODE_FIELDS = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")


# -- before validation ---------------------------------------------------------------------------------------------


def prepare_slice(new: Object, old: Object | None, context: Context) -> None:
    """Drop what disabled feature gates hide (unless the stored slice uses it already), and set defaults."""
    spec = new.setdefault("spec", {})
    old_spec = (old or {}).get("spec") or {}
    devices, before = spec.get("devices") or [], old_spec.get("devices") or []
    gates = context.gates
    if "DRADeviceTaints" not in gates and not any(d.get("taints") for d in before):
        _drop(devices, ("taints",))
    partitions = old_spec.get("sharedCounters") or any(d.get("consumesCounters") for d in before)
    if "DRAPartitionableDevices" not in gates and not partitions:
        spec.pop("sharedCounters", None)
        spec.pop("perDeviceNodeSelection", None)
        _drop(devices, ("consumesCounters",))
    if "DRAConsumableCapacity" not in gates and not any("allowMultipleAllocations" in d for d in before):
        _drop(devices, ("allowMultipleAllocations",))
        for device in devices:
            _drop(list((device.get("capacity") or {}).values()), ("requestPolicy",))
    if "DRANodeAllocatableResources" not in gates:
        for key in _HOST_RESOURCES:
            if not any(key in d for d in before):
                _drop(devices, (key,))
    for device in devices:
        _drop(list((device.get("attributes") or {}).values()), _LISTS)
        for taint in device.get("taints") or []:
            taint.setdefault("timeAdded", context.timestamp())


def _drop(items: list[Object], keys: tuple[str, ...]) -> None:
    for item in items:
        for key in keys:
            item.pop(key, None)


# -- slices --------------------------------------------------------------------------------------------------------


def validate_slice(new: Object, old: Object | None, _context: Context) -> Errors:
    """All that is wrong with a slice."""
    spec = new.get("spec") or {}
    pool = spec.get("pool") or {}
    errors = checks.driver_name(spec.get("driver", ""), "spec.driver")
    errors += checks.pool_name(pool.get("name", ""), "spec.pool.name")
    count = pool.get("resourceSliceCount", 0)
    if count <= 0:
        errors.append(invalid_value("spec.pool.resourceSliceCount", count, "must be greater than zero"))
    if old is not None:
        before = old.get("spec") or {}
        errors += checks.immutable(pool.get("name"), (before.get("pool") or {}).get("name"), "spec.pool.name")
        for key in ("driver", "nodeName"):
            errors += checks.immutable(spec.get(key), before.get(key), f"spec.{key}")
    chosen = [f"`{key}`" for key in _NODE_FIELDS if spec.get(key)]
    if len(chosen) != 1:
        wanted = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
        errors.append(invalid_value("spec", "{" + ", ".join(chosen) + "}", wanted))
    if "sharedCounters" in spec and "devices" in spec:
        errors.append(invalid_value("spec", "", "only one of `sharedCounters` or `devices` is allowed"))
    devices = spec.get("devices") or []
    advanced = any(d.get("taints") or d.get("consumesCounters") for d in devices)
    errors += checks.each(
        devices,
        "spec.devices",
        _device,
        limit=MAX_DEVICES_ADVANCED if advanced else MAX_DEVICES,
        key=lambda device: device.get("name", ""),
    )
    return errors + checks.each(
        spec.get("sharedCounters") or [],
        "spec.sharedCounters",
        _counter_set,
        limit=MAX_COUNTER_SETS,
        key=lambda item: item.get("name", ""),
    )


def _counter_set(item: Object, path: str) -> Errors:
    return _named_counters(item, path, "name")


def _consumption(item: Object, path: str) -> Errors:
    return _named_counters(item, path, "counterSet")


def _named_counters(item: Object, path: str, name: str) -> Errors:
    errors = checks.dns_label(item.get(name, ""), f"{path}.{name}")
    counters = item.get("counters") or {}
    if not counters:
        return [*errors, required(f"{path}.counters")]
    return errors + checks.each(
        list(counters), f"{path}.counters", lambda key, where: checks.dns_label(key, where), limit=MAX_COUNTERS
    )


def _device(device: Object, path: str) -> Errors:
    errors = checks.dns_label(device.get("name", ""), f"{path}.name")
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    total = len(attributes) + len(capacity)
    if total > MAX_ATTRIBUTES_AND_CAPACITIES:
        limit = f"the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES_AND_CAPACITIES}"
        errors.append(invalid_value(path, total, limit))
    for key, item in attributes.items():
        errors += checks.qualified_name(key, f"{path}.attributes")
        errors += _attribute(item, f"{path}.attributes[{key}]")
    shared = device.get("allowMultipleAllocations") is True
    for key, item in capacity.items():
        where = f"{path}.capacity[{key}]"
        errors += checks.qualified_name(key, f"{path}.capacity")
        if "requestPolicy" in item and not shared:
            errors.append(forbidden_field(f"{where}.requestPolicy", "allowMultipleAllocations must be true"))
        elif "requestPolicy" in item:
            errors += _request_policy(item.get("value", "0"), item["requestPolicy"], f"{where}.requestPolicy")
    for field in _HOST_RESOURCES:
        for key, item in (device.get(field) or {}).items():
            errors += _host_resource(key, item, f"{path}.{field}[{key}]")
    errors += checks.each(device.get("taints") or [], f"{path}.taints", taint_errors, limit=MAX_TAINTS)
    return errors + checks.each(
        device.get("consumesCounters") or [],
        f"{path}.consumesCounters",
        _consumption,
        limit=MAX_CONSUMES,
        key=lambda item: item.get("counterSet", ""),
    )


def _host_resource(name: str, item: Object, path: str) -> Errors:
    """What a node has to have for a device: a mapping of 1.36, or a mapping or an overhead of 1.37."""
    errors: Errors = []
    if "/" in name:
        errors.append(invalid_value(path, name, "must be a node allocatable resource name"))
    if not item.keys() & {"allocationMultiplier", "capacityKey", "mapping", "overhead"}:
        errors.append(invalid_value(path, "", "at least one of allocationMultiplier or capacityKey must be set"))
    if (factor := item.get("allocationMultiplier")) is not None and quantity.parse(factor) <= 0:
        errors.append(invalid_value(f"{path}.allocationMultiplier", factor, "must be positive"))
    return errors


def _attribute(item: Object, path: str) -> Errors:
    errors: Errors = []
    chosen = [key for key in _SCALARS if key in item]
    for key in ("string", "version"):
        if len(item.get(key, "").encode()) > MAX_VALUE_BYTES:
            errors.append(too_long(f"{path}.{key}", MAX_VALUE_BYTES))
    if "version" in item and not Version.is_valid(item["version"]):
        detail = "must be a string compatible with semver.org spec 2.0.0"
        errors.append(invalid_value(f"{path}.version", item["version"], detail))
    if len(chosen) != 1:
        errors.append(invalid_value(path, item if chosen else "", "exactly one value must be specified"))
    return errors


def _request_policy(capacity: str, policy: Object, path: str) -> Errors:
    """What one part of a shared capacity may be: one of some values, or a range with steps."""
    values, span, default = policy.get("validValues") or [], policy.get("validRange"), policy.get("default")
    if values and span is not None:
        return [forbidden_field(path, 'cannot specify "validValues" and "validRange" at the same time')]
    if not values and span is None:
        return []
    if default is None:
        return [required(f"{path}.default", "required when validValues or validRange is defined")]
    if values:
        return _valid_values(capacity, values, str(default), f"{path}.validValues")
    return _valid_range(capacity, span or {}, str(default), f"{path}.validRange")


def _valid_values(capacity: str, values: list[str], default: str, path: str) -> Errors:
    numbers = [quantity.parse(item) for item in values]
    errors = checks.each(numbers, path, limit=MAX_VALID_VALUES, key=lambda number: number)
    if numbers != sorted(numbers):
        errors.append(invalid_value(path, values, "values must be sorted in ascending order"))
    if max(numbers) > quantity.parse(capacity):
        errors.append(invalid_value(path, values, f"option is larger than capacity value: {capacity}"))
    if quantity.parse(default) not in numbers:
        errors.append(invalid_value(path, default, "default value is not valid according to the requestPolicy"))
    return errors


def _valid_range(capacity: str, span: Object, default: str, path: str) -> Errors:
    if span.get("min") is None:
        return [required(f"{path}.min", "required when validRange is defined")]
    value = quantity.parse
    low, high, step = span["min"], span.get("max", capacity), span.get("step")
    errors: Errors = []
    if not value(low) <= value(high) <= value(capacity):
        errors.append(invalid_value(f"{path}.max", high, f"must be between min ({low}) and the capacity ({capacity})"))
    if not value(low) <= value(default) <= value(high):
        errors.append(invalid_value(f"{path}.min", default, f"the default is not between {low} and {high}"))
    if step is not None:
        if value(low) + value(step) > value(capacity):
            errors.append(invalid_value(f"{path}.step", step, f"one step is larger than capacity value: {capacity}"))
        for item in (default, span.get("max")):
            if item is not None and (not value(step) or (value(item) - value(low)) % value(step)):
                detail = f"value is not a multiple of a given step ({step}) from ({low})"
                errors.append(invalid_value(f"{path}.step", item, detail))
    return errors


# -- taints --------------------------------------------------------------------------------------------------------


def taint_errors(taint: Object, path: str) -> Errors:
    """A device taint."""
    errors = checks.label_name(taint.get("key", ""), f"{path}.key")
    if taint.get("value"):
        errors += checks.label_value(taint["value"], f"{path}.value")
    effect = taint.get("effect", "")
    if not effect:
        errors.append(required(f"{path}.effect"))
    elif effect not in _EFFECTS:
        errors.append(unsupported(f"{path}.effect", effect, _EFFECTS))
    return errors


def prepare_taint_rule(new: Object, old: Object | None, context: Context) -> None:
    """``timeAdded`` is set where it is missing, and renewed when the effect changes; there is always a status."""
    taint = new.setdefault("spec", {}).setdefault("taint", {})
    before = (old or {}).get("spec", {}).get("taint", {})
    changed = old is not None and taint.get("effect") != before.get("effect")
    if not taint.get("timeAdded") or (changed and taint["timeAdded"] == before.get("timeAdded")):
        taint["timeAdded"] = context.timestamp()
    if old is None:
        new["status"] = {}


def validate_taint_rule(new: Object, _old: Object | None, _context: Context) -> Errors:
    """All that is wrong with a DeviceTaintRule."""
    spec = new.get("spec") or {}
    selector = spec.get("deviceSelector") or {}
    known = {"driver": checks.driver_name, "pool": checks.pool_name, "device": checks.dns_label}
    errors = [
        error
        for key, check in known.items()
        if key in selector
        for error in check(selector[key], f"spec.deviceSelector.{key}")
    ]
    return errors + taint_errors(spec.get("taint") or {}, "spec.taint")
