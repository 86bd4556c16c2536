"""The ResourceClaim controller: makes claims from templates, and takes devices back when nobody uses them any more."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from driver.kube import RESOURCE, ApiError
from driver.sim.controllers.queue import WorkQueue
from driver.sim.events import Recorder
from driver.sim.scheduler.cluster import CLAIMS, PODS, TEMPLATES, Cluster, path
from driver.sim.scheduler.objects import (
    FINALIZER,
    POD_CLAIM_ANNOTATION,
    Key,
    base_name,
    claim_name,
    controlled_by,
    controller_of,
    deleting,
    done,
    key_of,
    not_needed,
    owner_reference,
    reserved_for,
    uid_of,
)
from driver.sim.scheduler.writes import NOT_FOUND, deallocate, patch_pod_status

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

Object = dict[str, Any]


def generated_claim(pod: Mapping[str, Any], pod_claim: Mapping[str, Any], template: Mapping[str, Any]) -> Object:
    """The claim to create for one entry of ``spec.resourceClaims``."""
    of_template = (template["spec"].get("metadata") or {}) if template.get("spec") else {}
    metadata: Object = {
        "generateName": base_name(pod["metadata"]["name"], pod_claim["name"]),
        "namespace": pod["metadata"]["namespace"],
        "annotations": {**(of_template.get("annotations") or {}), POD_CLAIM_ANNOTATION: pod_claim["name"]},
        "ownerReferences": [owner_reference(pod, "v1", "Pod")],
    }
    if of_template.get("labels"):
        metadata["labels"] = dict(of_template["labels"])
    spec = template["spec"].get("spec") or {}
    return {"apiVersion": RESOURCE.removeprefix("/apis/"), "kind": "ResourceClaim", "metadata": metadata, "spec": spec}


def owning_pod(claim: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference if a pod controls the claim."""
    owner = controller_of(claim)
    return owner if owner and owner.get("apiVersion") == "v1" and owner.get("kind") == "Pod" else None


