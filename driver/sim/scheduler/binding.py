"""Writing a plan: allocations and reservations into the claims, then the pod's binding; undone if that fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.sim.scheduler import extended
from driver.sim.scheduler.cluster import CLAIMS, PODS, path
from driver.sim.scheduler.objects import FINALIZER, consumer, is_reserved_for, key_of, reserved_for, uid_of
from driver.sim.scheduler.writes import patch_pod_status, update_claim

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from driver.sim.scheduler.cluster import Cluster

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where a pod goes and what has to be written for that."""

    node: str
    pending: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = ()
    """Claims that exist, each with its allocation."""
    reserve: Sequence[Mapping[str, Any]] = ()
    """Claims that are allocated already and must be reserved for the pod too."""
    special: tuple[extended.Backed, Mapping[str, Any]] | None = None
    """Extended resources with the allocation of the claim that is yet to be created."""


async def bind(cluster: Cluster, pod: Object, plan: Plan, *, now: str) -> None:
    """Carry out the plan. Raises ApiError when a write fails; the next plan goes on from what was written before."""
    for claim, allocation in [*plan.pending, *((claim, None) for claim in plan.reserve)]:
        await _take(cluster, pod, dict(claim), allocation, now)
    if plan.special is not None:
        backed, allocation = plan.special
        body = extended.special_claim(pod, backed.requests)
        special = await cluster.api.request("POST", path(CLAIMS, pod["metadata"]["namespace"]), body=body)
        cluster.put(CLAIMS, special, created=True)
        await _take(cluster, pod, special, allocation, now)
        status = {"requestMappings": backed.mappings, "resourceClaimName": special["metadata"]["name"]}
        await patch_pod_status(cluster, pod, lambda _: {"extendedResourceClaimStatus": status})
    namespace, name = key_of(pod)
    body = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": uid_of(pod)},
        "target": {"apiVersion": "v1", "kind": "Node", "name": plan.node},
    }
    await cluster.api.request("POST", path(PODS, namespace, name, "binding"), body=body)


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
