"""What a DELETE means for an object: preconditions, grace, finalizers. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import bad_request, conflict
from driver.sim.apiserver.resources import PODS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.sim.apiserver.engine import Call
    from driver.sim.apiserver.resources import Resource

    Object = dict[str, Any]

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


def check_preconditions(call: Call, meta: Object, wanted: Mapping[str, Any]) -> None:
    """Raises StatusError 409 if the object is not the one that the client means."""
    uid, version = wanted.get("uid"), wanted.get("resourceVersion")
    why = ""
    if uid and uid != meta["uid"]:
        why = f"the UID in the precondition ({uid}) does not match the UID in record ({meta['uid']}). "
        why += "The object might have been deleted and then recreated"
    elif version and version != meta["resourceVersion"]:
        why = f"the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record "
        why += f"({meta['resourceVersion']}). The object might have been modified"
    if why:
        raise conflict(call.resource, call.name, why)


def remaining_finalizers(meta: Object, options: Mapping[str, Any]) -> list[str]:
    """The object's finalizers, with those that the propagation policy adds or takes away."""
    finalizers = list(meta.get("finalizers") or [])
    policy = "Orphan" if options.get("orphanDependents") else options.get("propagationPolicy")
    for name, wants in ((FOREGROUND, policy == "Foreground"), (ORPHAN, policy == "Orphan")):
        if policy and name in finalizers and not wants:
            finalizers.remove(name)
        if wants and name not in finalizers:
            finalizers.append(name)
    return finalizers


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


def marked(current: Object, grace: int, finalizers: list[str], now: datetime) -> Object | None:
    """The object as it waits for its deletion; None if it waits already and nothing changes."""
    obj = {**current, "metadata": dict(current["metadata"])}
    meta = obj["metadata"]
    already = meta.get("deletionTimestamp")
    if already and meta.get("deletionGracePeriodSeconds", 0) <= grace and finalizers == meta.get("finalizers", []):
        return None
    if not already or grace < meta.get("deletionGracePeriodSeconds", 0):
        if already:
            began = datetime.fromisoformat(already) - timedelta(seconds=meta.get("deletionGracePeriodSeconds", 0))
            deadline = max(began + timedelta(seconds=grace), began)
        else:
            deadline = now + timedelta(seconds=grace)
            if "generation" in meta:
                meta["generation"] += 1
        meta["deletionTimestamp"] = deadline.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        meta["deletionGracePeriodSeconds"] = grace
    meta.pop("finalizers", None)
    if finalizers:
        meta["finalizers"] = finalizers
    if obj["kind"] == "Namespace":
        obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
    return obj
