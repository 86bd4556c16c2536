"""Consumable capacity: how much of a shared device a request takes (KEP-5075)."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from driver.sim import quantity

if TYPE_CHECKING:
    from collections.abc import Mapping
    from fractions import Fraction


def requested(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The amounts that a request or subrequest names, by capacity name."""
    return (request.get("capacity") or {}).get("requests") or {}


def consumed(device: Mapping[str, Any], requests: Mapping[str, Any]) -> dict[str, str]:
    """What the request takes of each capacity, as canonical quantities; amounts not named get the default."""
    return {
        name: _consumed(requests.get(name), entry) for name, entry in sorted((device.get("capacity") or {}).items())
    }


def refusal(device: Mapping[str, Any], requests: Mapping[str, Any], used: Mapping[str, Fraction]) -> str:
    """Why the request cannot be had from the device with ``used`` already taken, empty if it can.

    This also holds for exclusive devices: there a request only sets a minimum.
    """
    capacities = device.get("capacity") or {}
    if unknown := sorted(set(requests) - set(capacities)):
        return f"no capacity {unknown[0]}"
    for name, amount in consumed(device, requests).items():
        entry = capacities[name]
        if _violates(amount, entry.get("requestPolicy")):
            return f"capacity {name}: {amount} is not allowed by the device's request policy"
        if quantity.parse(amount) + used.get(name, 0) > quantity.parse(entry["value"]):
            return f"insufficient capacity {name}"
    return ""


def _consumed(wanted: Any, entry: Mapping[str, Any]) -> str:
    policy = entry.get("requestPolicy") or {}
    if wanted is None:
        return str(policy.get("default") or entry["value"])
    amount = quantity.parse(wanted)
    bounds = policy.get("validRange") or {}
    if bounds.get("min") is not None:
        if amount < quantity.parse(bounds["min"]):
            return str(bounds["min"])
        if bounds.get("step") is None:
            return str(wanted)
        lowest, step = (ceil(quantity.parse(bounds[key])) for key in ("min", "step"))
        steps = -((lowest - ceil(amount)) // step)
        return quantity.binary(lowest + steps * step)
    for valid in policy.get("validValues") or []:  # ascending, says the API
        if amount <= quantity.parse(valid):
            return str(valid)
    return str(wanted)


def _violates(amount: str, policy: Mapping[str, Any] | None) -> bool:
    if not policy:
        return False
    value = quantity.parse(amount)
    if policy.get("default") is not None and value == quantity.parse(policy["default"]):
        return False
    if bounds := policy.get("validRange"):
        if bounds.get("max") is not None and value > quantity.parse(bounds["max"]):
            return True
        if bounds.get("step") is None:
            return False
        lowest, step = (ceil(quantity.parse(bounds[key])) for key in ("min", "step"))
        return (ceil(value) - lowest) % step != 0
    valid = policy.get("validValues") or []
    return bool(valid) and value not in {quantity.parse(v) for v in valid}
