"""Writing a plan: allocations and reservations into the claims, then the pod's binding; undone if that fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from driver.kube import ApiError
from driver.sim.scheduler import extended
from driver.sim.scheduler.cluster import CLAIMS, PODS, path
from driver.sim.scheduler.objects import (
    FINALIZER,
    allocation_of,
    consumer,
    is_reserved_for,
    key_of,
    reserved_for,
    uid_of,
)
from driver.sim.scheduler.writes import (
    CONFLICT,
    NOT_FOUND,
    deallocate,
    patch_pod_status,
    remove_finalizer,
    update_claim,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.sim.scheduler.cluster import Cluster
    from driver.sim.scheduler.plan import Plan

logger = logging.getLogger(__name__)

Object = dict[str, Any]


def ready(claim: Mapping[str, Any]) -> bool:
    """Whether all binding conditions of the allocated devices hold."""
    status = claim.get("status") or {}
    for result in status["allocation"]["devices"].get("results") or []:
        wanted = set(result.get("bindingConditions") or ())
        if wanted - _true_conditions(status, result):
            return False
    return True


def failed(claim: Mapping[str, Any]) -> bool:
    """Whether a driver has given up to attach one of the allocated devices."""
    status = claim.get("status") or {}
    return any(
        set(result.get("bindingFailureConditions") or ()) & _true_conditions(status, result)
        for result in status["allocation"]["devices"].get("results") or []
    )


def _true_conditions(status: Mapping[str, Any], result: Mapping[str, Any]) -> set[str]:
    identity = [result.get(field) for field in ("driver", "pool", "device", "shareID")]
    for entry in status.get("devices") or []:
        if [entry.get(field) for field in ("driver", "pool", "device", "shareID")] == identity:
            return {c["type"] for c in entry.get("conditions") or [] if c["status"] == "True"}
    return set()


async def bind(cluster: Cluster, pod: Object, plan: Plan, *, now: str) -> bool:
    """Carry out the plan. False if it is not complete: a device has yet to be attached (binding conditions).

    Raises ApiError when a write fails; what was written before is taken back then.
    """
    taken: list[Object] = []
    special: Object | None = None
    try:
        for claim, allocation in [*plan.pending, *((claim, None) for claim in plan.reserve)]:
            taken.append(await _take(cluster, pod, dict(claim), allocation, now))
        if plan.special is not None:
            backed, allocation = plan.special
            body = extended.special_claim(pod, backed.requests)
            special = await cluster.api.request("POST", path(CLAIMS, pod["metadata"]["namespace"]), body=body)
            cluster.put(CLAIMS, special, created=True)
            special = await _take(cluster, pod, special, allocation, now)
            taken.append(special)
            status = {"requestMappings": backed.mappings, "resourceClaimName": special["metadata"]["name"]}
            await patch_pod_status(cluster, pod, lambda _: {"extendedResourceClaimStatus": status})
        if not all(ready(claim) for claim in taken):
            return False
        await _post_binding(cluster, pod, plan.node)
    except ApiError:
        await _give_back(cluster, pod, taken, special)
        raise
    return True


async def _take(cluster: Cluster, pod: Object, claim: Object, allocation: Mapping[str, Any] | None, now: str) -> Object:
    """Reserve the claim for the pod, with an allocation if it has none."""

    def protect(body: Object) -> None:
        finalizers = body["metadata"].setdefault("finalizers", [])
        if FINALIZER not in finalizers:
            finalizers.append(FINALIZER)

    def reserve(body: Object) -> None:
        status = body.setdefault("status", {})
        if allocation is not None:
            status["allocation"] = {**allocation, "allocationTimestamp": now}
        if not is_reserved_for(body, pod):
            status["reservedFor"] = [*reserved_for(body), consumer(pod)]

    if allocation is not None:  # protected first: a claim that holds devices must not vanish
        claim = await update_claim(cluster, claim, protect, status=False)
    return await update_claim(cluster, claim, reserve)


async def _post_binding(cluster: Cluster, pod: Object, node: str) -> None:
    namespace, name = key_of(pod)
    body = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": uid_of(pod)},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    await cluster.api.request("POST", path(PODS, namespace, name, "binding"), body=body)


async def _give_back(cluster: Cluster, pod: Object, taken: list[Object], special: Object | None) -> None:
    for known in taken:
        try:
            claim = await cluster.api.get(path(CLAIMS, *key_of(known)))
            current = await cluster.api.get(path(PODS, *key_of(pod)))
            if current["metadata"]["uid"] == uid_of(pod) and current["spec"].get("nodeName"):
                return  # bound after all, only the answer was lost
        except ApiError as error:
            if error.status != NOT_FOUND:
                logger.warning("claim %s/%s stays reserved for now: %s", *key_of(known), error)
                continue
            claim = known
        remaining = [entry for entry in reserved_for(claim) if entry["uid"] != uid_of(pod)]
        try:
            if allocation_of(claim) is not None:
                await deallocate(cluster, claim, remaining)
            if special is not None and uid_of(claim) == uid_of(special):
                await remove_finalizer(cluster, claim)
                await cluster.api.request("DELETE", path(CLAIMS, *key_of(claim)))
        except ApiError as error:
            if error.status not in {CONFLICT, NOT_FOUND}:
                logger.warning("claim %s/%s stays reserved for now: %s", *key_of(claim), error)
