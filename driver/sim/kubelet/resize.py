"""In-place resize of running pods (Kubernetes 1.36): whether more fits, and what has to restart for it. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from driver.sim.scheduler import quantities

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from decimal import Decimal

RESIZABLE = ("cpu", "memory")
PENDING = "PodResizePending"
CONDITIONS = frozenset({PENDING, "PodResizeInProgress"})
"""Conditions of a resize; the second is never seen here, as nothing stands between a decision and its effect."""

Amounts = dict[str, "Decimal"]
"""Cores of "cpu", bytes of "memory"."""


def requests(containers: Iterable[Mapping[str, Any]]) -> Amounts:
    """What containers that run together take of the node."""
    total = {name: quantities.parse(0) for name in RESIZABLE}
    for container in containers:
        asked = (container.get("resources") or {}).get("requests") or {}
        for name in RESIZABLE:
            total[name] += quantities.parse(asked.get(name, 0))
    return total


def refusal(wanted: Amounts, *, used: Amounts, capacity: Mapping[str, str]) -> tuple[str, str]:
    """Reason and message of why the node cannot give so much, empty if it can; ``used`` is what other pods have."""
    for name in RESIZABLE:
        available = quantities.parse(capacity[name])
        if wanted[name] + used[name] > available:
            unit = 1000 if name == "cpu" else 1
            numbers = (f"{int(amount * unit)}" for amount in (wanted[name], used[name], available))
            requested, in_use, there = numbers
            return f"OutOf{name}", (
                f"Node didn't have enough resource: {name}, requested: {requested}, used: {in_use}, capacity: {there}"
            )
    return "", ""


def restarts(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the container has to start again for its new resources."""
    changed = {
        name
        for name in RESIZABLE
        for kind in ("requests", "limits")
        if _amount(old, kind, name) != _amount(new, kind, name)
    }
    policies = {entry["resourceName"]: entry["restartPolicy"] for entry in new.get("resizePolicy") or []}
    return any(policies.get(name) == "RestartContainer" for name in changed)


def summary(pod: Mapping[str, Any], error: str = "") -> str:
    """What the kubelet's events say of a pod's resources."""
    spec: dict[str, Any] = {}
    for kind in ("initContainers", "containers"):
        if containers := pod["spec"].get(kind):
            spec[kind] = [{"name": c["name"], "resources": c.get("resources") or {}} for c in containers]
    spec["generation"] = pod["metadata"].get("generation", 0)
    return json.dumps(spec | ({"error": error} if error else {}), separators=(",", ":"))


def _amount(container: Mapping[str, Any], kind: str, name: str) -> Decimal:
    return quantities.parse(((container.get("resources") or {}).get(kind) or {}).get(name, 0))
