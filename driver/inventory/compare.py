"""Whether two slice specs say the same: pure. The server rewrites quantities and fills in times."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

from driver.base.quantity import parse_quantity


def same_spec(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Equal for every consumer: quantities by value, taint times within a second, the order of devices as it is."""
    return left == right or (bool(_normal(left) == _normal(right)) and _same_times(left, right))


def with_known_times(spec: dict[str, Any], existing: dict[str, Any] | None) -> dict[str, Any]:
    """The spec with ``timeAdded`` of equal taints taken over from the stored slice.

    A taint that is written again must not look new, or each write would restart its tolerationSeconds.
    """
    known = _taint_times(existing["spec"]) if existing is not None else {}
    if not known:
        return spec
    devices = [
        {**device, "taints": [_with_time(taint, known.get(_taint_key(device, taint))) for taint in device["taints"]]}
        if device.get("taints")
        else device
        for device in spec.get("devices") or []
    ]
    return {**spec, "devices": devices} if devices else spec


def _normal(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {k: _normal(v, k) for k, v in value.items() if k != "timeAdded" and v not in (None, [], {}, "")}
    if isinstance(value, list):
        return [_normal(item, key) for item in value]
    if key in {"value", "default", "min", "max", "step", "validValues"} and isinstance(value, str):
        try:
            return parse_quantity(value)
        except ValueError:
            return value  # a taint's value is not a quantity
    return value


def _same_times(left: dict[str, Any], right: dict[str, Any]) -> bool:
    times = _taint_times(right)
    for key, time in _taint_times(left).items():
        other = times.get(key)
        if time is None or other is None:
            continue
        try:
            apart = (datetime.fromisoformat(time) - datetime.fromisoformat(other)).total_seconds()
        except (ValueError, TypeError):  # no time, or one without a zone beside one with it
            return False
        if abs(apart) > 1:
            return False
    return True


def _taint_times(spec: dict[str, Any]) -> dict[tuple[str, ...], str | None]:
    """By device and taint; what is stored under our name and is no taint has no time that is worth keeping."""
    times: dict[tuple[str, ...], str | None] = {}
    devices = spec.get("devices")
    for device in devices if isinstance(devices, list) else ():
        taints = device.get("taints") if isinstance(device, dict) else None
        for taint in taints if isinstance(taints, list) else ():
            with contextlib.suppress(KeyError, TypeError, AttributeError):
                times[_taint_key(device, taint)] = taint.get("timeAdded")
    return times


def _with_time(taint: dict[str, Any], time: str | None) -> dict[str, Any]:
    return {**taint, "timeAdded": time} if time is not None else taint


def _taint_key(device: dict[str, Any], taint: dict[str, Any]) -> tuple[str, ...]:
    return (device["name"], taint["key"], taint.get("value", ""), taint["effect"])
