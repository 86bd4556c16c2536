"""ResourceSlice and DeviceTaintRule: defaults, feature gates, and every limit that the real server enforces."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import checks, quantity
from driver.sim.apiserver.errors import (
    FieldError,
    forbidden_field,
    invalid_value,
    not_found_value,
    required,
    too_long,
    unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.sim.apiserver.context import Context

    Object = dict[str, Any]
    Errors = list[FieldError]

MAX_DEVICES = 128
MAX_DEVICES_ADVANCED = 64
"""With taints, counters or list attributes on any device of the slice."""
MAX_ATTRIBUTES_AND_CAPACITIES = 32
MAX_ATTRIBUTE_VALUES = 48
MAX_VALUE_BYTES = 64
MAX_COUNTER_SETS = 8
MAX_COUNTERS = 32
MAX_CONSUMES = 2
MAX_TAINTS = 16
MAX_VALID_VALUES = 10
MAX_BINDING_CONDITIONS = 4

_NUMBER = r"(0|[1-9]\d*)"
_PRE = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_BUILD = r"[0-9a-zA-Z-]+"
_SEMVER = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PRE}(\.{_PRE})*)?(\+{_BUILD}(\.{_BUILD})*)?", re.ASCII)
_LISTS = ("bools", "ints", "strings", "versions")
_SCALARS = ("bool", "int", "string", "version")
_EFFECTS = ("NoExecute", "NoSchedule", "None")
_BINDING = ("bindingConditions", "bindingFailureConditions", "bindsToNode")
_NODE_FIELDS = ("nodeName", "nodeSelector", "allNodes")


# -- before validation ---------------------------------------------------------------------------------------------


def prepare_slice(new: Object, old: Object | None, context: Context) -> None:
    """Drop what disabled feature gates hide (unless the stored slice uses it already), and set defaults."""
    spec = new.setdefault("spec", {})
    old_spec = (old or {}).get("spec") or {}
    devices, before = spec.get("devices") or [], old_spec.get("devices") or []
    gates = context.gates
    if "DRADeviceTaints" not in gates and not any(d.get("taints") for d in before):
        _drop(devices, ("taints",))
    if "DRAPartitionableDevices" not in gates and not _partitions(old_spec):
        spec.pop("sharedCounters", None)
        spec.pop("perDeviceNodeSelection", None)
        _drop(devices, ("consumesCounters", *_NODE_FIELDS))
    if not gates.issuperset({"DRADeviceBindingConditions", "DRAResourceClaimDeviceStatus"}) and not any(
        d.get(key) for d in before for key in _BINDING
    ):
        _drop(devices, _BINDING)
    if "DRAConsumableCapacity" not in gates and not any("allowMultipleAllocations" in d for d in before):
        _drop(devices, ("allowMultipleAllocations",))
        for device in devices:
            _drop(list((device.get("capacity") or {}).values()), ("requestPolicy",))
    if "DRANodeAllocatableResources" not in gates and not any(d.get("nodeAllocatableResourceMappings") for d in before):
        _drop(devices, ("nodeAllocatableResourceMappings",))
    if "DRAListTypeAttributes" not in gates and not any(_list_attributes(d) for d in before):
        for device in devices:
            _drop(list((device.get("attributes") or {}).values()), _LISTS)
    for device in devices:
        for taint in device.get("taints") or []:
            if not taint.get("timeAdded"):
                taint["timeAdded"] = context.timestamp()
        for mapping in (device.get("nodeAllocatableResourceMappings") or {}).values():
            mapping.setdefault("allocationMultiplier", "1")


def _drop(items: list[Object], keys: tuple[str, ...]) -> None:
    for item in items:
        for key in keys:
            item.pop(key, None)


def _partitions(spec: Object) -> bool:
    return bool(
        spec.get("sharedCounters")
        or "perDeviceNodeSelection" in spec
        or any(d.get("consumesCounters") or any(key in d for key in _NODE_FIELDS) for d in spec.get("devices") or [])
    )


def _list_attributes(device: Object) -> bool:
    return any(key in attribute for attribute in (device.get("attributes") or {}).values() for key in _LISTS)


# -- slices --------------------------------------------------------------------------------------------------------


def validate_slice(new: Object, old: Object | None, _context: Context) -> Errors:
    """All that is wrong with a slice."""
    spec = new.get("spec") or {}
    old_spec: Object | None = old.get("spec") or {} if old else None
    pool = spec.get("pool") or {}
    errors = checks.driver_name(spec.get("driver", ""), "spec.driver")
    errors += _pool(pool)
    if old_spec is not None:
        errors += checks.immutable(pool.get("name"), (old_spec.get("pool") or {}).get("name"), "spec.pool.name")
        errors += checks.immutable(spec.get("driver"), old_spec.get("driver"), "spec.driver")
        errors += checks.immutable(spec.get("nodeName"), old_spec.get("nodeName"), "spec.nodeName")
    errors += _node_selection(spec)
    if "sharedCounters" in spec and "devices" in spec:
        errors.append(invalid_value("spec", "", "only one of `sharedCounters` or `devices` is allowed"))
    devices = spec.get("devices") or []
    advanced = any(d.get("taints") or d.get("consumesCounters") or _list_attributes(d) for d in devices)
    known = {d.get("name"): d for d in (old_spec or {}).get("devices") or []}
    per_device = spec.get("perDeviceNodeSelection") is True
    errors += checks.each(
        devices,
        "spec.devices",
        lambda device, path: _device(device, known.get(device.get("name")), path, per_device=per_device),
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


def slice_warnings(new: Object) -> list[str]:
    """An upper-case driver name is let through, with a warning."""
    driver = (new.get("spec") or {}).get("driver", "")
    if driver == driver.lower():
        return []
    return [f'spec.driver: driver names should be lowercase; "{driver}" contains uppercase characters']


def _pool(pool: Object) -> Errors:
    errors = checks.pool_name(pool.get("name", ""), "spec.pool.name")
    count, generation = pool.get("resourceSliceCount", 0), pool.get("generation", 0)
    if count <= 0:
        errors.append(invalid_value("spec.pool.resourceSliceCount", count, "must be greater than zero"))
    if generation < 0:
        errors.append(invalid_value("spec.pool.generation", generation, "must be greater than or equal to zero"))
    return errors


def _node_selection(spec: Object) -> Errors:
    errors: Errors = []
    chosen = []
    if "nodeName" in spec:
        if spec["nodeName"]:
            chosen.append("`nodeName`")
            errors += checks.dns_subdomain(spec["nodeName"], "spec.nodeName")
        else:
            errors.append(invalid_value("spec.nodeName", "", "must be either unset or set to a non-empty string"))
    if "nodeSelector" in spec:
        chosen.append("`nodeSelector`")
        errors += checks.node_selector(spec["nodeSelector"], "spec.nodeSelector")
        terms = spec["nodeSelector"].get("nodeSelectorTerms") or []
        if len(terms) != 1:
            path = "spec.nodeSelector.nodeSelectorTerms"
            errors.append(invalid_value(path, terms, "must have exactly one node selector term"))
    for key in ("allNodes", "perDeviceNodeSelection"):
        if spec.get(key) is True:
            chosen.append(f"`{key}`")
        elif key in spec:
            errors.append(invalid_value(f"spec.{key}", spec[key], "must be either unset or set to true"))
    wanted = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
    if not chosen:
        errors.append(required("spec", wanted))
    elif len(chosen) > 1:
        errors.append(invalid_value("spec", "{" + ", ".join(chosen) + "}", f"{wanted}, but multiple fields are set"))
    return errors


def _counter_set(item: Object, path: str) -> Errors:
    return _named_counters(item, path, "name")


def _consumption(item: Object, path: str) -> Errors:
    return _named_counters(item, path, "counterSet")


def _named_counters(item: Object, path: str, name: str) -> Errors:
    value = item.get(name, "")
    errors = checks.dns_label(value, f"{path}.{name}") if value else [required(f"{path}.{name}")]
    counters = item.get("counters") or {}
    if not counters:
        return [*errors, required(f"{path}.counters")]
    if len(counters) > MAX_COUNTERS:
        return errors + checks.each(list(counters), f"{path}.counters", lambda _i, _p: [], limit=MAX_COUNTERS)
    return errors + [error for key in counters for error in checks.dns_label(key, f"{path}.counters")]


def _device(device: Object, old: Object | None, path: str, *, per_device: bool) -> Errors:
    errors = checks.dns_label(device.get("name", ""), f"{path}.name")
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    total = len(attributes) + len(capacity)
    if total > MAX_ATTRIBUTES_AND_CAPACITIES:
        limit = f"the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES_AND_CAPACITIES}"
        errors.append(invalid_value(path, total, limit))
    values = sum(max(1, sum(len(item.get(key) or ()) for key in _LISTS)) for item in attributes.values())
    if values > MAX_ATTRIBUTE_VALUES:
        limit = f"the total number of attribute values must not exceed {MAX_ATTRIBUTE_VALUES}"
        errors.append(invalid_value(path, values, limit))
    for key, item in attributes.items():
        errors += checks.qualified_name(key, f"{path}.attributes")
        errors += _attribute(item, f"{path}.attributes[{_short(key)}]")
    shared = device.get("allowMultipleAllocations") is True
    for key, item in capacity.items():
        where = f"{path}.capacity[{_short(key)}]"
        errors += checks.qualified_name(key, f"{path}.capacity")
        if "requestPolicy" in item and not shared:
            errors.append(forbidden_field(f"{where}.requestPolicy", "allowMultipleAllocations must be true"))
        elif "requestPolicy" in item:
            errors += _request_policy(item.get("value", "0"), item["requestPolicy"], f"{where}.requestPolicy")
    taints = device.get("taints") or []
    if old is None or (old.get("taints") or []) != taints:
        errors += checks.each(taints, f"{path}.taints", taint_errors, limit=MAX_TAINTS)
    errors += checks.each(
        device.get("consumesCounters") or [],
        f"{path}.consumesCounters",
        _consumption,
        limit=MAX_CONSUMES,
        key=lambda item: item.get("counterSet", ""),
    )
    errors += _device_node_selection(device, path, per_device=per_device)
    errors += binding_errors(device, path)
    return errors + _mappings(device, capacity, f"{path}.nodeAllocatableResourceMappings")


def _short(key: str) -> str:
    """A key in an error's path, cut in the middle when it is far too long."""
    limit = 96
    if len(key) <= limit:
        return key
    rest = limit - 3
    return key[: (rest + 1) // 2] + "..." + key[len(key) - rest // 2 :]


def _attribute(item: Object, path: str) -> Errors:
    errors: Errors = []
    chosen = [key for key in (*_SCALARS, *_LISTS) if key in item]
    for key in chosen:
        if key in _LISTS and not item[key]:
            errors.append(invalid_value(f"{path}.{key}", item[key], "must not be empty if specified"))
    checkers: dict[str, Callable[[str, str], Errors]] = {"string": _string, "version": _version}
    for name, check in checkers.items():
        if name in item:
            errors += check(item[name], f"{path}.{name}")
        for index, value in enumerate(item.get(f"{name}s") or []):
            errors += check(value, f"{path}.{name}s[{index}]")
    if len(chosen) != 1:
        errors.append(invalid_value(path, item if chosen else "", "exactly one value must be specified"))
    return errors


def _string(value: str, path: str) -> Errors:
    return [too_long(path, MAX_VALUE_BYTES)] if len(value.encode()) > MAX_VALUE_BYTES else []


def _version(value: str, path: str) -> Errors:
    errors = _string(value, path)
    if not _SEMVER.fullmatch(value):
        errors.insert(0, invalid_value(path, value, "must be a string compatible with semver.org spec 2.0.0"))
    return errors


def _request_policy(capacity: str, policy: Object, path: str) -> Errors:
    values, span, default = policy.get("validValues") or [], policy.get("validRange"), policy.get("default")
    if values and span is not None:
        detail = 'exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time'
        return [forbidden_field(path, detail)]
    if values and default is None:
        return [required(f"{path}.default", "required when validValues is defined")]
    if values:
        return _valid_values(capacity, values, str(default), f"{path}.validValues")
    if span is not None and default is None:
        return [required(f"{path}.default", "required when validRange is defined")]
    if span is not None:
        return _valid_range(capacity, span, str(default), f"{path}.validRange")
    return []


def _valid_values(capacity: str, values: list[str], default: str, path: str) -> Errors:
    most, wanted = quantity.value(capacity), quantity.value(default)
    numbers = [quantity.value(item) for item in values]
    errors = [
        invalid_value(f"{path}[{index + 1}]", values[index + 1], "values must be sorted in ascending order")
        for index in range(len(numbers) - 1)
        if numbers[index] > numbers[index + 1]
    ]

    def check(item: str, where: str) -> Errors:
        if quantity.value(item) > most:
            return [invalid_value(where, item, f"option is larger than capacity value: {capacity}")]
        return []

    # The real server compares the options by their value rounded up to whole units.
    errors += checks.each(values, path, check, limit=MAX_VALID_VALUES, key=lambda item: str(_whole(item)))
    if wanted not in numbers or len(values) > MAX_VALID_VALUES:
        errors.append(invalid_value(path, default, "default value is not valid according to the requestPolicy"))
    return errors


def _whole(text: str) -> int:
    number = quantity.value(text)
    return -(-number.numerator // number.denominator)


def _valid_range(capacity: str, span: Object, default: str, path: str) -> Errors:
    low, high, step = span.get("min"), span.get("max"), span.get("step")
    if low is None:
        return [required(f"{path}.min", "required when validRange is defined")]
    value = quantity.value
    errors: Errors = []
    if value(low) > value(capacity):
        errors.append(invalid_value(f"{path}.min", low, f"min is larger than capacity value: {capacity}"))
    if value(default) < value(low):
        errors.append(invalid_value(f"{path}.min", default, f"default is less than min: {low}"))
    if high is not None:
        if value(low) > value(high):
            errors.append(invalid_value(f"{path}.max", low, f"min is larger than max: {high}"))
        if value(high) > value(capacity):
            errors.append(invalid_value(f"{path}.max", high, f"max is larger than capacity value: {capacity}"))
        if value(default) > value(high):
            errors.append(invalid_value(f"{path}.max", default, f"default is more than max: {high}"))
    if step is not None:
        first = quantity.add(low, step)
        if value(first) > value(capacity):
            detail = f"one step {first} is larger than capacity value: {capacity}"
            errors.append(invalid_value(f"{path}.step", step, detail))
        for item in (default, high):
            if item is not None:
                errors += _step(item, low, step, f"{path}.step")
    return errors


def _step(item: str, low: str, step: str, path: str) -> Errors:
    whole_step = _whole(step)
    if whole_step == 0:
        # The real server divides by zero here and answers 500; a refusal tells the reader more.
        return [invalid_value(path, step, "must not be zero")]
    if (_whole(item) - _whole(low)) % whole_step:
        return [invalid_value(path, item, f"value is not a multiple of a given step ({step}) from ({low})")]
    return []


def _device_node_selection(device: Object, path: str, *, per_device: bool) -> Errors:
    if not per_device:
        if any(key in device for key in _NODE_FIELDS):
            detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"  # noqa: E501
            return [invalid_value(path, None, detail)]
        return []
    errors: Errors = []
    chosen = []
    if "nodeName" in device:
        if device["nodeName"]:
            chosen.append("`nodeName`")
            errors += checks.dns_subdomain(device["nodeName"], f"{path}.nodeName")
        else:
            errors.append(invalid_value(f"{path}.nodeName", "", "must not be empty"))
    if "nodeSelector" in device:
        chosen.append("`nodeSelector`")
        errors += checks.node_selector(device["nodeSelector"], f"{path}.nodeSelector")
    if device.get("allNodes") is True:
        chosen.append("`allNodes`")
    elif "allNodes" in device:
        errors.append(invalid_value(f"{path}.allNodes", device["allNodes"], "must be either unset or set to true"))
    wanted = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"  # noqa: E501
    if not chosen:
        errors.append(required(path, wanted))
    elif len(chosen) > 1:
        errors.append(invalid_value(path, "{" + ", ".join(chosen) + "}", wanted))
    return errors


def binding_errors(item: Object, path: str) -> Errors:
    """Binding conditions of a device or of an allocation result."""
    wanted, failing = item.get("bindingConditions") or [], item.get("bindingFailureConditions") or []
    errors: Errors = []
    for key, values in (("bindingConditions", wanted), ("bindingFailureConditions", failing)):
        found = checks.each(values, f"{path}.{key}", checks.label_name, limit=MAX_BINDING_CONDITIONS)
        errors += found
    for key, values in (("bindingConditions", wanted), ("bindingFailureConditions", failing)):
        errors += checks.each(values, f"{path}.{key}", lambda _item, _path: [], key=lambda value: value)
        if key == "bindingFailureConditions":
            errors += [
                invalid_value(
                    f"{path}.{key}[{index}]", value, "bindingFailureConditions must not overlap with bindingConditions"
                )
                for index, value in enumerate(values)
                if value in wanted
            ]
    if failing and not wanted:
        detail = "bindingConditions are required to use bindingFailureConditions"
        errors.append(invalid_value(f"{path}.bindingConditions", None, detail))
    if wanted and not failing:
        detail = "bindingFailureConditions are required to use bindingConditions"
        errors.append(invalid_value(f"{path}.bindingFailureConditions", None, detail))
    return errors


def _mappings(device: Object, capacity: Object, path: str) -> Errors:
    errors: Errors = []
    for name, mapping in (device.get("nodeAllocatableResourceMappings") or {}).items():
        where = f"{path}[{name}]"
        if "/" in name and "kubernetes.io/" not in name:
            errors.append(invalid_value(where, name, "must be a node allocatable resource name"))
        multiplier, key = mapping.get("allocationMultiplier"), mapping.get("capacityKey")
        if multiplier is not None and quantity.value(multiplier) <= 0:
            errors.append(invalid_value(f"{where}.allocationMultiplier", multiplier, "must be positive"))
        if key == "":
            errors.append(invalid_value(f"{where}.capacityKey", "", "capacityKey must not be an empty string"))
        elif key is not None and key not in capacity:
            errors.append(not_found_value(f"{where}.capacityKey", key))
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
    """``timeAdded`` is set where it is missing, and renewed when the effect changes."""
    taint = new.setdefault("spec", {}).setdefault("taint", {})
    before = (old or {}).get("spec", {}).get("taint", {})
    changed = old is not None and taint.get("effect") != before.get("effect")
    if not taint.get("timeAdded") or (changed and taint["timeAdded"] == before.get("timeAdded")):
        taint["timeAdded"] = context.timestamp()


def validate_taint_rule(new: Object, _old: Object | None, _context: Context) -> Errors:
    """All that is wrong with a DeviceTaintRule."""
    spec = new.get("spec") or {}
    selector = spec.get("deviceSelector") or {}
    errors: Errors = []
    if "driver" in selector:
        errors += checks.driver_name(selector["driver"], "spec.deviceSelector.driver")
    if "pool" in selector:
        errors += checks.pool_name(selector["pool"], "spec.deviceSelector.pool")
    if "device" in selector:
        errors += checks.dns_label(selector["device"], "spec.deviceSelector.device")
    return errors + taint_errors(spec.get("taint") or {}, "spec.taint")


def validate_taint_rule_status(new: Object, _old: Object | None, _context: Context) -> Errors:
    """Conditions only."""
    conditions = (new.get("status") or {}).get("conditions") or []
    return checks.conditions(conditions, "status.conditions") + checks.each(
        conditions, "status.conditions", lambda _item, _path: [], limit=8
    )
