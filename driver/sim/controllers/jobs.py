"""A small Job controller: parallelism, completions, backoffLimit. Pods are counted as long as they are there."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from driver.kube import ApiError
from driver.sim.controllers.queue import WorkQueue
from driver.sim.events import timestamp
from driver.sim.scheduler.cluster import JOBS, PODS, Cluster, path
from driver.sim.scheduler.objects import (
    Key,
    controlled_by,
    controller_of,
    deleting,
    done,
    key_of,
    owner_reference,
    with_condition,
)
from driver.sim.scheduler.writes import NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LONGEST_BACKOFF = 600.0

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """What to do for a job, in this order."""

    status: Object
    """The whole new status; equal to the old one if nothing is to be written."""
    delete: tuple[Key, ...] = ()
    create: int = 0
    """Number of pods to create now, unless a failure is recent."""


def decide(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], now: str) -> Actions:
    """What has to be done, given all pods that the job controls. Pure."""
    spec, status = job["spec"], copy.deepcopy(job.get("status") or {})
    live = [pod for pod in pods if not done(pod)]
    active = [pod for pod in live if not deleting(pod)]
    succeeded, failed = (sum(_phase(pod) == phase for pod in pods) for phase in ("Succeeded", "Failed"))
    verdict = ""
    if failed > int(spec.get("backoffLimit", 6)):
        verdict = "Failed"
    elif succeeded >= int(spec.get("completions", 1)):
        verdict = "Complete"
    if any(c["type"] in ("Complete", "Failed") for c in status.get("conditions") or []):
        return Actions(status=status, delete=tuple(map(key_of, active)))
    missing = int(spec.get("completions", 1)) - succeeded
    wanted = 0 if verdict or spec.get("suspend") else min(int(spec.get("parallelism", 1)), missing)
    status |= {"succeeded": succeeded, "failed": failed, "active": len(active[:wanted])}
    status.setdefault("startTime", now)
    if verdict and not live:
        if verdict == "Complete":
            status["completionTime"] = now
        condition = {"type": verdict, "status": "True", "lastProbeTime": now}
        status["conditions"] = with_condition(status, condition, now)
    return Actions(status=status, delete=tuple(map(key_of, active[wanted:])), create=max(0, wanted - len(active)))


def _phase(pod: Mapping[str, Any]) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def pod_for(job: Mapping[str, Any]) -> Object:
    """The pod to create."""
    template = job["spec"]["template"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **(template.get("metadata") or {}),
            "generateName": f"{job['metadata']['name']}-",
            "namespace": job["metadata"]["namespace"],
            "ownerReferences": [owner_reference(job, "batch/v1", "Job")],
        },
        "spec": copy.deepcopy(template["spec"]),
    }


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
        self._failures: dict[Key, tuple[int, float]] = {}
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
        if job is None or deleting(job):
            self._failures.pop(key, None)
            return None
        pods = [pod for pod in self._cluster.all(PODS) if controlled_by(pod, job)]
        actions = decide(job, pods, timestamp(self._clock()))
        if actions.status != (job.get("status") or {}):
            body = {**job, "status": actions.status}
            job = await self._cluster.api.request("PUT", path(JOBS, *key, "status"), body=body)
            self._cluster.put(JOBS, job)
        for pod_key in actions.delete:
            try:
                await self._cluster.api.request("DELETE", path(PODS, *pod_key))
            except ApiError as error:
                if error.status != NOT_FOUND:
                    raise
        pause = self._pause(key, int(actions.status.get("failed", 0)))
        if actions.create and pause > 0:
            return pause
        for _ in range(actions.create):
            pod = await self._cluster.api.request("POST", path(PODS, key[0]), body=pod_for(job))
            self._cluster.put(PODS, pod, created=True)
        return None

    def _pause(self, key: Key, failed: int) -> float:
        """Seconds until the next pod may be created after a failure."""
        now = asyncio.get_running_loop().time()
        known, since = self._failures.get(key, (0, now))
        if failed != known:
            since = now
            self._failures[key] = (failed, since)
        return since + min(self._backoff * 2 ** min(failed - 1, 20), LONGEST_BACKOFF) - now if failed else 0.0
