"""The story, chapter by chapter. Each says what it shows, does it, and checks that it is so."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from driver.kube import RESOURCE, claim_path
from driver.sim.demo import examples
from driver.sim.demo.workloads import PATIENCE, NotSeenError, StepError, count, load_examples

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from driver.sim.demo.node import Node
    from driver.sim.demo.screen import Screen
    from driver.sim.demo.workloads import Example, Workloads

UPGRADE_PODS = 40
AT_ONCE = 4
SICK_JOB = "job-survives-a-sick-gpu"
SHARING = ("shares-of-memory", "mps", "time-slicing", "shared-resource", "mps-resource")
BUDGET = "gpu-hours"
OPERATION = ("maintenance", "quota", "batch-job", "resize")
SLICES = f"{RESOURCE}/resourceslices"
CLAIMS = f"{RESOURCE}/resourceclaims"
SHOWN = "fake:h100x8"
"""The devices on which every example has to run."""
JOB_LABELS = {"batch.kubernetes.io/job-name": "job-survives"}


class Story:
    """The chapters. Each raises StepError or NotSeenError at the first thing that is not as it says."""

    def __init__(self, node: Node, workloads: Workloads, screen: Screen) -> None:
        self.node = node
        self.workloads = workloads
        self.screen = screen
        self.examples = load_examples()
        self._gpus: list[dict[str, Any]] = []
        self._partitions = 0

    def chapters(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """The chapters in their order, by title."""
        return {
            "A node with GPUs appears": self.node_appears,
            "Pods get GPUs, one example of deploy/examples/ after another": self.pods_get_gpus,
            "One GPU is cut into seven, then used as one, then as three different ones": self.gpu_is_cut,
            "One GPU is shared: by claims with parts of its memory, by processes": (self.gpu_is_shared),
            "An ordinary day: maintenance, a quota, a batch job, a resize": self.cluster_is_operated,
            "A GPU fails under a running pod": self.gpu_fails,
            "The driver is killed and comes back": self.driver_is_killed,
            "The driver is upgraded in place while pods keep starting": self.driver_is_upgraded,
            "Everything is deleted, and nothing is left": self.nothing_is_left,
        }

    async def node_appears(self) -> None:
        """A driver starts, registers and publishes."""
        started = time.monotonic()
        await self.node.start_driver()
        self.screen.done(
            "driver registered", f"with the kubelet of {self.node.cluster.node_name}", took=_since(started)
        )
        slices = await self.workloads.seen(self._complete_pool, what="the driver publishes its GPUs")
        gpus = [device for device in _devices(slices) if _attribute(device, "type") == "gpu"]
        self._gpus = gpus
        self._partitions = len(_devices(slices)) - len(gpus)
        offered = count(len(gpus), "whole GPU")
        if self._partitions:
            offered += f", {count(self._partitions, 'partition')}"
        self.screen.done("GPUs published", f"{offered}, in {count(len(slices), 'ResourceSlice')}")
        self.screen.table(
            {name: [read(gpu) for gpu in gpus] for name, read in COLUMNS.items()},
            spare=("MEMORY", "NUMA", "CUDA", "PCI ADDRESS"),
        )

    async def pods_get_gpus(self) -> None:
        """Every example runs and gets what it asks for."""
        elsewhere = (SICK_JOB, *SHARING, *OPERATION)
        for example in self.examples:
            if not example.name.endswith(elsewhere) and not example.needs_partitions:
                await self._try(example)

    async def gpu_is_cut(self) -> None:
        """One GPU as seven small ones, then as a big one, then mixed."""
        if not self._partitions:
            self.screen.note("left out: GPUs of this kind cannot be partitioned while they run")
            return
        for example in self.examples:
            if not example.needs_partitions:
                continue
            devices = await self._try(example)
            if len({device.partition("-mig-")[0] for device in devices}) > 1:
                raise StepError(f"partitions of one GPU are expected, {example.name} has {devices}")
            await self.workloads.seen(self._nothing_held, what="all partitions are undone")
        self.screen.done("partitions", "gone with the pods: no record and no CDI spec is left of them")

    async def gpu_is_shared(self) -> None:
        """Claims share a device, processes share a claim."""
        for example in self.examples:
            if example.name.endswith(SHARING):
                await self._try(example)

    async def cluster_is_operated(self) -> None:
        """What administrators and users do on an ordinary day."""
        for example in self.examples:
            if example.name.endswith(OPERATION):
                await self._try(example)

    async def _try(self, example: Example) -> list[str]:
        """Run an example and delete it again. Returns the devices that its containers got."""
        if missing := self._missing(example):
            self.screen.note(f"{example.name} is left out: {missing}")
            return []
        started = time.monotonic()
        self.screen.waiting(f"{example.name}: {example.title}")
        own = self.node.devices == SHOWN
        try:
            devices = await examples.run(self.workloads, example, within=PATIENCE if own else 10.0)
        except NotSeenError:
            if own or not await examples.unschedulable(self.workloads, example):
                raise
            self.screen.note(f"{example.name} is left out: this node has no such devices")
            await self.workloads.delete(obj for obj in example.objects if obj["kind"] != "DeviceClass")
            return []
        examples.check_number(example, devices, gpus=len(self._gpus))
        if example.name.endswith("quota"):
            await self.workloads.seen(
                lambda: self.workloads.events("FailedResourceClaimCreation"), what="the quota refuses a second GPU"
            )
        if example.name.endswith("resize"):
            await examples.resize(self.workloads, example)
        took = _since(started) if devices else ""
        self.screen.done(example.name, example.title, got=examples.summary(devices), took=took)
        await self.workloads.delete(obj for obj in example.objects if obj["kind"] != "DeviceClass")
        return devices

    async def gpu_fails(self) -> None:
        """A fatal error taints the GPU; its pod is evicted and runs elsewhere."""
        [job] = [example for example in self.examples if example.name.endswith(SICK_JOB)]
        if missing := self._missing(job):
            self.screen.note(f"{job.name} is left out: {missing}")
            return
        await self.workloads.apply(job.objects)
        first, device = await self._running(job)
        self.screen.done("pod runs", f"{first} on {device}")

        started = time.monotonic()
        await self._fault(device, "--xid", "79")
        taint = await self.workloads.seen(lambda: self._taint(device), what=f"a taint on {device}")
        text = f"{taint['key']}={taint['value']}:{taint['effect']}"
        self.screen.done("device tainted", text, took=_since(started))

        async def evicted() -> bool:
            events = await self.workloads.events("DeviceTaintManagerEviction")
            return any(event["involvedObject"]["name"] == first for event in events)

        await self.workloads.seen(evicted, what=f"the eviction of {first}")
        self.screen.done("pod evicted", first, took=_since(started))
        second, other = await self._running(job, after=first)
        if other == device:
            raise StepError(f"pod {second} runs on {device}, which has failed")
        self.screen.done("runs again", f"{second} on {other}", took=_since(started))

        await self._fault(device, "--clear")

        async def mended() -> bool:
            return await self._taint(device) is None

        await self.workloads.seen(mended, what=f"{device} without a taint")
        self.screen.done("GPU mended", f"the taint of {device} is gone")

    async def driver_is_killed(self) -> None:
        """SIGKILL, a restart, and nothing is different."""
        [job] = [example for example in self.examples if example.name.endswith(SICK_JOB)]
        if not await self.workloads.pods(**JOB_LABELS):
            await self.workloads.apply(job.objects)
        pod, device = await self._running(job)
        running, before = await self._running_pods(), await self._traces()
        if not running:
            raise StepError(f"pod {pod} is said to run on {device}, and has no process")
        started = time.monotonic()
        sockets = self.node.sockets()
        killed = await self.node.kill_driver()
        if self.node.sockets() != sockets:
            raise StepError(
                f"a driver that is killed leaves its sockets: {sockets} are expected, {self.node.sockets()}"
            )
        self.screen.done("SIGKILL", f"process {killed.pid} is gone, its sockets are still there")
        await self.node.start_driver(pod_uid=killed.pod_uid)
        if self.node.sockets() != sockets:
            raise StepError(f"the sockets {sockets} are expected again, there are {self.node.sockets()}")
        self.screen.done("registered again", "at the same sockets", took=_since(started))
        if (after := await self._running_pods()) != running:
            raise StepError(f"pods were {running} before the driver was killed, and are {after}")
        same = "the same process, never restarted"
        self.screen.done(
            "pods ran on", f"{pod} on {device}: {same}" if len(running) == 1 else f"{len(running)}: {same}"
        )
        now = await self._traces()
        if changed := [what for what, traces in before.items() if now[what] != traces]:
            raise StepError(f"{' and '.join(changed)} are not what they were")
        self.screen.done("nothing has changed", "records, CDI specs and ResourceSlices are what they were")
        await self.workloads.delete(job.objects)  # there may be no second GPU for what comes next

    async def _running_pods(self) -> dict[str, Any]:
        """By pod that is to stay: its containers' processes, and how often they were started again."""
        pods = [
            pod
            for pod in await self.workloads.pods()
            if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]
        return {
            pod["metadata"]["name"]: (
                self.node.processes([pod["metadata"]["uid"]]),
                [status["restartCount"] for status in pod["status"]["containerStatuses"]],
            )
            for pod in pods
        }

    async def driver_is_upgraded(self) -> None:
        """A new instance takes over while pods start."""
        example = next(e for e in self.examples if e.name.endswith("single-gpu"))
        [template] = example.of_kind("Pod")
        await self.workloads.apply(example.of_kind("ResourceClaimTemplate"))
        failures = self.node.failures()
        old = self.node.driver
        started = time.monotonic()
        pods = asyncio.create_task(self._start_pods(template))
        try:
            await self.workloads.seen(lambda: self._pods_done(UPGRADE_PODS // 4), what="a quarter of the pods have run")
            new = await self.node.start_driver()
            if old.status is not None or new.status is not None:
                raise StepError(f"two instances are expected to run; their status: {old.status}, {new.status}")
            self.screen.done("new instance registered", "both serve the node for a while")
            await self.workloads.seen(lambda: self._pods_done(UPGRADE_PODS // 2), what="half of the pods have run")
            self.screen.waiting("the old instance ends")
            await self.node.stop_driver(old)
            self.screen.done("old instance stopped", "with status 0, after it finished what it had begun")
            self.screen.waiting("the other half of the pods")
            await pods
        finally:
            pods.cancel()
        failed = self.node.failures() - failures
        kubelet_events = await self.workloads.events("FailedPrepareDynamicResources")
        if failed or kubelet_events:
            reasons = [event["message"] for event in kubelet_events]
            raise StepError(f"{count(failed, 'prepare')} failed during the upgrade: {reasons}")
        self.screen.done("pods started meanwhile", f"{UPGRADE_PODS}, and not one prepare failed", took=_since(started))

    async def nothing_is_left(self) -> None:
        """Everything goes, and leaves nothing behind."""
        await self.workloads.delete_all()
        await self.workloads.seen(self._nothing_held, what="no record and no CDI spec")

        async def no_objects() -> bool:
            return not await self.workloads.collection(CLAIMS) and not await self.workloads.collection("/api/v1/pods")

        await self.workloads.seen(no_objects, what="no pod and no claim")
        self.screen.done("pods and claims", "gone")
        self.screen.done("records and CDI specs", "gone")
        self.screen.waiting("the driver ends")
        await self.node.stop_driver(self.node.driver)
        if sockets := self.node.sockets():
            raise StepError(f"the driver ended and left {sockets}")
        self.screen.done("sockets", "gone with the driver, which ended with status 0")

    async def _fault(self, device: str, *arguments: str) -> None:
        self.screen.command(f"gpu-dra fault --device {device} {' '.join(arguments)}")
        await self.node.fault(device, *arguments)

    async def _taint(self, device: str) -> dict[str, Any] | None:
        for found in _devices(await self.workloads.collection(SLICES)):
            if found["name"] == device and found.get("taints"):
                taint: dict[str, Any] = found["taints"][0]
                return taint
        return None

    async def _traces(self) -> dict[str, list[Any]]:
        """What there is to be seen of the driver besides its process."""
        slices = [(obj["metadata"]["resourceVersion"], obj["spec"]) for obj in await self.workloads.collection(SLICES)]
        return {"records": self.node.records(), "CDI specs": self.node.specs(), "ResourceSlices": slices}

    async def _complete_pool(self) -> list[dict[str, Any]] | None:
        slices = await self.workloads.collection(SLICES)
        return slices if slices and len(slices) == slices[0]["spec"]["pool"]["resourceSliceCount"] else None

    async def _running(self, job: Example, *, after: str = "") -> tuple[str, str]:
        """The running pod of a Job and its device; another one than ``after``."""

        async def running() -> tuple[str, str] | None:
            for pod in await self.workloads.pods(**JOB_LABELS):
                name, status = pod["metadata"]["name"], pod["status"]
                if name == after or status.get("phase") != "Running" or "deletionTimestamp" in pod["metadata"]:
                    continue
                for statuses in status.get("resourceClaimStatuses") or []:
                    path = claim_path("default", statuses["resourceClaimName"])
                    claim = await self.node.cluster.api.get(path)
                    [result] = claim["status"]["allocation"]["devices"]["results"]
                    return name, result["device"]
            return None

        return await self.workloads.seen(running, what=f"a running pod of {job.name}")

    async def _start_pods(self, template: dict[str, Any]) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with slots:
                metadata = {"name": f"upgrade-{number}", "labels": {"story": "upgrade"}}
                pod = {**template, "metadata": metadata}
                await self.workloads.apply([pod])
                await examples.pod_devices(self.workloads, pod)

        async with asyncio.TaskGroup() as group:
            for number in range(UPGRADE_PODS):
                group.create_task(one(number))

    async def _pods_done(self, number: int) -> bool:
        pods = await self.workloads.pods(story="upgrade")
        return bool(sum(pod["status"].get("phase") == "Succeeded" for pod in pods) >= number)

    def _missing(self, example: Example) -> str:
        """What the node lacks for an example, empty if nothing."""
        if example.unknown_kinds:
            return f"it needs a whole cluster, with {' and '.join(sorted(example.unknown_kinds))}"
        if example.needs_driver:
            return f"it needs the driver {example.needs_driver} as well"
        if example.name.endswith(BUDGET):
            return "it needs the accountant, and minutes"
        if example.needs_shares and not any(gpu.get("allowMultipleAllocations") for gpu in self._gpus):
            return "it needs a GPU that claims share"
        if example.needs_exclusive and all(gpu.get("allowMultipleAllocations") for gpu in self._gpus):
            return "it needs a GPU that claims do not share"
        alike = Counter(_attribute(gpu, example.together) if example.together else "" for gpu in self._gpus)
        alike.pop("-", 0)  # those without the attribute have nothing in common
        if max(alike.values(), default=0) < example.needs_gpus:
            number = example.needs_gpus
            if example.together and number <= len(self._gpus):
                what = example.together.rpartition("/")[2]
                return f"it needs {number} GPUs with the same {what}, and no {number} GPUs of this node share one"
            return f"it needs {count(number, 'GPU')}, and this node has {len(self._gpus) or 'none'}"
        return ""

    async def _nothing_held(self) -> bool:
        """Whether no generated claim is left, and nothing of one on the node."""
        claims = await self.workloads.collection(CLAIMS)
        held = any((claim.get("status") or {}).get("allocation") for claim in claims)
        return not held and not self.node.records() and not self.node.specs()


def _devices(slices: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [device for obj in slices for device in obj["spec"].get("devices") or []]


def _attribute(device: dict[str, Any], name: str) -> str:
    return next((str(value) for value in device["attributes"].get(name, {}).values()), "-")


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.2f} s"


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "DEVICE": lambda device: str(device["name"]),
    "PRODUCT": lambda device: _attribute(device, "productName"),
    "MEMORY": lambda device: str(device.get("capacity", {}).get("memory", {}).get("value", "-")),
    "CUDA": lambda device: _attribute(device, "cudaComputeCapability"),
    "NUMA": lambda device: _attribute(device, "resource.kubernetes.io/numaNode"),
    "PCI ADDRESS": lambda device: _attribute(device, "resource.kubernetes.io/pciBusID"),
    "UUID": lambda device: _attribute(device, "uuid"),
}
