"""Facts about pods and claims that the scheduler and the controllers share. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Key = tuple[str, str]
"""Namespace and name."""

FINALIZER = "resource.kubernetes.io/delete-protection"
POD_CLAIM_ANNOTATION = "resource.kubernetes.io/pod-claim-name"
EXTENDED_RESOURCE_ANNOTATION = "resource.kubernetes.io/extended-resource-claim"


def key_of(obj: Mapping[str, Any]) -> Key:
    """Namespace (empty for cluster-wide objects) and name."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def uid_of(obj: Mapping[str, Any]) -> str:
    """The object's UID."""
    return str(obj["metadata"]["uid"])


def deleting(obj: Mapping[str, Any]) -> bool:
    """Whether deletion has begun."""
    return obj["metadata"].get("deletionTimestamp") is not None


def terminal(pod: Mapping[str, Any]) -> bool:
    """Whether all containers have ended for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def done(pod: Mapping[str, Any]) -> bool:
    """Whether no container of the pod runs or ever will."""
    return terminal(pod) or (deleting(pod) and not pod["spec"].get("nodeName"))


def claim_name(pod: Mapping[str, Any], pod_claim: Mapping[str, Any]) -> str | None:
    """Name of the claim behind an entry of ``spec.resourceClaims``, None while it is not made from its template yet."""
    if pod_claim.get("resourceClaimName"):
        return str(pod_claim["resourceClaimName"])
    for status in (pod.get("status") or {}).get("resourceClaimStatuses") or []:
        if status["name"] == pod_claim["name"] and status.get("resourceClaimName"):
            return str(status["resourceClaimName"])
    return None


def not_needed(pod: Mapping[str, Any], pod_claim: Mapping[str, Any]) -> bool:
    """Whether a controller has recorded that the entry needs no claim."""
    statuses = (pod.get("status") or {}).get("resourceClaimStatuses") or []
    return any(s["name"] == pod_claim["name"] and not s.get("resourceClaimName") for s in statuses)


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference with ``controller: true``."""
    owners = obj["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def controlled_by(obj: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Whether ``owner`` controls the object; names may be reused, so the UID decides."""
    reference = controller_of(obj)
    return reference is not None and reference.get("uid") == uid_of(owner)


def owner_reference(owner: Mapping[str, Any], api_version: str, kind: str) -> dict[str, Any]:
    """A controlling owner reference."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": owner["metadata"]["name"],
        "uid": uid_of(owner),
        "controller": True,
    }


def consumer(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of ``status.reservedFor`` for a pod."""
    return {"resource": "pods", "name": pod["metadata"]["name"], "uid": uid_of(pod)}


def reserved_for(claim: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``status.reservedFor``."""
    return list((claim.get("status") or {}).get("reservedFor") or [])


def is_reserved_for(claim: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether the pod may use the claim."""
    return any(entry.get("uid") == uid_of(pod) for entry in reserved_for(claim))


def allocation_of(claim: Mapping[str, Any]) -> dict[str, Any] | None:
    """``status.allocation``, None while the claim holds no device."""
    return (claim.get("status") or {}).get("allocation") or None


def with_condition(status: Mapping[str, Any], condition: Mapping[str, Any], now: str) -> list[dict[str, Any]] | None:
    """The conditions with one of them set, None if it is there already. A change of status notes the time."""
    conditions = [dict(entry) for entry in status.get("conditions") or []]
    for entry in conditions:
        if entry["type"] != condition["type"]:
            continue
        if all(entry.get(field) == value for field, value in condition.items()):
            return None
        if entry.get("status") != condition["status"]:
            entry["lastTransitionTime"] = now
        entry.update(condition)
        return conditions
    return [*conditions, {**condition, "lastTransitionTime": now}]


def base_name(pod: str, claim: str, limit: int = 57) -> str:
    """``<pod>-<claim>-`` for generateName; names that are too long are cut in proportion, so that both show."""
    name = f"{pod}-{claim}-"
    if len(name) <= limit:
        return name
    pod_part = pod[: len(pod) * limit // len(name)]
    shortened = f"{pod_part}-{claim[: len(claim) * limit // len(name)]}"
    return f"{shortened}-"
