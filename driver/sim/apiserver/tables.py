"""Tables, as ``kubectl get`` shows them: columns and cells of each kind."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from driver.sim.apiserver.resources import Resource

    Object = dict[str, Any]
    Cells = Callable[[Object, datetime], list[Any]]

_NONE = "<none>"
_UNKNOWN = "<unknown>"

# -- durations -------------------------------------------------------------------------------------------------------


def short_duration(seconds: float) -> str:
    """A time span as kubectl writes it: 42s, 5m30s, 3h4m, 8d."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 0:
        return "0s"
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 120:
        return f"{total}s"
    if minutes < 10:
        return f"{minutes}m{total % 60}s" if total % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    years = days // 365
    return f"{years}y{days % 365}d" if years < 8 and days % 365 else f"{years}y"


def _since(text: str | None, now: datetime) -> str:
    if not text:
        return _UNKNOWN
    return short_duration((now - datetime.fromisoformat(text).astimezone(UTC)).total_seconds())


def _age(obj: Object, now: datetime) -> str:
    return _since(obj["metadata"].get("creationTimestamp"), now)


# -- kinds -----------------------------------------------------------------------------------------------------------


def _plain(obj: Object, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], _age(obj, now)]


def _namespace(obj: Object, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], (obj.get("status") or {}).get("phase", ""), _age(obj, now)]


def _configmap(obj: Object, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], len(obj.get("data") or {}) + len(obj.get("binaryData") or {}), _age(obj, now)]


def _lease(obj: Object, now: datetime) -> list[Any]:
    return [obj["metadata"]["name"], (obj.get("spec") or {}).get("holderIdentity", ""), _age(obj, now)]


def _claim(obj: Object, now: datetime) -> list[Any]:
    status = obj.get("status") or {}
    deleted = bool(obj["metadata"].get("deletionTimestamp"))
    states = ["deleted"] if deleted else []
    if status.get("allocation") is not None:
        states.append("allocated")
        if status.get("reservedFor"):
            states.append("reserved")
    elif not deleted:
        states.append("pending")
    return [obj["metadata"]["name"], ",".join(states), _age(obj, now)]


