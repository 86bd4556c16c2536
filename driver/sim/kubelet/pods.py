"""One worker per pod: from its first sight on the node until nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.kube import ApiError
from driver.sim.kubelet import podspec
from driver.sim.kubelet.claiminfo import DraError
from driver.sim.kubelet.containers import CreateError, Launch
from driver.sim.kubelet.health import allocated_resources_status
from driver.sim.kubelet.node import NODE_IP
from driver.sim.kubelet.podstatus import WRITE_RETRY, StatusWriter, pod_path

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from driver.kube import Api
    from driver.sim.events import Recorder
    from driver.sim.kubelet.containers import Runtime
    from driver.sim.kubelet.health import HealthCache
    from driver.sim.kubelet.manager import ClaimManager
    from driver.sim.kubelet.options import Options
    from driver.sim.kubelet.podspec import Slot

logger = logging.getLogger(__name__)

TERMINAL = frozenset({"Succeeded", "Failed"})
DEFAULT_GRACE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PodContext:
    """What all workers share."""

    api: Api
    claims: ClaimManager
    runtime: Runtime
    health: HealthCache
    recorder: Recorder
    options: Options
    clock: Callable[[], float]
    put: Callable[[dict[str, Any]], None]
    """Takes the server's answer to a write into the mirror of pods."""


