"""Device taints and tolerations, as allocation and eviction judge them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

NO_SCHEDULE = "NoSchedule"
NO_EXECUTE = "NoExecute"


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Whether the toleration covers the taint; an empty effect or key covers all of them."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    match toleration.get("operator") or "Equal":
        case "Equal":
            return (toleration.get("value") or "") == (taint.get("value") or "")
        case "Exists":
            return True
        case _:
            return False


def blocking(
    device_taints: Iterable[Mapping[str, Any]], tolerations: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The first taint that forbids to allocate the device. Effect None and unknown effects forbid nothing."""
    for taint in device_taints:
        if taint.get("effect") in (NO_SCHEDULE, NO_EXECUTE) and not any(tolerates(t, taint) for t in tolerations):
            return taint
    return None


def rule_matches(rule: Mapping[str, Any], driver: str, pool: str, device: str) -> bool:
    """Whether a DeviceTaintRule selects the device. A rule without a selector selects nothing."""
    selector = rule["spec"].get("deviceSelector")
    if selector is None:
        return False
    wanted = {"driver": driver, "pool": pool, "device": device}
    return all(selector.get(key) in (None, value) for key, value in wanted.items())


def from_rules(rules: Iterable[Mapping[str, Any]], driver: str, pool: str, device: str) -> Iterator[Mapping[str, Any]]:
    """The taints that administrators' rules put on the device."""
    return (rule["spec"]["taint"] for rule in rules if rule_matches(rule, driver, pool, device))


def describe(taint: Mapping[str, Any]) -> str:
    """``key=value:Effect``."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"
