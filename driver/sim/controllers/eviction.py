"""Eviction of pods from devices with NoExecute taints, of ResourceSlices and of DeviceTaintRules."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from driver.kube import ApiError
from driver.sim.controllers.queue import WorkQueue
from driver.sim.events import Recorder, timestamp
from driver.sim.scheduler import tolerations
from driver.sim.scheduler.cluster import CLAIMS, PODS, RULES, SLICES, Cluster, path
from driver.sim.scheduler.objects import (
    Key,
    allocation_of,
    claim_name,
    controlled_by,
    deleting,
    is_reserved_for,
    key_of,
    terminal,
    uid_of,
    with_condition,
)
from driver.sim.scheduler.pools import newest
from driver.sim.scheduler.writes import CONFLICT, NOT_FOUND, patch_pod_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

CONDITION = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "DeletionByDeviceTaintManager",
    "message": "Device Taint manager: deleting due to NoExecute taint",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """When a pod has to go, and because of which taints."""

    when: datetime
    reasons: tuple[str, ...]


def device_taints(
    result: Mapping[str, Any], slices: Sequence[Mapping[str, Any]], rules: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """NoExecute taints on an allocated device: of its slice of the newest generation and of rules."""
    driver, pool, name = result["driver"], result["pool"], result["device"]
    found: list[Mapping[str, Any]] = [
        taint
        for slice_ in slices
        if slice_["spec"]["driver"] == driver and slice_["spec"]["pool"]["name"] == pool
        for device in slice_["spec"].get("devices") or []
        if device["name"] == name
        for taint in device.get("taints") or []
    ]
    found.extend(tolerations.from_rules(rules, driver, pool, name))
    return [taint for taint in found if taint.get("effect") == tolerations.NO_EXECUTE]


def claim_eviction(
    claim: Mapping[str, Any], slices: Sequence[Mapping[str, Any]], rules: Sequence[Mapping[str, Any]]
) -> Eviction | None:
    """When the users of an allocated claim have to go; ``slices`` are those of the newest generations.

    As the real controller: only tolerations with effect ``NoExecute`` count (an empty effect does not), and of several
    that match the shortest ``tolerationSeconds`` counts, from the taint's ``timeAdded`` on.
    """
    evictions: list[tuple[datetime, str]] = []
    for result in (allocation_of(claim) or {"devices": {}})["devices"].get("results") or []:
        for taint in device_taints(result, slices, rules):
            tolerated = [
                t
                for t in result.get("tolerations") or []
                if t.get("effect") == tolerations.NO_EXECUTE and tolerations.tolerates(t, taint)
            ]
            if any(t.get("tolerationSeconds") is None for t in tolerated):
                continue
            grace = min((max(int(t["tolerationSeconds"]), 0) for t in tolerated), default=0)
            device = f"{result['driver']}/{result['pool']}/{result['device']}"
            when = _moment(taint.get("timeAdded")) + timedelta(seconds=grace)
            evictions.append((when, f"{device} {tolerations.describe(taint)}"))
    if not evictions:
        return None
    return Eviction(when=min(when for when, _ in evictions), reasons=tuple(sorted({why for _, why in evictions})))


def pod_eviction(
    pod: Mapping[str, Any],
    claims: Mapping[Key, Mapping[str, Any]],
    slices: Sequence[Mapping[str, Any]],
    rules: Sequence[Mapping[str, Any]],
) -> Eviction | None:
    """The earliest eviction of the claims that the pod uses. Extended resources do not count, as in 1.36."""
    if not pod["spec"].get("nodeName") or terminal(pod):
        return None
    evictions = []
    for entry in pod["spec"].get("resourceClaims") or []:
        claim = claims.get((pod["metadata"]["namespace"], claim_name(pod, entry) or ""))
        if claim is None or allocation_of(claim) is None or not is_reserved_for(claim, pod):
            continue
        if entry.get("resourceClaimTemplateName") and not controlled_by(claim, pod):
            continue
        if eviction := claim_eviction(claim, slices, rules):
            evictions.append(eviction)
    if not evictions:
        return None
    reasons = sorted({reason for eviction in evictions for reason in eviction.reasons})
    return Eviction(when=min(e.when for e in evictions), reasons=tuple(reasons))


class EvictionController:
    """Deletes pods whose devices do not tolerate them any longer."""

    def __init__(self, cluster: Cluster, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._cluster = cluster
        self._clock = clock
        self._recorder = Recorder(cluster.api, "device-taint-eviction", clock=clock)
        self._pods: WorkQueue[Key] = WorkQueue("eviction of pod")
        self._evicted: set[str] = set()
        cluster.listen(PODS, self._pod_changed)
        for resource in (CLAIMS, SLICES, RULES):
            cluster.listen(resource, lambda _key: self._pod_changed(None))

    async def run(self) -> None:
        """Work for ever. Ends by cancellation, or with the defect that stopped it."""
        await self._cluster.synced()
        await self._pods.run(self._sync)

    def _pod_changed(self, key: Key | None) -> None:
        if key is not None:
            self._pods.add(key)
            return
        for pod in self._cluster.all(PODS):
            if pod["spec"].get("resourceClaims"):
                self._pods.add(key_of(pod))

    async def _sync(self, key: Key) -> float | None:
        pod = self._cluster.get(PODS, *key)
        if pod is None:
            self._evicted &= {uid_of(p) for p in self._cluster.all(PODS)}
            return None
        if deleting(pod) or uid_of(pod) in self._evicted:  # the mirror may not know yet that it is being deleted
            return None
        if not pod["spec"].get("resourceClaims"):
            return None
        claims = {key_of(claim): claim for claim in self._cluster.all(CLAIMS)}
        eviction = pod_eviction(pod, claims, newest(self._cluster.all(SLICES)), self._cluster.all(RULES))
        if eviction is None:
            return None
        left = (eviction.when - self._clock()).total_seconds()
        if left > 0:
            return left
        logger.info("evicting pod %s/%s: %s", *key, ", ".join(eviction.reasons))
        await self._evict(pod)
        self._evicted.add(uid_of(pod))
        return None

    async def _evict(self, pod: dict[str, Any]) -> None:
        now = timestamp(self._clock())
        await self._recorder.event(pod, "Normal", "DeviceTaintManagerEviction", "Marking for deletion")

        def change(current: Mapping[str, Any]) -> dict[str, Any] | None:
            conditions = with_condition(current.get("status") or {}, CONDITION, now)
            return None if conditions is None else {"conditions": conditions}

        try:
            await patch_pod_status(self._cluster, pod, change)
            body = {"preconditions": {"uid": uid_of(pod)}}
            await self._cluster.api.request("DELETE", path(PODS, *key_of(pod)), body=body)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return
            if error.status == CONFLICT and "precondition" in str(error).lower():
                return  # another pod of this name; it is looked at for itself
            raise


def _moment(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.fromtimestamp(0, UTC)
