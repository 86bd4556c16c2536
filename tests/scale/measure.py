"""One mode from its first pod to its last: what is done in which order, and the numbers that are taken around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from driver.kube import RESOURCE, ApiError
from driver.sim.process import gpu_dra
from tests.scale.load import MODES, Load
from tests.scale.numbers import Numbers
from tests.scale.observer import Observer
from tests.scale.site import API_SERVER
from tests.scale.summary import components, parts, prepares, quantiles, requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scale.fleet import Fleet
    from tests.scale.site import Site

PATIENCE = 3600.0
"""Seconds. With partitions and a hundred nodes, 1.36 places a pod in a second and a half, on two cores."""
WRITES = "gpu_dra_slice_writes_total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How large, how long. Two results can be compared when these are equal."""

    nodes: int
    gpus: int
    """Of a node."""
    fill: float
    """Long pods, as a share of the GPUs."""
    times: int
    """How often each of the other GPUs gets another pod."""
    rate: float
    """Jobs that are created in a second."""
    seconds: float
    """For which a pod of those runs."""
    idle: float
    """Seconds in which nothing happens, to see what drivers do then."""
    burst: int
    """Pods that are created at once, for the scheduler's rate."""

    @property
    def long(self) -> int:
        """Pods that stay."""
        return round(self.nodes * self.gpus * self.fill)

    @property
    def short(self) -> int:
        """Jobs whose pods come and go."""
        return self.nodes * self.gpus - self.long


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that counts up, at one moment."""

    drivers: Numbers
    kubelets: Numbers
    components: dict[str, Numbers]
    cpu: float
    calls: int
    at: float

    @classmethod
    async def take(cls, site: Site, fleet: Fleet) -> Snapshot:
        """Reading it is work for the drivers, which is not counted as theirs between two snapshots."""
        cpu, at = fleet.cpu_seconds(), asyncio.get_running_loop().time()
        drivers, pages = await fleet.numbers(), await site.metrics()
        return cls(drivers, fleet.kubelets(), pages, cpu, len(fleet.calls.calls), at)


class Trial:
    """One mode. ``say`` is told what happens."""

    def __init__(self, site: Site, fleet: Fleet, mode: str, plan: Plan, say: Callable[[str], None]) -> None:
        self._site, self._fleet, self._mode, self._plan, self._say = site, fleet, mode, plan, say
        self._result: dict[str, Any] = {"title": MODES[mode].title, "plan": asdict(plan)}
        self._stored = 0.0
        self._namespace = f"scale-{mode}-{uuid.uuid4().hex[:5]}"
        self._load = Load(site.api, MODES[mode], self._namespace)

    async def run(self) -> dict[str, Any]:
        """All of it. Raises TimeoutError when pods do not come to what they should."""
        meta = {"name": self._namespace}
        await self._site.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        observer = Observer(self._site.api, self._namespace)
        async with observer.following():
            begin = await self._snapshot()
            try:
                await self._load.prepare()
                await self._burst(observer)
                await self._fill(observer)
                if MODES[self._mode].asks:
                    await self._idle()
                await self._churn(observer)
                if MODES[self._mode].asks:
                    await self._restart()
                    self._result["taint"] = await self._taint()
                    self._result["slices"] = await self._slices()
            finally:
                await self._clear(observer)
            self._finish(begin, await self._snapshot(), observer)
        return self._result

    async def _snapshot(self) -> Snapshot:
        taken = await Snapshot.take(self._site, self._fleet)
        page = taken.components.get(API_SERVER, Numbers())
        # An estimate of the server, now and then -1 for not known at the moment.
        size = page.total("apiserver_resource_size_estimate_bytes", resource="resourceslices")
        self._stored = size if size > 0 else self._stored
        return taken

    async def _burst(self, observer: Observer) -> None:
        count = self._plan.burst
        self._say(f"{count} pods at once")
        before = await self._snapshot()
        await self._load.burst(count)
        await observer.until(lambda: observer.count("running") >= count, within=PATIENCE, what=f"{count} pods run")
        after = await self._snapshot()
        lives = list(observer.lives.values())
        took = max(life.scheduled or 0.0 for life in lives) - min(life.created for life in lives)
        self._result["burst"] = {
            "scheduled_per_second": count / took,
            **self._between(before, after, 0, count),
        }
        await self._load.clear()
        await observer.until(lambda: not observer.left, within=PATIENCE, what="the pods are gone")
        observer.lives.clear()

    async def _fill(self, observer: Observer) -> None:
        count = self._plan.long
        self._say(f"{count} jobs, {self._plan.rate:g} a second")
        before = await self._snapshot()
        await self._load.jobs("long", count, rate=self._plan.rate, seconds=24 * 3600)
        await observer.until(lambda: observer.count("running") >= count, within=PATIENCE, what=f"{count} pods run")
        lives = list(observer.lives.values())
        after = await self._snapshot()
        self._result["fill"] = {**parts(lives), **self._between(before, after, before.calls, count)}

    async def _idle(self) -> None:
        self._say(f"nothing for {self._plan.idle:g} s")
        before = await self._snapshot()
        await asyncio.sleep(self._plan.idle)
        after = await self._snapshot()
        seconds = after.at - before.at
        self._result["idle"] = {
            "seconds": seconds,
            "requests": requests(after.drivers.since(before.drivers)),
            "cpu_of_a_core": (after.cpu - before.cpu) / seconds / self._plan.nodes,
        }

    async def _churn(self, observer: Observer) -> None:
        jobs, times = self._plan.short, self._plan.times
        known = set(observer.lives)
        wanted = observer.count("ended") + jobs * times
        rolling = bool(MODES[self._mode].asks)
        self._say(f"{jobs} x {times} pods" + (", and all drivers replaced one after the other" if rolling else ""))
        before = await self._snapshot()
        async with asyncio.TaskGroup() as group:
            group.create_task(
                self._load.jobs("short", jobs, rate=self._plan.rate, seconds=self._plan.seconds, completions=times)
            )
            if rolling:
                await observer.until(
                    lambda: observer.count("ended") > 0, within=PATIENCE, what="the first pod has ended"
                )
                started = asyncio.get_running_loop().time()
                await self._fleet.roll(lambda done: self._say(f"{done} of {self._plan.nodes} drivers replaced"))
                self._result["rolling_seconds"] = asyncio.get_running_loop().time() - started
        await observer.until(lambda: observer.count("ended") >= wanted, within=PATIENCE, what=f"{wanted} pods ended")
        lives = [life for name, life in observer.lives.items() if name not in known]
        after = await self._snapshot()
        self._result["churn"] = {**parts(lives), **self._between(before, after, before.calls, jobs * times)}

    async def _restart(self) -> None:
        self._say("all drivers restarted at once")
        before = await self._snapshot()
        started = asyncio.get_running_loop().time()
        await self._fleet.restart_at_once()
        seconds = asyncio.get_running_loop().time() - started
        after = await self._snapshot()
        grown = after.drivers.since(before.drivers)
        self._result["restart"] = {
            "seconds": seconds,
            "requests": requests(grown),
            "slice_writes": grown.total(WRITES),
        }

    async def _taint(self) -> dict[str, Any]:
        """One GPU of one node breaks: writes, and the bytes of the slices that changed."""
        self._say("a GPU breaks")
        node = self._fleet.nodes[0]
        before, versions = await self._fleet.numbers(), await self._published(node.name)
        fault = [*gpu_dra("fault"), f"--kubelet-plugins-dir={node.kubelet.plugins_dir}", "--device=gpu-0"]
        await _run(*fault, "--xid=79")
        changed: list[dict[str, Any]] = []
        async with asyncio.timeout(PATIENCE):
            while not changed:
                await asyncio.sleep(1)
                now = await self._published(node.name)
                changed = [obj for name, obj in now.items() if obj != versions.get(name)]
        await asyncio.sleep(2)
        grown = (await self._fleet.numbers()).since(before)
        await _run(*fault, "--clear")
        return {"slice_writes": grown.total(WRITES), "bytes": [len(_compact(obj)) for obj in changed]}

    async def _slices(self) -> dict[str, Any]:
        """What is published, as JSON as the driver sends it, and as the server says that it is stored (protobuf)."""
        found = list((await self._published()).values())
        sizes = [len(_compact(obj)) for obj in found]
        return {
            "slices": len(found),
            "devices": sum(len(obj["spec"].get("devices") or ()) for obj in found),
            "json_bytes": sum(sizes),
            "largest_json_bytes": max(sizes),
            "stored_bytes": self._stored,
        }

    async def _published(self, node: str = "") -> dict[str, dict[str, Any]]:
        query = {"fieldSelector": f"spec.nodeName={node}"} if node else None
        found = await self._site.api.get(f"{RESOURCE}/resourceslices", query, timeout=60)
        return {obj["metadata"]["name"]: obj for obj in found["items"]}

    async def _clear(self, observer: Observer) -> None:
        self._say("everything is deleted")
        with contextlib.suppress(ApiError):
            await self._load.clear()
        await observer.until(lambda: not observer.left, within=PATIENCE, what="pods and claims are gone")

    def _finish(self, begin: Snapshot, end: Snapshot, observer: Observer) -> None:
        kubelets = end.kubelets.since(begin.kubelets)
        failed = {
            name: int(kubelets.total("dra_operations_duration_seconds_count", operation_name=name, is_error="true"))
            for name in ("PrepareResources", "UnprepareResources")
        }
        memory = [driver.memory_mib() for driver in self._fleet.drivers]
        self._result |= {
            "failed": failed,
            "failed_calls": sum(code != "OK" for _, code, _ in self._fleet.calls.calls[begin.calls :]),
            "left": self._fleet.left(),
            "refused_429": end.drivers.since(begin.drivers).total("gpu_dra_api_requests_total", code="429"),
            "driver_mib": {
                "resident": sum(rss for rss, _ in memory) / len(memory),
                "proportional": sum(pss for _, pss in memory) / len(memory),
            },
            "observer_lag_ms": quantiles([lag * 1000 for lag in observer.lags]),
        }

    def _between(self, before: Snapshot, after: Snapshot, first_call: int, pods: int) -> dict[str, Any]:
        grown = after.drivers.since(before.drivers)
        seconds = after.at - before.at
        pages = {name: page.since(before.components[name]) for name, page in after.components.items()}
        return {
            "seconds": seconds,
            "pods": pods,
            "prepare": prepares(self._fleet.calls.calls[first_call or before.calls :], grown),
            "requests": requests(grown),
            "requests_per_pod": {verb: count / pods for verb, count in requests(grown).items()},
            "driver_cpu_seconds": after.cpu - before.cpu,
            "components": components(pages, after.components, seconds),
        }


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait():
        raise RuntimeError(f"{' '.join(command)} failed")


def _compact(obj: dict[str, Any]) -> str:
    return json.dumps(obj, separators=(",", ":"))
