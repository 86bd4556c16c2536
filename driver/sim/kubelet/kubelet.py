"""The kubelet of the embedded node: what runs, in which order it starts, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from driver.kube import Mirror
from driver.sim.events import Recorder
from driver.sim.kubelet.cdi import CdiCache
from driver.sim.kubelet.containers import Runtime
from driver.sim.kubelet.health import HealthCache, HealthWatcher
from driver.sim.kubelet.manager import ClaimManager
from driver.sim.kubelet.metrics import KubeletMetrics
from driver.sim.kubelet.node import NodeReporter
from driver.sim.kubelet.options import Options
from driver.sim.kubelet.plugins import PluginStore
from driver.sim.kubelet.pods import TERMINAL, PodContext, PodWorker
from driver.sim.kubelet.registration import PluginManager

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from driver.kube import Api

logger = logging.getLogger(__name__)

SHUTDOWN_GRACE = 2.0


class Kubelet:
    """One node. ``run`` works until it is cancelled; a new one on the same ``root_dir`` is a restarted kubelet."""

    def __init__(
        self,
        *,
        api: Api,
        node_name: str,
        root_dir: Path,
        cdi_dirs: Sequence[Path],
        options: Options | None = None,
        clock: Callable[[], float] = time.time,
        runtime: type[Runtime] = Runtime,
    ) -> None:
        self._api = api
        self._options = options or Options()
        self.node_name = node_name
        self.plugins_dir = root_dir / "plugins"
        self.registry_dir = root_dir / "plugins_registry"
        for directory in (self.plugins_dir, self.registry_dir):
            directory.mkdir(parents=True, exist_ok=True)
        self.metrics = KubeletMetrics()
        self.health = HealthCache(clock=clock)
        self.cdi = CdiCache(cdi_dirs)
        self.runtime = runtime(root_dir / "pods", cdi=self.cdi, outlive=self._options.on_shutdown == "leave")
        now = lambda: datetime.fromtimestamp(clock(), UTC)  # noqa: E731
        self.recorder = Recorder(api, "kubelet", clock=now, host=node_name)
        watcher = HealthWatcher(cache=self.health, options=self._options, changed=self._health_changed)
        self.plugins = PluginStore(
            api=api, node_name=node_name, options=self._options, metrics=self.metrics, run_health=watcher.run
        )
        self.claims = ClaimManager(
            api=api, plugins=self.plugins, state_file=root_dir / "dra_manager_state", metrics=self.metrics
        )
        self._plugin_manager = PluginManager(
            registry_dir=self.registry_dir, store=self.plugins, options=self._options, metrics=self.metrics
        )
        self.node = NodeReporter(api=api, name=node_name, period=self._options.node_status_period, clock=clock)
        self.started = asyncio.Event()
        """Set when the slices of the node have been deleted, as at each start; what is published from here on stays."""
        self._pods_changed = asyncio.Event()
        self.pods = Mirror(
            api,
            "/api/v1/pods",
            {"fieldSelector": f"spec.nodeName={node_name}"},
            changed=lambda _key: self._pods_changed.set(),
        )
        self._context = PodContext(
            api=api,
            claims=self.claims,
            runtime=self.runtime,
            health=self.health,
            recorder=self.recorder,
            options=self._options,
            clock=clock,
            put=self.pods.put,
        )
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._orphans: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Be a kubelet until cancelled; then containers are stopped, or left to the next one, as the options say."""
        with self.cdi.watching():
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.recorder.run(), name="events")
                    group.create_task(self.node.run(), name="node")
                    group.create_task(self._wipe_slices(), name="wipe slices at start")
                    group.create_task(self._plugin_manager.run(), name="plugin manager")
                    group.create_task(self.pods.run(), name="mirror of pods")
                    group.create_task(self._run_pods(), name="pods")
                    group.create_task(self._reconcile_claims(), name="claims of vanished pods")
            finally:
                await self._shut_down()

    def read_log(self, namespace: str, pod: str, container: str = "") -> str:
        """What a container has written so far. Raises LookupError if that is not known."""
        named = [
            worker
            for worker in self._workers.values()
            if (worker.pod["metadata"]["namespace"], worker.pod["metadata"]["name"]) == (namespace, pod)
        ]
        if not named:
            raise LookupError(f'pod "{pod}" not found on node {self.node_name}')
        slots = [slot for slot in named[-1].slots if container in {slot.name, ""}]
        if len(slots) != 1:
            names = " ".join(slot.name for slot in named[-1].slots)
            raise LookupError(f"a container name must be specified for pod {pod}, choose one of: [{names}]")
        path = self.runtime.log_file(named[-1].uid, slots[0].name, slots[0].attempt)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    async def _wipe_slices(self) -> None:
        await self.node.ready.wait()
        await self.plugins.wipe_all()
        self.started.set()

    async def _run_pods(self) -> None:
        await self.pods.synced.wait()
        known = {pod["metadata"]["uid"] for pod in self.pods.objects.values()}
        for uid in self.runtime.sandboxes():
            if uid not in known:
                self._spawn_orphan_killer(uid)
        while True:
            self._pods_changed.clear()
            self._sync_workers()
            await self._pods_changed.wait()

    def _sync_workers(self) -> None:
        current = {pod["metadata"]["uid"]: pod for pod in self.pods.objects.values()}
        for uid, pod in current.items():
            worker = self._workers.get(uid)
            if worker is None:
                self._start_worker(uid, PodWorker(pod, self._context))
            elif worker.pod is not pod:
                worker.update(pod)
        for uid in self._workers.keys() - current.keys():
            self._workers[uid].gone()

    def _start_worker(self, uid: str, worker: PodWorker) -> None:
        task = asyncio.create_task(worker.run(), name=f"pod {worker.name}")
        self._workers[uid] = worker
        self._tasks[uid] = task

        def done(finished: asyncio.Task[None]) -> None:
            if not finished.cancelled() and (error := finished.exception()):
                logger.error("worker of pod %s failed, another one follows", worker.name, exc_info=error)
                asyncio.get_running_loop().call_later(self._options.backoff, forget, finished)
            else:
                forget(finished)

        def forget(finished: asyncio.Task[None]) -> None:
            if self._tasks.get(uid) is finished:
                del self._tasks[uid], self._workers[uid]
                self._pods_changed.set()

        task.add_done_callback(done)

    def _spawn_orphan_killer(self, uid: str) -> None:
        async def kill() -> None:
            logger.info("stopping containers of pod %s, which is no more", uid)
            await asyncio.gather(*(container.stop(SHUTDOWN_GRACE) for container in self.runtime.containers(uid)))
            self.runtime.remove_sandbox(uid)

        task = asyncio.create_task(kill(), name=f"orphan {uid}")
        self._orphans.add(task)
        task.add_done_callback(self._orphans.discard)

    async def _reconcile_claims(self) -> None:
        await self.pods.synced.wait()
        while True:
            await asyncio.sleep(self._options.claim_reconcile)
            for error in await self.claims.reconcile(self._active_pods()):
                logger.warning("unpreparing for a pod that is no more failed, will try again: %s", error)

    def _active_pods(self) -> set[str]:
        """Pods that may hold claims. A pod that was deleted by force is not one, even while its containers end."""
        return {
            uid
            for uid, pod in ((pod["metadata"]["uid"], pod) for pod in self.pods.objects.values())
            if not self._finished(uid, pod)
        }

    def _finished(self, uid: str, pod: Mapping[str, Any]) -> bool:
        worker = self._workers.get(uid)
        return worker.terminated if worker else (pod.get("status") or {}).get("phase") in TERMINAL

    def _health_changed(self, driver: str, devices: set[tuple[str, str]]) -> None:
        for uid in self.claims.pods_using(driver, devices):
            if worker := self._workers.get(uid):
                worker.refresh_status()

    async def _shut_down(self) -> None:
        tasks = [*self._tasks.values(), *self._orphans]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._options.on_shutdown == "stop":
            uids = self.runtime.sandboxes()
            containers = [container for uid in uids for container in self.runtime.containers(uid)]
            await asyncio.gather(*(container.stop(SHUTDOWN_GRACE) for container in containers))
            for uid in uids:
                self.runtime.kill_sandbox(uid)
        await self.plugins.close()