def _slice(obj: Object, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    pool = (spec.get("pool") or {}).get("name", "")
    return [obj["metadata"]["name"], spec.get("nodeName", ""), spec.get("driver", ""), pool, _age(obj, now)]


def _taint_rule(obj: Object, now: datetime) -> list[Any]:
    taint = (obj.get("spec") or {}).get("taint") or {}
    added = _since(taint["timeAdded"], now) if taint.get("timeAdded") else ""
    return [obj["metadata"]["name"], taint.get("key", ""), taint.get("value", ""), taint.get("effect", ""), added,
            _age(obj, now)]  # fmt: skip


def _node(obj: Object, now: datetime) -> list[Any]:
    status = obj.get("status") or {}
    ready = next((c for c in status.get("conditions") or [] if c.get("type") == "Ready"), None)
    states = ["Unknown"] if ready is None else ["Ready" if ready.get("status") == "True" else "NotReady"]
    if (obj.get("spec") or {}).get("unschedulable"):
        states.append("SchedulingDisabled")
    prefix = "node-role.kubernetes.io/"
    labels = obj["metadata"].get("labels") or {}
    roles = sorted(key.removeprefix(prefix) for key in labels if key.startswith(prefix) and key != prefix)
    info = status.get("nodeInfo") or {}
    addresses = {item.get("type"): item.get("address") for item in status.get("addresses") or []}
    kernel = info.get("kernelVersion") or _UNKNOWN
    if info.get("architecture"):
        kernel += f" ({info['architecture']})"
    return [
        obj["metadata"]["name"], ",".join(states), ",".join(roles) or _NONE, _age(obj, now),
        info.get("kubeletVersion", ""), addresses.get("InternalIP", _NONE), addresses.get("ExternalIP", _NONE),
        info.get("osImage") or _UNKNOWN, kernel, info.get("containerRuntimeVersion") or _UNKNOWN,
    ]  # fmt: skip


def _event(obj: Object, now: datetime) -> list[Any]:
    subject = obj.get("involvedObject") or obj.get("regarding") or {}
    source = obj.get("source") or obj.get("deprecatedSource") or {}
    first_time = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or obj.get("eventTime")
    last_time = obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp")
    first = _since(first_time, now)
    last = _since(last_time, now) if last_time else first
    count = obj.get("count") or obj.get("deprecatedCount") or 1
    series = obj.get("series")
    if series:
        last, count = _since(series.get("lastObservedTime"), now), series.get("count", 1)
    target = subject.get("kind", "").lower() + (f"/{subject['name']}" if subject.get("name") else "")
    component = source.get("component") or obj.get("reportingComponent") or obj.get("reportingController") or ""
    host = source.get("host") or obj.get("reportingInstance") or ""
    return [
        last, obj.get("type", ""), obj.get("reason", ""), target, subject.get("fieldPath", ""),
        f"{component}, {host}" if host else component, str(obj.get("message") or obj.get("note") or "").strip(), first,
        count, obj["metadata"]["name"],
    ]  # fmt: skip


def _job(obj: Object, now: datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    done = {c.get("type") for c in status.get("conditions") or [] if c.get("status") == "True"}
    state = "Running"
    for condition, name in (("SuccessCriteriaMet", "SuccessCriteriaMet"), ("FailureTarget", "FailureTarget"),
                            ("Suspended", "Suspended"), ("Complete", "Complete"), ("Failed", "Failed")):  # fmt: skip
        if condition in done:
            state = name
    if obj["metadata"].get("deletionTimestamp"):
        state = "Terminating"
    duration = ""
    if status.get("startTime"):
        end = status.get("completionTime")
        until = datetime.fromisoformat(end).astimezone(UTC) if end else now
        duration = _since(status["startTime"], until)
    containers = ((spec.get("template") or {}).get("spec") or {}).get("containers") or []
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    names, images = (",".join(c.get(key, "") for c in containers) for key in ("name", "image"))
    return [
        obj["metadata"]["name"], state, f"{status.get('succeeded', 0)}/{spec.get('completions', 1)}", duration,
        _age(obj, now), names, images,
        ",".join(f"{key}={value}" for key, value in labels.items()) or _NONE,
    ]  # fmt: skip


def _pod(obj: Object, now: datetime) -> list[Any]:
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    ready, total, restarts, last_restart, reason = _containers(spec, status)
    if meta.get("deletionTimestamp") and status.get("phase") not in {"Succeeded", "Failed"}:
        reason = "Terminating"
    shown: Any = str(restarts)
    if restarts and last_restart:
        shown = f"{restarts} ({_since(last_restart, now)} ago)"
    ips = status.get("podIPs") or []
    gates = spec.get("readinessGates") or []
    fulfilled = {c.get("type") for c in status.get("conditions") or [] if c.get("status") == "True"}
    met = sum(gate.get("conditionType") in fulfilled for gate in gates)
    return [
        meta["name"], f"{ready}/{total}", reason, shown, _age(obj, now),
        (ips[0].get("ip") if ips else status.get("podIP")) or _NONE, spec.get("nodeName") or _NONE,
        status.get("nominatedNodeName") or _NONE, f"{met}/{len(gates)}" if gates else _NONE,
    ]  # fmt: skip


def _containers(spec: Object, status: Object) -> tuple[int, int, int, str, str]:
    """Ready, total, restarts, time of the last restart, and the reason to show."""
    reason = status.get("reason") or status.get("phase", "")
    conditions = {c.get("type"): c for c in status.get("conditions") or []}
    if conditions.get("PodScheduled", {}).get("reason") == "SchedulingGated":
        reason = "SchedulingGated"
    sidecars = {c.get("name") for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"}
    total = len(spec.get("containers") or []) + len(sidecars)
    ready, restarts, last = 0, 0, ""
    waiting = None
    for index, item in enumerate(status.get("initContainerStatuses") or []):
        restarts += item.get("restartCount", 0)
        last = max(last, _finished(item))
        state = item.get("state") or {}
        if (state.get("terminated") or {}).get("exitCode") == 0:
            continue
        if item.get("name") in sidecars and item.get("started"):
            ready += bool(item.get("ready"))
            continue
        waiting = _init_reason(state, index, len(spec.get("initContainers") or []))
        break
    if waiting is not None and conditions.get("Initialized", {}).get("status") != "True":
        return ready, total, restarts, last, waiting
    if waiting is None:
        restarts = sum(i.get("restartCount", 0) for i in status.get("initContainerStatuses") or []
                       if i.get("name") in sidecars)  # fmt: skip
    running, failed = False, ""
    for item in reversed(status.get("containerStatuses") or []):
        restarts += item.get("restartCount", 0)
        last = max(last, _finished(item))
        state = item.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            reason = state["waiting"]["reason"]
        elif state.get("terminated") is not None:
            reason = _terminated(state["terminated"])
            failed = reason if state["terminated"].get("exitCode") else failed
        elif item.get("ready") and state.get("running") is not None:
            running = True
            ready += 1
    if reason == "Completed":
        if running and conditions.get("Ready", {}).get("status") == "True":
            reason = "Running"
        elif failed:
            reason = failed
        elif running:
            reason = "NotReady"
    return ready, total, restarts, last, reason


def _finished(item: Object) -> str:
    return str(((item.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or "")


def _terminated(state: Object) -> str:
    if state.get("reason"):
        return str(state["reason"])
    return f"Signal:{state['signal']}" if state.get("signal") else f"ExitCode:{state.get('exitCode', 0)}"


def _init_reason(state: Object, index: int, total: int) -> str:
    if state.get("terminated") is not None:
        return "Init:" + _terminated(state["terminated"])
    why = (state.get("waiting") or {}).get("reason")
    return f"Init:{why}" if why and why != "PodInitializing" else f"Init:{index}/{total}"


# -- tables ----------------------------------------------------------------------------------------------------------

_WIDE = "*"
"""A column with this mark is shown by ``-o wide`` only."""

_COLUMNS: dict[str, tuple[str, Cells]] = {
    "pods": ("Name,Ready,Status,Restarts,Age,*IP,*Node,*Nominated Node,*Readiness Gates", _pod),
    "nodes": (
        "Name,Status,Roles,Age,Version,*Internal-IP,*External-IP,*OS-Image,*Kernel-Version,*Container-Runtime",
        _node,
    ),
    "namespaces": ("Name,Status,Age", _namespace),
    "events": ("Last Seen,Type,Reason,Object,*Subobject,*Source,Message,*First Seen,*Count,*Name", _event),
    "configmaps": ("Name,Data,Age", _configmap),
    "leases": ("Name,Holder,Age", _lease),
    "jobs": ("Name,Status,Completions,Duration,Age,*Containers,*Images,*Selector", _job),
    "resourceclaims": ("Name,State,Age", _claim),
    "resourceslices": ("Name,Node,Driver,Pool,Age", _slice),
    "devicetaintrules": ("Name,Key,Value,Effect,TimeAdded,Age", _taint_rule),
}
_DEFAULT: tuple[str, Cells] = ("Name,Age", _plain)


def _definitions(columns: str) -> list[Object]:
    found = []
    for column in columns.split(","):
        name = column.removeprefix(_WIDE)
        found.append(
            {
                "name": name,
                "type": "integer" if name == "Count" else "string",
                "format": "name" if name == "Name" else "",
                "description": name,
                "priority": int(column.startswith(_WIDE)),
            }
        )
    return found


def table(resource: Resource, objects: Iterable[Object], version: int, *, include: str, columns: bool = True) -> Object:
    """A meta.k8s.io/v1 Table. ``include``: None, Metadata or Object, what comes along with each row."""
    names, cells = _COLUMNS.get(resource.plural, _DEFAULT)
    now = datetime.now(UTC)
    rows = []
    for obj in objects:
        row: Object = {"cells": cells(obj, now)}
        phase = (obj.get("status") or {}).get("phase") if resource.plural == "pods" else ""
        if phase in {"Succeeded", "Failed"}:
            text = "The pod has completed successfully." if phase == "Succeeded" else "The pod failed to complete."
            row["conditions"] = [{"type": "Completed", "status": "True", "reason": phase, "message": text}]
        if include == "Object":
            row["object"] = obj
        elif include == "Metadata":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": obj["metadata"],
            }
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": str(version)},
        "columnDefinitions": _definitions(names) if columns else [],
        "rows": rows,
    }
