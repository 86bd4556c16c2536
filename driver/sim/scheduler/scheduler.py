"""The scheduling loop: one pod at a time, from claims that exist to a binding."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from driver.kube import ApiError
from driver.sim.events import Recorder, timestamp
from driver.sim.scheduler import binding, extended, nodes
from driver.sim.scheduler.allocator import AllocationError, UnschedulableError, allocate
from driver.sim.scheduler.cluster import CLAIMS, CLASSES, NODES, PODS, RULES, SLICES, Cluster, path
from driver.sim.scheduler.objects import (
    EXTENDED_RESOURCE_ANNOTATION,
    Key,
    allocation_of,
    claim_name,
    controlled_by,
    deleting,
    is_reserved_for,
    key_of,
    not_needed,
    terminal,
    uid_of,
    with_condition,
)
from driver.sim.scheduler.writes import CONFLICT, FORBIDDEN, NOT_FOUND, deallocate, patch_pod_status, remove_finalizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

DEFAULT_NAME = "default-scheduler"
BACKOFF = 0.1
"""Seconds before a pod is tried again whose writes failed."""


class WaitingError(Exception):
    """The pod cannot be scheduled yet, for a reason that is normal and soon over: nothing is reported."""


class Scheduler:
    """Binds pods that name it (the default scheduler's name unless told otherwise). ``run`` ends by cancellation."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        name: str = DEFAULT_NAME,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._clock = clock
        self._recorder = Recorder(cluster.api, name, clock=clock)
        self._seen: dict[str, tuple[Any, ...]] = {}
        """By UID of a pod that is not bound: what was there at the last try."""
        self._changes = 0
        """Of what may help any waiting pod."""
        self._event = asyncio.Event()
        for resource in (CLAIMS, CLASSES, NODES, PODS, RULES, SLICES):
            cluster.listen(resource, partial(self._changed, resource))

    async def run(self) -> None:
        """Schedule for ever. The cluster's own ``run`` must be running too."""
        await self._cluster.synced()
        while True:
            self._event.clear()
            again = not await self.schedule_pending()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BACKOFF if again else None):
                    await self._event.wait()

    async def schedule_pending(self) -> bool:
        """Try each pod that waits, unless nothing has changed for it since the last try. False if a write failed."""
        good, pods = True, [pod for pod in self._cluster.all(PODS) if self._mine(pod)]
        self._seen = {uid: seen for uid, seen in self._seen.items() if uid in {uid_of(pod) for pod in pods}}
        for pod in sorted(pods, key=_queue_order):
            seen = (self._changes, (pod.get("status") or {}).get("resourceClaimStatuses"), pod["spec"])
            if self._seen.get(uid_of(pod)) == seen:
                continue
            try:
                await self._schedule(pod)
            except ApiError as error:
                level = logging.DEBUG if error.status in {CONFLICT, NOT_FOUND} else logging.WARNING
                logger.log(level, "pod %s/%s: %s; trying again", *key_of(pod), error)
                good = False
            else:
                self._seen[uid_of(pod)] = seen
        return good

    def _changed(self, resource: str, _key: Key | None) -> None:
        self._changes += resource != PODS
        self._event.set()

    def _mine(self, pod: Mapping[str, Any]) -> bool:
        spec = pod["spec"]
        return (
            (spec.get("schedulerName") or DEFAULT_NAME) == self._name
            and not spec.get("nodeName")
            and not spec.get("schedulingGates")
            and not deleting(pod)
            and not terminal(pod)
        )

    async def _schedule(self, pod: dict[str, Any]) -> None:
        try:
            claims = self._claims(pod)
            await self._discard_special(pod)
            plan = await self._plan(pod, claims)
        except WaitingError as reason:
            logger.debug("pod %s/%s waits: %s", *key_of(pod), reason)
            return
        except (UnschedulableError, AllocationError) as reason:
            logger.info("pod %s/%s is unschedulable: %s", *key_of(pod), reason)
            await self._report(pod, str(reason))
            return
        try:
            await binding.bind(self._cluster, pod, plan, now=timestamp(self._clock()))
        except ApiError as error:
            if error.status == FORBIDDEN:  # a policy has something against it, and says what
                await self._report(pod, str(error))
            raise
        message = f"Successfully assigned {'/'.join(key_of(pod))} to {plan.node}"
        await self._recorder.event(pod, "Normal", "Scheduled", message)

    def _claims(self, pod: Mapping[str, Any]) -> list[dict[str, Any]]:
        namespace, found = pod["metadata"]["namespace"], []
        for entry in pod["spec"].get("resourceClaims") or []:
            if not_needed(pod, entry):
                continue
            name = claim_name(pod, entry)
            if name is None:
                raise WaitingError(f"claim {entry['name']} is not created from its template yet")
            claim = self._cluster.get(CLAIMS, namespace, name)
            if claim is None:
                raise UnschedulableError(f'resourceclaim "{name}" not found')
            if entry.get("resourceClaimTemplateName") and not controlled_by(claim, pod):
                owner = "/".join(key_of(pod))
                raise UnschedulableError(
                    f"ResourceClaim {namespace}/{name} was not created for Pod {owner} (Pod is not owner)"
                )
            if deleting(claim):
                raise UnschedulableError(f'resourceclaim "{name}" is being deleted')
            found.append(claim)
        return found

    async def _plan(self, pod: Mapping[str, Any], claims: Sequence[dict[str, Any]]) -> binding.Plan:
        candidates = self._cluster.all(NODES)
        if not candidates:
            raise UnschedulableError("no nodes available to schedule pods")
        mapping = extended.classes_by_resource(self._cluster.all(CLASSES))
        refusals: Counter[str] = Counter()
        for node in candidates:
            refused = nodes.refusal(pod, node)
            backed, lacking = extended.backed(pod, node, mapping)
            if refused or lacking:
                refusals[refused or lacking] += 1
                continue
            if any(not nodes.matches(node, a.get("nodeSelector")) for a in map(allocation_of, claims) if a):
                refusals["resourceclaim not available on the node"] += 1
                continue
            to_allocate = [claim for claim in claims if allocation_of(claim) is None]
            special = [extended.special_claim(pod, backed.requests)] if backed else []
            try:
                results = await self._allocate(node, [*to_allocate, *special]) if to_allocate or special else []
            except UnschedulableError as error:
                refusals[str(error)] += 1
                continue
            return binding.Plan(
                node=node["metadata"]["name"],
                pending=list(zip(to_allocate, results, strict=False)),
                reserve=[c for c in claims if allocation_of(c) is not None and not is_reserved_for(c, pod)],
                special=(backed, results[-1]) if backed else None,
            )
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(refusals.items()))
        raise UnschedulableError(f"0/{len(candidates)} nodes are available: {reasons}.")

    async def _allocate(self, node: Mapping[str, Any], claims: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        every = self._cluster.all(CLAIMS)
        # In a thread, as a search without a solution may take seconds; the objects of a mirror are never changed.
        return await asyncio.to_thread(
            allocate,
            node,
            claims,
            classes={c["metadata"]["name"]: c for c in self._cluster.all(CLASSES)},
            slices=self._cluster.all(SLICES),
            rules=self._cluster.all(RULES),
            allocated=[claim for claim in every if allocation_of(claim)],
        )

    async def _discard_special(self, pod: Mapping[str, Any]) -> None:
        """Remove a special claim that an earlier, interrupted attempt left: its allocation may be stale."""
        for claim in self._cluster.all(CLAIMS):
            if EXTENDED_RESOURCE_ANNOTATION not in (claim["metadata"].get("annotations") or {}):
                continue
            if not controlled_by(claim, pod) or deleting(claim):
                continue
            released = await deallocate(self._cluster, claim, [])
            await remove_finalizer(self._cluster, released)
            try:
                await self._cluster.api.request("DELETE", path(CLAIMS, *key_of(claim)))
            except ApiError as error:
                if error.status != NOT_FOUND:
                    raise

    async def _report(self, pod: dict[str, Any], message: str) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        now = timestamp(self._clock())

        def change(current: Mapping[str, Any]) -> dict[str, Any] | None:
            conditions = with_condition(current.get("status") or {}, condition, now)
            return None if conditions is None else {"conditions": conditions}

        await patch_pod_status(self._cluster, pod, change)
        await self._recorder.event(pod, "Warning", "FailedScheduling", message)


def _queue_order(pod: Mapping[str, Any]) -> tuple[str, Key]:
    return pod["metadata"].get("creationTimestamp") or "", key_of(pod)
