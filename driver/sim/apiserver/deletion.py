"""What a DELETE means for an object: preconditions, grace, finalizers. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import bad_request, conflict
from driver.sim.apiserver.resources import PODS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.sim.apiserver.call import Call
    from driver.sim.apiserver.resource import Resource

    Object = dict[str, Any]


def check_preconditions(call: Call, meta: Object, wanted: Mapping[str, Any]) -> None:
    """Raises StatusError 409 if the object is not the one that the client means."""
    for key in ("uid", "resourceVersion"):
        if wanted.get(key) and wanted[key] != meta[key]:
            why = f"the {key} in the precondition ({wanted[key]}) does not match the {key} in record ({meta[key]})"
            raise conflict(call.resource, call.name, why)


def grace_period(resource: Resource, obj: Object, options: Mapping[str, Any]) -> int:
    """Seconds for which the object stays; only a pod on a node, which has not ended, stays for the kubelet."""
    if resource is not PODS:
        return 0
    seconds = options.get("gracePeriodSeconds")
    if seconds is None:
        seconds = obj.get("spec", {}).get("terminationGracePeriodSeconds", 30)
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise bad_request("json: cannot unmarshal into Go struct field DeleteOptions.gracePeriodSeconds of type int64")
    if not obj.get("spec", {}).get("nodeName") or obj.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return 0
    return 1 if seconds < 0 else seconds


def marked(current: Object, grace: int, now: datetime) -> Object | None:
    """The object as it waits for its deletion; None if it waits already and nothing changes."""
    obj = {**current, "metadata": dict(current["metadata"])}
    meta = obj["metadata"]
    already = meta.get("deletionTimestamp")
    if already and meta.get("deletionGracePeriodSeconds", 0) <= grace:
        return None
    if already:
        began = datetime.fromisoformat(already) - timedelta(seconds=meta.get("deletionGracePeriodSeconds", 0))
    else:
        began = now
        if "generation" in meta:
            meta["generation"] += 1
    meta["deletionTimestamp"] = (began + timedelta(seconds=grace)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    meta["deletionGracePeriodSeconds"] = grace
    if obj["kind"] == "Namespace":
        obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
    return obj
