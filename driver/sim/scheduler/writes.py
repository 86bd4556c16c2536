"""Writes to pods and claims that survive a concurrent change: read again and decide again on a conflict."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from driver.kube import MERGE_PATCH, ApiError
from driver.sim.scheduler.cluster import CLAIMS, PODS, Cluster, path
from driver.sim.scheduler.objects import FINALIZER, allocation_of, key_of

if TYPE_CHECKING:
    from collections.abc import Callable

FORBIDDEN = 403
NOT_FOUND = 404
CONFLICT = 409
ATTEMPTS = 6

Object = dict[str, Any]


async def patch_pod_status(cluster: Cluster, pod: Object, change: Callable[[Object], Object | None]) -> Object:
    """Merge what ``change`` says about the pod into its status; None means that nothing is to do.

    Raises ApiError, 404 too if the pod was replaced by another one of its name.
    """
    for attempt in range(ATTEMPTS):
        patch = change(pod)
        if patch is None:
            return pod
        where = path(PODS, *key_of(pod))
        body = {"metadata": {"uid": pod["metadata"]["uid"], "resourceVersion": pod["metadata"]["resourceVersion"]}}
        try:
            answer = await cluster.api.request(
                "PATCH", f"{where}/status", body={**body, "status": patch}, content_type=MERGE_PATCH
            )
        except ApiError as error:
            if error.status != CONFLICT or attempt + 1 == ATTEMPTS:
                raise
            fresh = await cluster.api.get(where)
            if fresh["metadata"]["uid"] != pod["metadata"]["uid"]:
                raise ApiError(NOT_FOUND, f"pod {where} was replaced by another one of the same name") from error
            pod = fresh
        else:
            cluster.put(PODS, answer)
            return answer
    raise AssertionError("unreachable: the last attempt returns or raises")


async def update_claim(
    cluster: Cluster, claim: Object, change: Callable[[Object], None], *, status: bool = True
) -> Object:
    """PUT the claim (or its status) as ``change`` leaves a copy of it. Raises ApiError, 409 at once: decide anew."""
    body = copy.deepcopy(claim)
    change(body)
    if body == claim:
        return claim
    where = path(CLAIMS, *key_of(claim), "status" if status else "")
    answer = await cluster.api.request("PUT", where, body=body)
    cluster.put(CLAIMS, answer)
    return answer


async def deallocate(cluster: Cluster, claim: Object, reserved: list[Object]) -> Object:
    """Set who uses the claim. With nobody left its devices go, and then the finalizer."""

    def release(body: Object) -> None:
        body.setdefault("status", {})["reservedFor"] = reserved
        if not reserved:
            body["status"].pop("reservedFor")
            body["status"].pop("allocation", None)

    claim = await update_claim(cluster, claim, release)
    if not reserved and allocation_of(claim) is None:
        claim = await remove_finalizer(cluster, claim)  # only now: a claim with devices must not vanish
    return claim


async def remove_finalizer(cluster: Cluster, claim: Object) -> Object:
    """Unblock the deletion of a claim that holds nothing."""

    def remove(body: Object) -> None:
        finalizers = [f for f in body["metadata"].get("finalizers") or [] if f != FINALIZER]
        body["metadata"]["finalizers"] = finalizers

    if FINALIZER not in (claim["metadata"].get("finalizers") or []):
        return claim
    try:
        return await update_claim(cluster, claim, remove, status=False)
    except ApiError as error:
        if error.status == NOT_FOUND:  # the last finalizer of a claim in deletion
            return claim
        raise