class PodWorker:
    """``update`` and ``gone`` tell it what the API server says; ``run`` does everything else."""

    def __init__(self, pod: dict[str, Any], context: PodContext) -> None:
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.slots = podspec.slots(pod)
        self.terminated = False
        """All containers have ended, and all claims are given back."""
        self._context = context
        self._options = context.options
        self._sandbox = False
        self._gone = asyncio.Event()
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._writer = StatusWriter(
            api=context.api,
            pod=lambda: self.pod,
            status=self._status,
            written=self._written,
            gone=self._gone,
            resync=lambda: self._jittered(self._options.resync),
        )
        self._dirty = self._writer.dirty
        self._update_stopping()

    @property
    def name(self) -> str:
        """``namespace/name``."""
        return f"{self.pod['metadata']['namespace']}/{self.pod['metadata']['name']}"

    def update(self, pod: dict[str, Any]) -> None:
        """A newer version of the pod. A change of its status alone is not a reason to try anything again."""
        old, self.pod = self.pod, pod
        if _intent(old) != _intent(pod):
            self._wake.set()
            self._dirty.set()
            self.resize()
        self._update_stopping()

    def resize(self) -> None:
        """Give containers what the spec says by now. Nothing of them restarts, and their devices stay as they are."""
        wanted = {c["name"]: c.get("resources") or {} for c in self.pod["spec"]["containers"]}
        changed = [slot for slot in self.slots if (slot.spec.get("resources") or {}) != wanted[slot.name]]
        if not changed or self.terminated:
            return
        for slot in changed:
            slot.spec = {**slot.spec, "resources": wanted[slot.name]}
        self._event("Normal", "ResizeCompleted", "Pod resize completed")
        self._dirty.set()

    def gone(self) -> None:
        """The pod was deleted without asking us (grace period 0), or while we were not looking."""
        self._gone.set()
        self._stopping.set()
        self._wake.set()

    def refresh_status(self) -> None:
        """Something beside the containers changed that the status shows."""
        self._dirty.set()

    async def run(self) -> None:
        """See the pod through to its end. Cancelled at shutdown, with its containers as they are."""
        writer = asyncio.create_task(self._writer.run(), name=f"status of {self.name}")
        try:
            await self._run()
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _run(self) -> None:
        ended_before = (self.pod.get("status") or {}).get("phase") in TERMINAL
        if not ended_before:
            await self._recover()
            await _until(self._stopping, self._live())
            await self._stop_containers()
            self._dirty.set()
        if not ended_before or self._context.claims.references(self.uid):
            await self._unprepare()
        self._context.runtime.kill_sandbox(self.uid)
        self._sandbox = False
        self.terminated = True
        await self._writer.insist()
        await self._stopping.wait()
        await self._delete()
        self._context.runtime.remove_sandbox(self.uid)
        await self._gone.wait()  # a finalizer may keep the object, which is no reason to begin again

    async def _recover(self) -> None:
        """Take over what an earlier kubelet left."""
        by_name = {slot.name: slot for slot in self.slots}
        for container in self._context.runtime.containers(self.uid):
            if slot := by_name.get(container.name):
                slot.started(container)
                if not container.running:
                    slot.ended(await container.wait())
        self._sandbox = self._context.runtime.has_sandbox(self.uid)

    async def _live(self) -> None:
        """Run the containers. Returns when none is left to run."""
        if not any(map(self._may_start, self.slots)):
            return
        if not self._sandbox:
            await self._create_sandbox()
        async with asyncio.TaskGroup() as group:
            for slot in self.slots:
                group.create_task(self._keep(slot), name=f"{self.name}/{slot.name}")

    def _may_start(self, slot: Slot) -> bool:
        code = slot.exit_code
        return code is None or podspec.should_restart(self._policy, code)

    @property
    def _policy(self) -> str:
        return self.pod["spec"].get("restartPolicy") or "Always"

    async def _create_sandbox(self) -> None:
        if any(slot.container for slot in self.slots):
            self._event("Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        self._dirty.set()
        while True:
            self._wake.clear()
            try:
                await self._context.claims.prepare(self.pod)
                self._context.runtime.create_sandbox(self.pod)
            except DraError as error:
                self._event("Warning", "FailedPrepareDynamicResources", f"Failed to prepare dynamic resources: {error}")
            except OSError as error:
                self._event("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            else:
                self._sandbox = True
                self._dirty.set()
                return
            await self._pause(self._options.resync)

    async def _keep(self, slot: Slot) -> None:
        """Start a container, and again as its policy says. Returns when it stays ended."""
        delay = 0.0
        while True:
            if not slot.running:
                if not self._may_start(slot):
                    return
                if slot.exit_code is not None:
                    await self._back_off(slot, delay)
                    delay = min(delay * 2 or self._options.crash_backoff, self._options.crash_backoff_max)
                await self._start(slot)
            container = slot.process
            exit_ = await container.wait()
            slot.ended(exit_)
            self._dirty.set()
            if exit_.finished - container.started > self._options.crash_backoff_reset:
                delay = 0.0

    async def _back_off(self, slot: Slot, delay: float) -> None:
        if not delay:
            return
        metadata = self.pod["metadata"]
        pod = f"{metadata['name']}_{metadata['namespace']}({self.uid})"
        slot.waiting("CrashLoopBackOff", f"back-off {delay:g}s restarting failed container={slot.name} pod={pod}")
        self._event("Warning", "BackOff", f"Back-off restarting failed container {slot.name} in pod {pod}", slot)
        self._dirty.set()
        await asyncio.sleep(delay)

    async def _start(self, slot: Slot) -> None:
        """Try until the container has been started."""
        while True:
            self._wake.clear()
            try:
                container = await self._context.runtime.start(self.uid, self._launch(slot))
            except DraError as error:
                reason, message = "CreateContainerConfigError", str(error)
            except podspec.ConfigError as error:
                reason, message = "CreateContainerConfigError", str(error)
            except CreateError as error:
                reason, message = error.reason, str(error)
            else:
                slot.started(container)
                self._event("Normal", "Created", "Container created", slot)
                self._event("Normal", "Started", "Container started", slot)
                self._dirty.set()
                return
            slot.waiting(reason, message)
            self._event("Warning", "Failed", f"Error: {message}", slot)
            self._dirty.set()
            await self._pause(self._options.backoff)

    def _launch(self, slot: Slot) -> Launch:
        env = podspec.environment(self.pod, slot.spec)
        return Launch(
            name=slot.name,
            attempt=slot.attempt + 1 if slot.container else 0,
            argv=podspec.argv(slot.spec, env),
            env=env,
            workdir=slot.spec.get("workingDir") or "/",
            cdi_devices=self._context.claims.cdi_devices(self.pod, slot.spec),
        )

    async def _stop_containers(self) -> None:
        grace = self._grace()
        running = [slot for slot in self.slots if slot.running]
        for slot in running:
            self._event("Normal", "Killing", f"Stopping container {slot.name}", slot)
        await asyncio.gather(*(self._stop(slot, grace) for slot in running))

    async def _stop(self, slot: Slot, grace: float) -> None:
        slot.ended(await slot.process.stop(grace))
        self._dirty.set()

    def _grace(self) -> float:
        """Seconds; a pod that is being deleted may have got another one than its spec says."""
        metadata, spec = self.pod["metadata"], self.pod["spec"]
        for value in (metadata.get("deletionGracePeriodSeconds"), spec.get("terminationGracePeriodSeconds")):
            if value is not None:
                return max(float(value), 1.0)
        return DEFAULT_GRACE

    async def _unprepare(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._context.claims.unprepare(self.pod)
            except DraError as error:
                logger.warning("pod %s stays until its claims are unprepared: %s", self.name, error)
            else:
                return
            await self._pause(self._options.backoff)

    async def _delete(self) -> None:
        """Remove the object, which is what its deletion waits for."""
        path = pod_path(self.pod)
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": self.uid},
        }
        while not self._gone.is_set():
            try:
                await self._context.api.request("DELETE", path, body=body)
            except ApiError as error:
                if error.status in {404, 409}:  # gone, or another pod by that name
                    return
                logger.warning("cannot delete pod %s: %s", self.name, error)
                await asyncio.sleep(WRITE_RETRY)
            else:
                return

    def _status(self) -> dict[str, Any] | None:
        """None if there is nothing to say: the pod had ended before this kubelet saw it."""
        before = (self.pod.get("status") or {}).get("phase")
        if before in TERMINAL and not any(slot.container for slot in self.slots):
            return None
        status = podspec.pod_status(
            self.pod,
            self.slots,
            now=self._context.clock(),
            sandbox=self._sandbox,
            terminal=self.terminated,
            node_ip=NODE_IP,
            resources={
                slot.name: allocated_resources_status(
                    self.pod, slot.spec, self._context.claims.claims, self._context.health
                )
                for slot in self.slots
            },
        )
        if status["phase"] in TERMINAL and not self.terminated:
            status["phase"] = before or "Pending"  # the end is told when the devices have been given back
        return status

    def _written(self, pod: dict[str, Any]) -> None:
        self._context.put(pod)
        self.update(pod)

    def _update_stopping(self) -> None:
        if self.pod["metadata"].get("deletionTimestamp"):
            self._stopping.set()

    def _event(self, kind: str, reason: str, message: str, slot: Slot | None = None) -> None:
        field = f"spec.containers{{{slot.name}}}" if slot else ""
        self._context.recorder.record(self.pod, kind, reason, message, field=field)

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + 0.5 * random.random())  # noqa: S311

    async def _pause(self, seconds: float) -> None:
        """Wait, or until somebody changes the pod."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._jittered(seconds))


async def _until(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do the work; give it up when the event comes, do not even start when it is there."""
    if event.is_set():
        work.close()
        return
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in (task, stop):
            if not future.done():
                future.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)
    if not task.cancelled():
        task.result()


def _intent(pod: dict[str, Any]) -> Any:
    """What a user, or a controller, wants of the pod."""
    metadata = pod["metadata"]
    return (
        pod["spec"],
        metadata.get("labels"),
        metadata.get("annotations"),
        metadata.get("deletionTimestamp"),
        metadata.get("deletionGracePeriodSeconds"),
    )
