"""Tables, as ``kubectl get`` shows them: pods, nodes, events, claims and slices; name and age of all others."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from driver.sim.apiserver.resource import Resource

    Object = dict[str, Any]
    Cells = Callable[[Object, datetime], list[Any]]

_NONE = "<none>"
_UNKNOWN = "<unknown>"


def short_duration(seconds: float) -> str:
    """A time span as kubectl writes it: 42s, 5m30s, 3h4m, 8d."""
    total = max(int(seconds), 0)
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 120:
        return f"{total}s"
    if minutes < 180:
        return f"{minutes}m{total % 60}s" if minutes < 10 and total % 60 else f"{minutes}m"
    if hours < 48:
        return f"{hours}h{minutes % 60}m" if hours < 8 and minutes % 60 else f"{hours}h"
    return f"{days}d{hours % 24}h" if days < 8 and hours % 24 else f"{days}d"


def _since(text: str | None, now: datetime) -> str:
    if not text:
        return _UNKNOWN
    return short_duration((now - datetime.fromisoformat(text).astimezone(UTC)).total_seconds())


def _age(obj: Object, now: datetime) -> str:
    return _since(obj["metadata"].get("creationTimestamp"), now)


def _plain(obj: Object, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], _age(obj, now)]


def _claim(obj: Object, now: datetime) -> list[Any]:
    status = obj.get("status") or {}
    deleted = bool(obj["metadata"].get("deletionTimestamp"))
    states = ["deleted"] if deleted else []
    if status.get("allocation") is not None:
        states.append("allocated,reserved" if status.get("reservedFor") else "allocated")
    elif not deleted:
        states.append("pending")
    return [obj["metadata"]["name"], ",".join(states), _age(obj, now)]


def _slice(obj: Object, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    pool = (spec.get("pool") or {}).get("name", "")
    return [obj["metadata"]["name"], spec.get("nodeName", ""), spec.get("driver", ""), pool, _age(obj, now)]


def _node(obj: Object, now: datetime) -> list[Any]:
    status = obj.get("status") or {}
    ready = next((c for c in status.get("conditions") or [] if c.get("type") == "Ready"), None)
    states = ["Unknown"] if ready is None else ["Ready" if ready.get("status") == "True" else "NotReady"]
    if (obj.get("spec") or {}).get("unschedulable"):
        states.append("SchedulingDisabled")
    info = status.get("nodeInfo") or {}
    return [obj["metadata"]["name"], ",".join(states), _NONE, _age(obj, now), info.get("kubeletVersion", "")]


def _event(obj: Object, now: datetime) -> list[Any]:
    subject = obj.get("involvedObject") or {}
    last = _since(obj.get("lastTimestamp") or obj.get("firstTimestamp") or obj.get("eventTime"), now)
    target = subject.get("kind", "").lower() + (f"/{subject['name']}" if subject.get("name") else "")
    return [last, obj.get("type", ""), obj.get("reason", ""), target, str(obj.get("message") or "").strip()]


def _pod(obj: Object, now: datetime) -> list[Any]:
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    statuses = status.get("containerStatuses") or []
    ready, count = sum(bool(item.get("ready")) for item in statuses), len(spec.get("containers") or [])
    restarts = sum(item.get("restartCount", 0) for item in statuses)
    return [
        meta["name"], f"{ready}/{count}", _pod_state(meta, status), str(restarts), _age(obj, now),
        status.get("podIP") or _NONE, spec.get("nodeName") or _NONE,
    ]  # fmt: skip


def _pod_state(meta: Object, status: Object) -> str:
    phase = str(status.get("phase", ""))
    if meta.get("deletionTimestamp") and phase not in {"Succeeded", "Failed"}:
        return "Terminating"
    for item in status.get("containerStatuses") or []:
        state = item.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        if ended and (ended.get("exitCode") or phase == "Succeeded"):
            return str(ended.get("reason") or f"ExitCode:{ended.get('exitCode', 0)}")
        if waiting and waiting.get("reason"):
            return str(waiting["reason"])
    return str(status.get("reason") or phase)


_WIDE = "*"
"""A column with this mark is shown by ``-o wide`` only."""

_COLUMNS: dict[str, tuple[str, Cells]] = {
    "pods": ("Name,Ready,Status,Restarts,Age,*IP,*Node", _pod),
    "nodes": ("Name,Status,Roles,Age,Version", _node),
    "events": ("Last Seen,Type,Reason,Object,Message", _event),
    "resourceclaims": ("Name,State,Age", _claim),
    "resourceslices": ("Name,Node,Driver,Pool,Age", _slice),
}
_DEFAULT: tuple[str, Cells] = ("Name,Age", _plain)


def _definition(column: str) -> Object:
    name = column.removeprefix(_WIDE)
    kind = "name" if name == "Name" else ""
    return {"name": name, "type": "string", "format": kind, "description": name, "priority": int(name != column)}


def table(resource: Resource, objects: Iterable[Object], version: int, *, include: str, columns: bool = True) -> Object:
    """A meta.k8s.io/v1 Table. ``include``: None, Metadata or Object, what comes along with each row."""
    names, cells = _COLUMNS.get(resource.plural, _DEFAULT)
    now = datetime.now(UTC)
    rows = []
    for obj in objects:
        row: Object = {"cells": cells(obj, now)}
        if include == "Object":
            row["object"] = obj
        elif include == "Metadata":
            partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
            row["object"] = {**partial, "metadata": obj["metadata"]}
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": str(version)},
        "columnDefinitions": [_definition(column) for column in names.split(",")] if columns else [],
        "rows": rows,
    }
