"""The story, chapter by chapter. Each chapter says what it shows, does it, and checks that it is so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from prometheus_client import start_http_server

from driver.kube.client import MERGE_PATCH, RESOURCE, ApiError, claim_path
from driver.sim.cluster import Cluster, ClusterError
from driver.sim.demo import examples
from driver.sim.demo.examples import StepError
from driver.sim.demo.screen import Screen, print_json
from driver.sim.demo.workloads import Example, NotSeenError, Workloads, load_examples, seen
from driver.sim.kubelet import Options
from driver.sim.process import DriverProcess, gpu_dra

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable

UPGRADE_PODS = 40
AT_ONCE = 4
LOOK_SECONDS = 0.2
SICK_JOB = "job-survives-a-sick-gpu"
SHARING = ("shares-of-memory", "mps", "time-slicing")
OPERATION = ("maintenance", "quota", "batch-job", "resize")
NODE_CONFIG = """\
gpus:
- match: {name: gpu-7}  # the last one is for claims that want a part of a GPU only
  partitioning: none
  shares: memory
"""
SLICES = f"{RESOURCE}/resourceslices"
CLAIMS = f"{RESOURCE}/resourceclaims"


def run_demo(*, devices: str, as_json: bool) -> int:
    """Tell the whole story. Returns 0 if everything did what it says, else 1."""
    return asyncio.run(_tell(devices=devices, as_json=as_json))


def serve(*, devices: str) -> int:
    """Bring up the cluster with a driver and keep both until Ctrl-C."""
    return asyncio.run(_serve(devices=devices))


async def _tell(*, devices: str, as_json: bool) -> int:
    screen = Screen(quiet=as_json)
    screen.title(
        "gpu-dra demo", f"A Kubernetes cluster in one process, and a real driver beside it (devices: {devices})."
    )
    started = time.monotonic()
    outcome: dict[str, Any] = {"ok": False, "devices": devices, "chapters": []}
    try:
        async with _stage(devices) as story:
            story.screen = screen
            for chapter in (
                story.node_appears,
                story.pods_get_gpus,
                story.gpu_is_cut,
                story.gpu_is_shared,
                story.cluster_is_operated,
                story.gpu_fails,
                story.driver_is_killed,
                story.driver_is_upgraded,
                story.nothing_is_left,
            ):
                begun = time.monotonic()
                await story.cluster.or_failure(story.while_drivers_live(chapter()))
                outcome["chapters"].append({"name": chapter.__name__, "seconds": round(time.monotonic() - begun, 3)})
            outcome["prepare_ms"] = story.latencies("prepared claim")
            outcome["unprepare_ms"] = story.latencies("unprepared claim")
            outcome["failed_prepares"] = story.failures()
        outcome["ok"] = True
    except (StepError, NotSeenError, ApiError, ClusterError, TimeoutError) as error:
        outcome["error"] = str(error) or type(error).__name__
        screen.failed("stopped here", outcome["error"])
    outcome["seconds"] = round(time.monotonic() - started, 1)
    if as_json:
        print_json(outcome)
    else:
        screen.summary(_facts(outcome), ok=outcome["ok"])
    return 0 if outcome["ok"] else 1


async def _serve(*, devices: str) -> int:
    screen = Screen(quiet=False)
    screen.title(
        "gpu-dra demo --serve", f"A Kubernetes cluster in one process, and a real driver beside it ({devices})."
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with _stage(devices) as story:
            story.screen = screen
            await story.cluster.or_failure(story.while_drivers_live(story.node_appears()))
            await story.workloads.apply(obj for e in story.examples for obj in e.of_kind("DeviceClass"))
            screen.chapter("The cluster is yours until Ctrl-C")
            screen.command(f"export KUBECONFIG={story.cluster.kubeconfig}")
            screen.command("kubectl get resourceslices")
            screen.command("kubectl apply -f deploy/examples/01-single-gpu.yaml")
            screen.command("kubectl get pods,resourceclaims; kubectl logs single-gpu")
            screen.command(f"gpu-dra fault --device gpu-0 --xid 79 --kubelet-plugins-dir {story.cluster.plugins_dir}")
            kubelet_metrics, _ = start_http_server(0, addr="127.0.0.1", registry=story.cluster.kubelet.metrics.registry)
            screen.note(f"metrics of the kubelet: http://127.0.0.1:{kubelet_metrics.server_port}/metrics")
            screen.note(f"metrics of the driver: http://127.0.0.1:{story.driver.http_port}/metrics")
            screen.note(f"log of the driver: {story.driver.log_path}")
            await story.cluster.or_failure(stop.wait())
    except (NotSeenError, ApiError, ClusterError, TimeoutError) as error:
        screen.failed("stopped here", str(error) or type(error).__name__)
        return 1
    return 0


@contextlib.asynccontextmanager
async def _stage(devices: str) -> AsyncIterator[Story]:
    # Short, because sockets have to fit below it.
    root = Path(tempfile.mkdtemp(prefix="gpu-dra-"))
    # What the cluster's parts have to say must not fall between the lines of the story.
    logging.basicConfig(filename=root / "cluster.log", level=logging.INFO, force=True)
    try:
        # The wait before slices are deleted is the real one: a driver that is killed comes back sooner, also on a slow
        # machine.
        async with Cluster(root, options=Options.quick(wiping_delay=30.0)) as cluster:
            story = Story(cluster, devices)
            try:
                yield story
            finally:
                for driver in story.drivers:
                    await driver.kill()
    finally:
        shutil.rmtree(root, ignore_errors=True)


SHOWN = "fake:h100x8"
"""The devices on which every example has to run."""


class Story:
    """The chapters. Each raises StepError or NotSeenError at the first thing that is not as it says."""

    screen: Screen

    def __init__(self, cluster: Cluster, devices: str) -> None:
        self.cluster = cluster
        self.devices = devices
        self.examples = load_examples()
        self.workloads = Workloads(cluster.api)
        self.drivers: list[DriverProcess] = []
        self._ended: list[DriverProcess] = []
        self._gpus: list[dict[str, Any]] = []
        self._partitions = 0

    @property
    def driver(self) -> DriverProcess:
        """The newest instance."""
        return self.drivers[-1]

    async def while_drivers_live(self, chapter: Coroutine[Any, Any, None]) -> None:
        """Tell a chapter. Raises StepError as soon as a driver ends that the story has not ended itself."""
        telling = asyncio.create_task(chapter)
        try:
            while not telling.done():
                dead = next((one for one in self.drivers if one.status is not None and one not in self._ended), None)
                if dead is not None:
                    raise StepError(f"the driver has ended with status {dead.status}: {dead.log[-500:]}")
                await asyncio.wait({telling}, timeout=LOOK_SECONDS)
        finally:
            telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await telling

    async def node_appears(self) -> None:
        """A driver starts, registers and publishes."""
        self.screen.chapter("A node with GPUs appears")
        started = time.monotonic()
        await self._start_driver()
        self.screen.done("driver registered", f"with the kubelet of {self.cluster.node_name}", _since(started))
        slices = await seen(self._complete_pool, what="the driver publishes its GPUs")
        gpus = [device for device in _devices(slices) if _attribute(device, "type") == "gpu"]
        self._gpus = gpus
        self._partitions = len(_devices(slices)) - len(gpus)
        offered = f"{len(gpus)} GPUs" + (f" or {self._partitions} partitions of them" if self._partitions else "")
        self.screen.done("GPUs published", f"{offered}, ResourceSlices: {len(slices)}")
        self.screen.table(
            ("DEVICE", "PRODUCT", "MEMORY", "CUDA", "NUMA", "PCI ADDRESS", "UUID"),
            [_device_row(device) for device in gpus],
        )

    async def pods_get_gpus(self) -> None:
        """Every example runs and gets what it asks for."""
        self.screen.chapter("Pods get GPUs, one example of deploy/examples/ after another")
        elsewhere = (SICK_JOB, *SHARING, *OPERATION)
        for example in self.examples:
            if not example.name.endswith(elsewhere) and not example.needs_partitions:
                await self._try(example)

    async def gpu_is_cut(self) -> None:
        """One GPU as seven small ones, then as a big one, then mixed."""
        self.screen.chapter("One GPU is cut into seven, then used as one, then as three different ones")
        if not self._partitions:
            self.screen.note("left out: GPUs of this kind cannot be partitioned while they run")
            return
        for example in self.examples:
            if not example.needs_partitions:
                continue
            devices = await self._try(example)
            parents = {device.partition("-mig-")[0] for device in devices}
            if len(set(devices)) != len(devices) or len(parents) > 1:
                raise StepError(f"different partitions of one GPU are expected, {example.name} has {devices}")
            await seen(self._nothing_held, what="all partitions are undone")
        self.screen.done("partitions", "gone with the pods; the GPU can be had as a whole again")

    async def gpu_is_shared(self) -> None:
        """Claims share a device, processes share a claim."""
        self.screen.chapter("One GPU is shared: by claims that take parts of its memory, and by processes of one claim")
        for example in self.examples:
            if example.name.endswith(SHARING):
                await self._try(example)

    async def cluster_is_operated(self) -> None:
        """What administrators and users do on an ordinary day."""
        self.screen.chapter("An ordinary day: maintenance, a quota, a batch job, a resize")
        for example in self.examples:
            if example.name.endswith(OPERATION):
                await self._try(example)

    async def _try(self, example: Example) -> list[str]:
        """Run an example and delete it again. Returns the devices that its containers got."""
        if missing := self._missing(example):
            self.screen.note(f"{example.name} is left out: {missing}")
            return []
        started = time.monotonic()
        own = self.devices == SHOWN
        try:
            devices = await examples.run(self.workloads, example, within=30.0 if own else 10.0)
        except NotSeenError:
            if own or not await examples.unschedulable(self.workloads, example):
                raise
            self.screen.note(f"{example.name} is left out: this node has no such devices")
            await self.workloads.delete(obj for obj in example.objects if obj["kind"] != "DeviceClass")
            return []
        if example.name.endswith("resize"):
            await self._resize(example)
        got = f" → {examples.summary(devices)}" if devices else ""
        self.screen.done(example.name, f"{example.title}{got}", _since(started) if devices else "")
        await self.workloads.delete(obj for obj in example.objects if obj["kind"] != "DeviceClass")
        return devices

    async def _resize(self, example: Example) -> None:
        """Twice the cpu, and still the same container."""
        [manifest] = example.of_kind("Pod")
        name = manifest["metadata"]["name"]
        before = await self.workloads.pod("default", name) or {}
        [container] = before["spec"]["containers"]
        for kind in ("requests", "limits"):
            container["resources"][kind]["cpu"] = "200m"
        path = f"/api/v1/namespaces/default/pods/{name}/resize"
        body = {"spec": {"containers": [container]}}
        await self.cluster.api.request("PATCH", path, body=body, content_type=MERGE_PATCH)

        async def resized() -> dict[str, Any] | None:
            pod = await self.workloads.pod("default", name) or {}
            status: dict[str, Any] = pod["status"]["containerStatuses"][0]
            return status if status["resources"]["limits"]["cpu"] == "200m" else None

        status = await seen(resized, what=f"pod {name} with twice the cpu")
        if status["containerID"] != before["status"]["containerStatuses"][0]["containerID"]:
            raise StepError(f"a resize restarted pod {name}")

    async def gpu_fails(self) -> None:
        """A fatal error taints the GPU; its pod is evicted and runs elsewhere."""
        self.screen.chapter("A GPU fails under a running pod")
        [job] = [example for example in self.examples if example.name.endswith(SICK_JOB)]
        if missing := self._missing(job):
            self.screen.note(f"{job.name} is left out: {missing}")
            return
        await self.workloads.apply(job.objects)
        first, device = await self._running(job)
        self.screen.done("pod runs", f"{first} on {device}")

        started = time.monotonic()
        self._fault(device, "--xid", "79")
        taint = await seen(lambda: self._taint(device), what=f"a taint on {device}")
        text = f"{taint['key']}={taint['value']}:{taint['effect']}"
        self.screen.done("device tainted", text, _since(started))
        await seen(lambda: self.workloads.events("DeviceTaintManagerEviction"), what=f"the eviction of {first}")
        self.screen.done("pod evicted", first, _since(started))
        second, other = await self._running(job, after=first)
        if other == device:
            raise StepError(f"pod {second} runs on {device}, which has failed")
        self.screen.done("runs again", f"{second} on {other}", _since(started))

        self._fault(device, "--clear")

        async def mended() -> bool:
            return await self._taint(device) is None

        await seen(mended, what=f"{device} without a taint")
        self.screen.done("GPU mended", f"{device} can be allocated again")

    async def driver_is_killed(self) -> None:
        """SIGKILL, a restart, and nothing is different."""
        self.screen.chapter("The driver is killed and comes back")
        before = await self._traces()
        started = time.monotonic()
        old = self._ending()
        old.signal(signal.SIGKILL)
        await old.ended()
        self.screen.done("SIGKILL", f"process {old.pid} is gone, its sockets are still there")
        await self._start_driver(pod_uid=old.pod_uid)
        self.screen.done("registered again", "pods that were running ran on", _since(started))
        after = await self._traces()
        if changed := [what for what, traces in before.items() if after[what] != traces]:
            raise StepError(f"{' and '.join(changed)} are not what they were")
        self.screen.done("nothing has changed", "records, CDI specs and ResourceSlices are what they were")

    async def driver_is_upgraded(self) -> None:
        """A new instance takes over while pods start."""
        self.screen.chapter("The driver is upgraded in place while pods keep starting")
        example = next(e for e in self.examples if e.name.endswith("single-gpu"))
        [template] = example.of_kind("Pod")
        await self.workloads.apply(example.of_kind("ResourceClaimTemplate"))
        failures = self.failures()
        old = self.driver
        started = time.monotonic()
        pods = asyncio.create_task(self._start_pods(template))
        try:
            await seen(lambda: self._pods_done(UPGRADE_PODS // 4), what="a quarter of the pods")
            await self._start_driver()
            self.screen.done("new instance registered", "both serve the node for a while")
            await seen(lambda: self._pods_done(UPGRADE_PODS // 2), what="half of the pods")
            self._ended.append(old)
            status = await old.stop()
            self.screen.done("old instance stopped", f"with status {status}, after it finished what it had begun")
            await pods
        finally:
            pods.cancel()
        failed = self.failures() - failures
        kubelet_events = await self.workloads.events("FailedPrepareDynamicResources")
        if failed or kubelet_events or status != 0:
            reasons = [event["message"] for event in kubelet_events]
            raise StepError(
                f"{failed} prepares failed during the upgrade, the old instance ended with {status}: {reasons}"
            )
        self.screen.done("pods started meanwhile", f"{UPGRADE_PODS}, and not one prepare failed", _since(started))

    async def nothing_is_left(self) -> None:
        """Everything goes, and leaves nothing behind."""
        self.screen.chapter("Everything is deleted, and nothing is left")
        await self.workloads.delete_all()
        await seen(self._nothing_held, what="no record and no CDI spec")

        async def no_objects() -> bool:
            return not await self.workloads.collection(CLAIMS) and not await self.workloads.collection("/api/v1/pods")

        await seen(no_objects, what="no pod and no claim")
        self.screen.done("pods and claims", "gone")
        self.screen.done("records and CDI specs", "gone")
        status = await self._ending().stop()
        sockets = [str(path) for path in self.cluster.root.rglob("*.sock")]
        if status != 0 or sockets:
            raise StepError(f"the driver ended with status {status} and left {sockets}")
        self.screen.done("sockets", "gone with the driver, which ended with status 0")

    def _ending(self) -> DriverProcess:
        """The newest instance, whose end is part of the story."""
        self._ended.append(self.driver)
        return self.driver

    def latencies(self, message: str) -> dict[str, float]:
        """Milliseconds per claim over all drivers of the story."""
        took = [line["duration_ms"] for line in self._lines() if line.get("message") == message]
        if len(took) < 2:
            return {"n": len(took)}
        cuts = quantiles(took, n=100, method="inclusive")
        return {"n": len(took), "p50": round(cuts[49], 2), "p99": round(cuts[98], 2), "max": round(max(took), 2)}

    def failures(self) -> int:
        """Prepares that failed."""
        return sum(1 for line in self._lines() if str(line.get("message", "")).startswith("prepare failed"))

    def _lines(self) -> Iterable[dict[str, Any]]:
        return (line for path in {driver.log_path: driver for driver in self.drivers}.values() for line in path.lines())

    async def _start_driver(self, *, pod_uid: str = "") -> DriverProcess:
        config = self.cluster.root / "node.yaml"
        config.write_text(NODE_CONFIG)
        driver = DriverProcess(
            [
                *self.cluster.driver_flags(),
                f"--devices={self.devices}",
                "--partitioning=dynamic",
                f"--config={config}",
            ],
            log=self.cluster.root / f"driver-{len(self.drivers)}.log",
            pod_uid=pod_uid or str(uuid.uuid4()),
        )
        self.drivers.append(await driver.start())

        async def registered() -> bool:
            return any(line.get("message") == "registered with the kubelet" for line in driver.lines())

        await seen(registered, what="the kubelet registers the driver")
        return driver

    def _fault(self, device: str, *arguments: str) -> None:
        shown = f"gpu-dra fault --device {device} {' '.join(arguments)}"
        self.screen.command(shown)
        command = gpu_dra("fault", f"--device={device}", *arguments)
        outcome = subprocess.run(  # noqa: S603 - our own command, and it takes a fraction of a second
            [*command, f"--kubelet-plugins-dir={self.cluster.plugins_dir}"], capture_output=True, text=True, check=False
        )
        if outcome.returncode != 0:
            raise StepError(f"{shown}: {outcome.stderr.strip()}")

    async def _taint(self, device: str) -> dict[str, Any] | None:
        for found in _devices(await self.workloads.collection(SLICES)):
            if found["name"] == device and found.get("taints"):
                taint: dict[str, Any] = found["taints"][0]
                return taint
        return None

    async def _traces(self) -> dict[str, list[Any]]:
        """What there is to be seen of the driver besides its process."""
        slices = [(obj["metadata"]["resourceVersion"], obj["spec"]) for obj in await self.workloads.collection(SLICES)]
        return {"records": self._files("records"), "CDI specs": self._files("specs"), "ResourceSlices": slices}

    async def _complete_pool(self) -> list[dict[str, Any]] | None:
        slices = await self.workloads.collection(SLICES)
        return slices if slices and len(slices) == slices[0]["spec"]["pool"]["resourceSliceCount"] else None

    async def _running(self, job: Example, *, after: str = "") -> tuple[str, str]:
        """The running pod of a Job and its device; another one than ``after``."""
        [manifest] = job.of_kind("Job")

        async def running() -> tuple[str, str] | None:
            for pod in await self.workloads.pods(**{"job-name": manifest["metadata"]["name"]}):
                name, status = pod["metadata"]["name"], pod["status"]
                if name == after or status.get("phase") != "Running" or "deletionTimestamp" in pod["metadata"]:
                    continue
                for statuses in status.get("resourceClaimStatuses") or []:
                    path = claim_path("default", statuses["resourceClaimName"])
                    claim = await self.cluster.api.get(path)
                    [result] = claim["status"]["allocation"]["devices"]["results"]
                    return name, result["device"]
            return None

        return await seen(running, what=f"a running pod of {job.name}")

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
        if example.needs_shares and not any(gpu.get("allowMultipleAllocations") for gpu in self._gpus):
            return "it needs a GPU that claims share"
        if example.needs_exclusive and all(gpu.get("allowMultipleAllocations") for gpu in self._gpus):
            return "it needs a GPU that claims do not share"
        alike = Counter(_attribute(gpu, example.together) if example.together else "" for gpu in self._gpus)
        if max(alike.values(), default=0) < example.needs_gpus:
            number = example.needs_gpus
            if example.together and number <= len(self._gpus):
                what = example.together.rpartition("/")[2]
                return f"it needs {number} GPUs with the same {what}, and no {number} GPUs of this node share one"
            return f"it needs {number} GPUs, and this node has {len(self._gpus)}"
        return ""

    async def _nothing_held(self) -> bool:
        """Whether no generated claim is left, and nothing of one on the node."""
        claims = await self.workloads.collection(CLAIMS)
        held = any((claim.get("status") or {}).get("allocation") for claim in claims)
        return not held and not self._files("records") and not self._files("specs")

    def _files(self, kind: str) -> list[str]:
        directory, pattern = {
            "records": (self.cluster.plugins_dir, "*/claims/*.json"),
            "specs": (self.cluster.cdi_root, "*.json"),
        }[kind]
        return sorted(path.name for path in directory.glob(pattern))


def _devices(slices: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [device for obj in slices for device in obj["spec"].get("devices") or []]


def _device_row(device: dict[str, Any]) -> tuple[str, ...]:
    memory = device.get("capacity", {}).get("memory", {}).get("value", "-")
    return (
        device["name"],
        _attribute(device, "productName"),
        memory,
        _attribute(device, "cudaComputeCapability"),
        _attribute(device, "resource.kubernetes.io/numaNode"),
        _attribute(device, "resource.kubernetes.io/pciBusID"),
        _attribute(device, "uuid"),
    )


def _attribute(device: dict[str, Any], name: str) -> str:
    return next((str(value) for value in device["attributes"].get(name, {}).values()), "-")


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.2f} s"


def _facts(outcome: dict[str, Any]) -> dict[str, str]:
    facts = {"took": f"{outcome['seconds']:.1f} s"}
    for operation in ("prepare", "unprepare"):
        took = outcome.get(f"{operation}_ms", {})
        if "p50" in took:
            facts[operation] = f"{took['n']} claims, p50 {took['p50']} ms, p99 {took['p99']} ms, max {took['max']} ms"
    if "failed_prepares" in outcome:
        facts["failed prepares"] = str(outcome["failed_prepares"])
    return facts