class ClaimController:
    """Keeps claims in step with the pods that use them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._recorder = Recorder(cluster.api, "resource_claim")
        self._pods: WorkQueue[Key] = WorkQueue("pod")
        self._claims: WorkQueue[Key] = WorkQueue("claim")
        cluster.listen(PODS, self._pod_changed)
        cluster.listen(CLAIMS, self._claim_changed)

    async def run(self) -> None:
        """Work for ever. Ends by cancellation, or with the defect that stopped it."""
        await self._cluster.synced()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pods.run(self._sync_pod), name="claims of pods")
            group.create_task(self._claims.run(self._sync_claim), name="claims")

    # --- what has to be looked at ---------------------------------------------------------------------------------

    def _pod_changed(self, key: Key | None) -> None:
        if key is None:
            for pod in self._cluster.all(PODS):
                self._pods.add(key_of(pod))
            self._claim_changed(None)
            return
        changed = self._cluster.get(PODS, *key)
        if changed is not None:
            self._pods.add(key)
        if changed is None or done(changed):
            for claim in self._cluster.all(CLAIMS):
                if key_of(claim)[0] == key[0] and self._mentions(claim, key[1]):
                    self._claims.add(key_of(claim))

    @staticmethod
    def _mentions(claim: Mapping[str, Any], pod_name: str) -> bool:
        owner = owning_pod(claim)
        return any(e["name"] == pod_name for e in reserved_for(claim)) or bool(owner and owner["name"] == pod_name)

    def _claim_changed(self, key: Key | None) -> None:
        for claim in self._cluster.all(CLAIMS) if key is None else ():
            self._claims.add(key_of(claim))
        if key is None:
            return
        if self._cluster.get(CLAIMS, *key) is not None:
            self._claims.add(key)
        for pod in self._cluster.all(PODS):
            if key_of(pod)[0] == key[0] and any(
                claim_name(pod, entry) == key[1] for entry in pod["spec"].get("resourceClaims") or []
            ):
                self._pods.add(key_of(pod))

    # --- pods: make and reserve claims ----------------------------------------------------------------------------

    async def _sync_pod(self, key: Key) -> None:
        pod = self._cluster.get(PODS, *key)
        if pod is None or deleting(pod):
            return
        entries = pod["spec"].get("resourceClaims") or []
        made: dict[str, str] = {}
        for entry in entries:
            try:
                name = await self._ensure_claim(pod, entry)
            except ApiError as error:
                message = f"PodResourceClaim {entry['name']}: {error}"
                await self._recorder.event(pod, "Warning", "FailedResourceClaimCreation", message)
                raise
            if name is not None:
                made[entry["name"]] = name
        if made:
            await patch_pod_status(self._cluster, pod, lambda current: _claim_statuses(current, made))

    async def _ensure_claim(self, pod: Object, entry: Mapping[str, Any]) -> str | None:
        """Name of the claim that was made now, or made before but not recorded in the pod; None if all is well."""
        template_name = entry.get("resourceClaimTemplateName")
        if not template_name or not_needed(pod, entry) or done(pod):
            return None
        namespace, known = pod["metadata"]["namespace"], claim_name(pod, entry)
        if known is not None:
            claim = self._cluster.get(CLAIMS, namespace, known)
            if claim is not None and controlled_by(claim, pod):
                return None
        for claim in self._cluster.all(CLAIMS):
            annotations = claim["metadata"].get("annotations") or {}
            if controlled_by(claim, pod) and annotations.get(POD_CLAIM_ANNOTATION) == entry["name"]:
                return str(claim["metadata"]["name"])
        template = self._cluster.get(TEMPLATES, namespace, template_name)
        if template is None:
            raise ApiError(NOT_FOUND, f'resource claim template "{template_name}" not found')
        body = generated_claim(pod, entry, template)
        claim = await self._cluster.api.request("POST", path(CLAIMS, namespace), body=body)
        self._cluster.put(CLAIMS, claim, created=True)
        return str(claim["metadata"]["name"])

    # --- claims: release, deallocate, delete ----------------------------------------------------------------------

    async def _sync_claim(self, key: Key) -> None:
        claim = self._cluster.get(CLAIMS, *key)
        if claim is None:
            return
        reserved = reserved_for(claim)
        remaining = [entry for entry in reserved if await self._still_used(key[0], entry)]
        protected = FINALIZER in (claim["metadata"].get("finalizers") or [])
        if len(remaining) < len(reserved):
            claim = await deallocate(self._cluster, claim, remaining)
        elif protected and deleting(claim) and not remaining:
            claim = await deallocate(self._cluster, claim, [])
        if not remaining:
            await self._delete_if_generated(claim)

    async def _still_used(self, namespace: str, entry: Mapping[str, Any]) -> bool:
        if entry.get("apiGroup") or entry.get("resource") != "pods":
            return True  # a consumer of another kind is not ours to judge
        pod = self._cluster.get(PODS, namespace, entry["name"])
        if pod is None:
            # The mirror may not know the pod yet, and to take devices from a pod that starts would be bad.
            try:
                pod = await self._cluster.api.get(path(PODS, namespace, entry["name"]))
            except ApiError as error:
                if error.status == NOT_FOUND:
                    return False
                raise
        return uid_of(pod) == entry["uid"] and not done(pod)

    async def _delete_if_generated(self, claim: Object) -> None:
        """Delete a claim made for a pod that will not run (again). Vanished pods are the garbage collector's."""
        owner = owning_pod(claim)
        namespace = claim["metadata"]["namespace"]
        pod = self._cluster.get(PODS, namespace, owner["name"]) if owner else None
        if owner is None or pod is None or deleting(claim):
            return
        if uid_of(pod) != owner["uid"] or done(pod):
            body = {"preconditions": {"uid": uid_of(claim)}}
            try:
                await self._cluster.api.request("DELETE", path(CLAIMS, *key_of(claim)), body=body)
            except ApiError as error:
                if error.status != NOT_FOUND:
                    raise


def _claim_statuses(pod: Mapping[str, Any], made: Mapping[str, str]) -> Object | None:
    statuses = {s["name"]: s for s in (pod.get("status") or {}).get("resourceClaimStatuses") or []}
    changed = {name: {"name": name, "resourceClaimName": claim} for name, claim in made.items()}
    if all(statuses.get(name) == status for name, status in changed.items()):
        return None
    return {"resourceClaimStatuses": list((statuses | changed).values())}
