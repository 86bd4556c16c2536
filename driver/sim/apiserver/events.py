"""Events exist once and are shown by two API groups: core v1 and events.k8s.io/v1."""

from __future__ import annotations

from typing import Any

_TO_EVENTS = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_TO_CORE = {new: old for old, new in _TO_EVENTS.items()}


def convert(event: dict[str, Any], version: str) -> dict[str, Any]:
    """The event in the other group's form."""
    names = _TO_EVENTS if version == "events.k8s.io/v1" else _TO_CORE
    shown = {names.get(key, key): value for key, value in event.items()}
    shown["apiVersion"] = version
    return shown
