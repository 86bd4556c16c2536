"""A small Job controller: parallelism, completions, backoffLimit; no indexes, deadlines or failure policies.

Finished pods are counted exactly once, as the real one does it: first noted in ``status.uncountedTerminatedPods``, then
freed of their finalizer, then added to the sums. Each step may be repeated after a crash.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from driver.kube import MERGE_PATCH, ApiError
from driver.sim.controllers.queue import WorkQueue
from driver.sim.scheduler.cluster import JOBS, PODS, Cluster, path
from driver.sim.scheduler.events import timestamp
from driver.sim.scheduler.objects import (
    Key,
    controlled_by,
    controller_of,
    deleting,
    done,
    key_of,
    owner_reference,
    uid_of,
    with_condition,
)
from driver.sim.scheduler.writes import NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

TRACKING = "batch.kubernetes.io/job-tracking"
JOB_NAME = "batch.kubernetes.io/job-name"
CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
DEFAULT_BACKOFF_LIMIT = 6
LONGEST_BACKOFF = 600.0

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """What to do for a job, in this order."""

    status: Object
    """The whole new status; equal to the old one if nothing is to be written."""
    release: tuple[Key, ...] = ()
    """Pods that are noted and may lose their finalizer."""
    delete: tuple[Key, ...] = ()
    create: int = 0
    """Number of pods to create now, unless a failure is recent."""


def decide(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], now: str) -> Actions:
    """What has to be done, given all pods that the job controls. Pure."""
    spec, status = job["spec"], copy.deepcopy(job.get("status") or {})
    _count(status, pods)
    uncounted = status.get("uncountedTerminatedPods") or {}
    noted = {uid for kind in ("succeeded", "failed") for uid in uncounted.get(kind) or []}
    succeeded = int(status.get("succeeded") or 0) + len(uncounted.get("succeeded") or [])
    failed = int(status.get("failed") or 0) + len(uncounted.get("failed") or [])
    live = [pod for pod in pods if not done(pod) and uid_of(pod) not in noted]
    active = [pod for pod in live if not deleting(pod)]
    release = tuple(key_of(pod) for pod in pods if uid_of(pod) in noted and _tracked(pod))

    verdict = _finished(status)
    if not verdict:
        verdict = _verdict(spec, succeeded, failed, active=len(active))
    surplus: Sequence[Mapping[str, Any]] = ()
    create = 0
    if verdict or spec.get("suspend"):
        surplus = active
    else:
        wanted = _wanted(spec, succeeded, active=len(active))
        create, surplus = max(0, wanted - len(active)), active[wanted:]
    status["active"] = len(active) - len(surplus)
    status["terminating"] = len(live) - len(active) + len(surplus)
    status["ready"] = sum(_ready(pod) for pod in active)
    if not spec.get("suspend"):
        status.setdefault("startTime", now)
    if verdict and not live and not noted and not _finished(status):
        _conclude(status, verdict, now)
    return Actions(status=status, release=release, delete=tuple(key_of(pod) for pod in surplus), create=create)


def _count(status: Object, pods: Sequence[Mapping[str, Any]]) -> None:
    """Move pods through the bookkeeping: noted ones that are free into the sums, newly finished ones into the notes."""
    tracked = {uid_of(pod) for pod in pods if _tracked(pod)}
    uncounted = status.get("uncountedTerminatedPods") or {}
    for kind in ("succeeded", "failed"):
        noted = uncounted.get(kind) or []
        counted = [uid for uid in noted if uid not in tracked]
        status[kind] = int(status.get(kind) or 0) + len(counted)
        fresh = [
            uid_of(pod)
            for pod in pods
            if _tracked(pod) and done(pod) and uid_of(pod) not in noted and (_succeeded(pod) == (kind == "succeeded"))
        ]
        uncounted[kind] = [uid for uid in noted if uid not in counted] + fresh
    status["uncountedTerminatedPods"] = {kind: uids for kind, uids in uncounted.items() if uids}
    for kind in ("succeeded", "failed"):
        if not status[kind]:
            del status[kind]


def _tracked(pod: Mapping[str, Any]) -> bool:
    return TRACKING in (pod["metadata"].get("finalizers") or [])


def _succeeded(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") == "Succeeded"


def _ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _wanted(spec: Mapping[str, Any], succeeded: int, *, active: int) -> int:
    parallelism = int(spec.get("parallelism", 1))
    completions = spec.get("completions")
    if completions is None:  # a work queue: once a pod has succeeded the others end by themselves
        return active if succeeded else parallelism
    return min(parallelism, int(completions) - succeeded)


def _verdict(spec: Mapping[str, Any], succeeded: int, failed: int, *, active: int) -> str:
    if failed > int(spec.get("backoffLimit", DEFAULT_BACKOFF_LIMIT)):
        return "Failed"
    completions = spec.get("completions")
    if completions is None:
        return "Complete" if succeeded and not active else ""
    return "Complete" if succeeded >= int(completions) else ""


def _finished(status: Mapping[str, Any]) -> str:
    for condition in status.get("conditions") or []:
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return ""


def _conclude(status: Object, verdict: str, now: str) -> None:
    if verdict == "Complete":
        cause = {"reason": "CompletionsReached", "message": "Reached expected number of succeeded pods"}
        kinds = ("SuccessCriteriaMet", "Complete")
        status["completionTime"] = now
    else:
        cause = {"reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}
        kinds = ("FailureTarget", "Failed")
    for kind in kinds:
        condition = {"type": kind, "status": "True", **cause, "lastProbeTime": now}
        status["conditions"] = with_condition(status, condition, now) or status["conditions"]


def pod_for(job: Mapping[str, Any]) -> Object:
    """The pod to create."""
    template = job["spec"]["template"]
    of_template = template.get("metadata") or {}
    labels = {
        **(of_template.get("labels") or {}),
        JOB_NAME: job["metadata"]["name"],
        "job-name": job["metadata"]["name"],
        CONTROLLER_UID: uid_of(job),
    }
    metadata: Object = {
        "generateName": f"{job['metadata']['name']}-",
        "namespace": job["metadata"]["namespace"],
        "labels": labels,
        "finalizers": [TRACKING],
        "ownerReferences": [owner_reference(job, "batch/v1", "Job") | {"blockOwnerDeletion": True}],
    }
    if of_template.get("annotations"):
        metadata["annotations"] = dict(of_template["annotations"])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy.deepcopy(template["spec"])}


class JobController:
    """Runs pods of jobs until enough have succeeded."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        backoff: float = 1.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``backoff``: seconds before the first replacement of a failed pod, doubled each time (the real one: 10)."""
        self._cluster = cluster
        self._backoff = backoff
        self._clock = clock
        self._jobs: WorkQueue[Key] = WorkQueue("job")
        self._failures: dict[str, tuple[int, float]] = {}
        cluster.listen(JOBS, self._job_changed)
        cluster.listen(PODS, self._pod_changed)

    async def run(self) -> None:
        """Work for ever. Ends by cancellation, or with the defect that stopped it."""
        await self._cluster.synced()
        await self._jobs.run(self._sync)

    def _job_changed(self, key: Key | None) -> None:
        for job_key in [key] if key else [key_of(job) for job in self._cluster.all(JOBS)]:
            self._jobs.add(job_key)

    def _pod_changed(self, key: Key | None) -> None:
        pod = self._cluster.get(PODS, *key) if key else None
        owner = controller_of(pod) if pod else None
        if pod is None:
            self._job_changed(None)
        elif owner and owner.get("kind") == "Job":
            self._jobs.add((pod["metadata"]["namespace"], owner["name"]))

    async def _sync(self, key: Key) -> float | None:
        job = self._cluster.get(JOBS, *key)
        orphans = [p for p in self._cluster.all(PODS) if _tracked(p) and self._orphaned(p)]
        for pod in orphans:
            await self._release(key_of(pod))
        if job is None or deleting(job):
            return None
        pods = [pod for pod in self._cluster.all(PODS) if controlled_by(pod, job)]
        actions = decide(job, pods, timestamp(self._clock()))
        if actions.status != (job.get("status") or {}):
            body = {**job, "status": actions.status}
            job = await self._cluster.api.request("PUT", path(JOBS, *key, "status"), body=body)
            self._cluster.put(JOBS, job)
        for pod_key in actions.release:
            await self._release(pod_key)
        for pod_key in actions.delete:
            await self._ignore_missing("DELETE", path(PODS, *pod_key))
        pause = self._pause(job)
        if actions.create and pause > 0:
            return pause
        for _ in range(actions.create):
            pod = await self._cluster.api.request("POST", path(PODS, key[0]), body=pod_for(job))
            self._cluster.put(PODS, pod, created=True)
        return None

    def _orphaned(self, pod: Mapping[str, Any]) -> bool:
        owner = controller_of(pod)
        if owner is None or owner.get("kind") != "Job":
            return False
        job = self._cluster.get(JOBS, pod["metadata"]["namespace"], owner["name"])
        return job is None or uid_of(job) != owner["uid"]

    def _pause(self, job: Mapping[str, Any]) -> float:
        """Seconds until the next pod may be created after a failure."""
        status, now = job.get("status") or {}, asyncio.get_running_loop().time()
        failed = int(status.get("failed") or 0) + len((status.get("uncountedTerminatedPods") or {}).get("failed") or [])
        known, since = self._failures.get(uid_of(job), (0, now))
        if failed > known:
            since = now
            self._failures[uid_of(job)] = (failed, since)
        if not failed:
            return 0.0
        backoff: float = self._backoff * 2 ** min(failed - 1, 20)
        return since + min(backoff, LONGEST_BACKOFF) - now

    async def _release(self, key: Key) -> None:
        pod = self._cluster.get(PODS, *key)
        if pod is None:
            return
        finalizers = [f for f in pod["metadata"].get("finalizers") or [] if f != TRACKING]
        metadata = {
            "uid": uid_of(pod),
            "resourceVersion": pod["metadata"]["resourceVersion"],
            "finalizers": finalizers or None,
        }
        await self._ignore_missing("PATCH", path(PODS, *key), body={"metadata": metadata}, content_type=MERGE_PATCH)

    async def _ignore_missing(self, method: str, where: str, **arguments: Any) -> None:
        try:
            await self._cluster.api.request(method, where, **arguments)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            logger.debug("%s is gone already", where)
