"""A small Job controller: parallelism, completions, backoffLimit; a pod that failed is replaced at once."""

from __future__ import annotations

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

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """What to do for a job, in this order."""

    status: Object
    """The whole new status; equal to the old one if nothing is to be written."""
    delete: tuple[Key, ...] = ()
    create: int = 0
    """Number of pods to create."""


def decide(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], now: str) -> Actions:
    """What has to be done, given all pods that the job controls. Pure."""
    spec, status = job["spec"], copy.deepcopy(job.get("status") or {})
    active = [pod for pod in pods if not done(pod) and not deleting(pod)]
    succeeded, failed = (sum(_phase(pod) == phase for pod in pods) for phase in ("Succeeded", "Failed"))
    verdict = ""
    if failed > int(spec.get("backoffLimit", 6)):
        verdict = "Failed"
    elif succeeded >= int(spec.get("completions", 1)):
        verdict = "Complete"
    if status.get("conditions"):
        return Actions(status=status, delete=tuple(map(key_of, active)))
    missing = int(spec.get("completions", 1)) - succeeded
    wanted = 0 if verdict else min(int(spec.get("parallelism", 1)), missing)
    status |= {"succeeded": succeeded, "failed": failed, "active": len(active[:wanted])}
    status.setdefault("startTime", now)
    if verdict:
        status |= {"completionTime": now} if verdict == "Complete" else {}
        status["conditions"] = with_condition(status, {"type": verdict, "status": "True", "lastProbeTime": now}, now)
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

    def __init__(self, cluster: Cluster, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._cluster = cluster
        self._clock = clock
        self._jobs: WorkQueue[Key] = WorkQueue("job")
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

    async def _sync(self, key: Key) -> None:
        job = self._cluster.get(JOBS, *key)
        if job is None or deleting(job):
            return
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
        for _ in range(actions.create):
            pod = await self._cluster.api.request("POST", path(PODS, key[0]), body=pod_for(job))
            self._cluster.put(PODS, pod, created=True)
