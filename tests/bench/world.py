"""What a case needs: an API server, nodes with a driver, and claims that are allocated already."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import json
import os
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import yaml

from driver.kube.client import Api, claim_path
from driver.sim.process import gpu_dra
from driver.wire import dra_v1_pb2 as dra
from driver.wire import dra_v1_pb2_grpc
from tests.bench.stats import memory_mib
from tests.eventually import eventually
from tests.harness import DRIVER, NODE, Driver, Kubelet, NodeDirectories

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

NAMESPACE = "default"
PLACES = (Path("/dev/shm"), Path("/var/tmp"))  # short, because socket paths are
UUIDS = uuid.UUID("b9d5a3fe-6f0c-4d51-8a67-0f5b8d1e2c3a")


def claim(name: str, device: str, *, share: bool = False, pool: str = NODE) -> dict[str, Any]:
    """An allocated claim as the API server stores it, as large as those of a cluster: some 2 kB with who wrote what."""
    uid = str(uuid.uuid5(UUIDS, name))
    result: dict[str, Any] = {"request": "gpu", "driver": DRIVER, "pool": pool, "device": device}
    if share:
        result |= {"shareID": str(uuid.uuid5(UUIDS, f"{name}/share")), "consumedCapacity": {"shares": "1"}}
    node = {"key": "metadata.name", "operator": "In", "values": [pool]}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid,
            "resourceVersion": "2",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "generateName": f"{name}-pod-gpu-",
            "finalizers": ["resource.kubernetes.io/delete-protection"],
            "annotations": {"resource.kubernetes.io/pod-claim-name": "gpu"},
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": f"{name}-pod",
                    "uid": str(uuid.uuid5(UUIDS, f"{name}/pod")),
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": _managed_fields(str(uuid.uuid5(UUIDS, f"{name}/pod"))),
        },
        "spec": {
            "devices": {
                "requests": [
                    {
                        "name": "gpu",
                        "exactly": {"deviceClassName": DRIVER, "allocationMode": "ExactCount", "count": 1},
                    }
                ]
            }
        },
        "status": {
            "allocation": {
                "devices": {"results": [result]},
                "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [node]}]},
                "allocationTimestamp": "2026-01-01T00:00:00Z",
            },
            "reservedFor": [{"resource": "pods", "name": f"{name}-pod", "uid": str(uuid.uuid5(UUIDS, f"{name}/pod"))}],
        },
    }


def _managed_fields(pod: str) -> list[dict[str, Any]]:
    """Of a claim that was made from a template, allocated and reserved for a pod with this UID."""

    def wrote(manager: str, fields: dict[str, Any], **more: str) -> dict[str, Any]:
        entry = {"manager": manager, "operation": "Update", "apiVersion": "resource.k8s.io/v1"}
        return entry | {"time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields} | more

    every: dict[str, Any] = {".": {}}
    metadata = {
        "f:annotations": every | {"f:resource.kubernetes.io/pod-claim-name": {}},
        "f:generateName": {},
        "f:ownerReferences": every | {f'k:{{"uid":"{pod}"}}': {}},
    }
    finalizers = {"f:finalizers": every | {'v:"resource.kubernetes.io/delete-protection"': {}}}
    allocation = every | {"f:allocationTimestamp": {}, "f:devices": {"f:results": {}}, "f:nodeSelector": {}}
    status = {"f:allocation": allocation, "f:reservedFor": every | {f'k:{{"uid":"{pod}"}}': {}}}
    return [
        wrote("kube-controller-manager", {"f:metadata": metadata, "f:spec": {"f:devices": {"f:requests": {}}}}),
        wrote("kube-scheduler", {"f:metadata": finalizers}),
        wrote("kube-scheduler", {"f:status": status}, subresource="status"),
    ]


def path(of: dict[str, Any]) -> str:
    """Where a claim is on the API server."""
    return claim_path(NAMESPACE, of["metadata"]["name"])


def profile(directory: Path, gpus: int) -> Path:
    """A fake node with so many H100s, as a profile file."""
    shipped = importlib.resources.files("driver.hardware.fake") / "profiles" / "h100x8.yaml"
    node = yaml.safe_load(shipped.read_text())
    node["model"]["nvlink"] = False
    node["gpus"] = [
        {"minor": index, "uuid": f"GPU-{uuid.uuid5(UUIDS, str(index))}", "pci": f"0000:{index:02x}:00.0"}
        for index in range(gpus)
    ]
    written = directory / f"h100x{gpus}.yaml"
    written.write_text(yaml.safe_dump(node))
    return written


class ApiProcess:
    """The API server's process."""

    def __init__(self, process: asyncio.subprocess.Process, kubeconfig: Path) -> None:
        self._process = process
        self.kubeconfig = kubeconfig

    async def requests(self) -> dict[str, int]:
        """How many requests came so far, by "verb resource"."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"requests\n")
        counted: dict[str, int] = json.loads(await self._process.stdout.readline())
        return counted

    async def slice_writes(self) -> int:
        """How many requests would have changed a slice."""
        counted = await self.requests()
        verbs = ("create", "update", "patch", "delete", "deletecollection")
        return sum(counted.get(f"{verb} resourceslices", 0) for verb in verbs)


@contextlib.asynccontextmanager
async def api_process(
    directory: Path, claims: list[dict[str, Any]], *, delay: float = 0.0, plain: bool = False
) -> AsyncIterator[ApiProcess]:
    """An API server that knows these claims; ``plain``: without TLS."""
    name = uuid.uuid4().hex[:6]
    state, kubeconfig = directory / f"state-{name}.json", directory / f"kubeconfig-{name}"
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "uid": str(uuid.uuid5(UUIDS, NODE)), "resourceVersion": "2"},
    }
    state.write_text(json.dumps({"resourceclaims": claims, "nodes": [node]}))
    flags = [f"--delay={delay}", *(["--plain"] if plain else [])]
    async with module("tests.bench.apiserver", str(kubeconfig), str(state), *flags) as process:
        yield ApiProcess(process, kubeconfig)


@contextlib.asynccontextmanager
async def module(name: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that writes a line once it serves, and ends with its standard input."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", name, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    if not await process.stdout.readline():
        raise RuntimeError(f"{name} has ended before it served")
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@dataclass(slots=True)
class Node:
    """A node with a running driver and the kubelet's one connection to it."""

    directories: NodeDirectories
    driver: Driver
    kubelet: Kubelet
    kubeconfig: Path
    stub: dra_v1_pb2_grpc.DRAPluginStub = field(init=False)

    async def connect(self) -> None:
        """Register the driver and wait until its slices are out."""
        await self.driver.serving()
        await self.kubelet.notify(registered=True)
        await eventually(self.driver.ready, within=30, what="the driver is ready")
        self.stub = dra_v1_pb2_grpc.DRAPluginStub(await self.kubelet.connect())

    async def empty(self) -> None:
        """A call with no claim in it."""
        await self.stub.NodePrepareResources(dra.NodePrepareResourcesRequest(), timeout=45)

    async def prepare(self, of: dict[str, Any]) -> None:
        """Prepare one claim. Raises RuntimeError when it fails."""
        request = dra.NodePrepareResourcesRequest(claims=[_reference(of)])
        _check(await self.stub.NodePrepareResources(request, timeout=45), of)

    async def unprepare(self, of: dict[str, Any]) -> None:
        """Unprepare one claim. Raises RuntimeError when it fails."""
        request = dra.NodeUnprepareResourcesRequest(claims=[_reference(of)])
        _check(await self.stub.NodeUnprepareResources(request, timeout=45), of)

    def record(self, of: dict[str, Any]) -> Path:
        """Where the record of a claim is."""
        return self.directories.state / "claims" / f"{of['metadata']['uid']}.json"

    def spec(self, of: dict[str, Any]) -> Path:
        """Where the CDI spec of a claim is."""
        return self.directories.cdi / f"k8s.{DRIVER}-claim_{of['metadata']['uid']}.json"

    def rss_mib(self) -> float:
        """Resident memory of the driver."""
        return memory_mib(self.driver.pid, "VmRSS")

    def cpu_ms(self) -> float:
        """CPU time that all threads of the driver have taken so far."""
        total = 0
        for thread in Path(f"/proc/{self.driver.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((thread / "schedstat").read_text().split()[0])
        return total / 1e6

    def all_cpu_ms(self) -> float:
        """The same with threads that have ended, in hundredths of a second."""
        fields = Path(f"/proc/{self.driver.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")

    async def spend(self, work: Awaitable[None]) -> tuple[float, float]:
        """Milliseconds that something takes, and of the driver's CPU time."""
        before = self.cpu_ms()
        took = await timed(work)
        return took, self.cpu_ms() - before

    async def fault(self, *flags: str) -> None:
        """Hurt or mend a fake GPU."""
        command = gpu_dra("fault", f"--kubelet-plugins-dir={self.directories.plugins}", *flags)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        if await process.wait():
            raise RuntimeError(f"{' '.join(command)} failed")


def home() -> Path:
    """Where files go: memory where there is a tmpfs, because the driver is measured and not the disk."""
    return Path(os.environ.get("BENCH_DIR") or next(place for place in PLACES if place.is_dir()))


@contextlib.contextmanager
def directories() -> Iterator[NodeDirectories]:
    """A node's directories."""
    with tempfile.TemporaryDirectory(prefix="gd-", dir=home()) as root:
        yield NodeDirectories(Path(root))


@contextlib.asynccontextmanager
async def node(api: ApiProcess, *flags: str, connect: bool = True) -> AsyncIterator[Node]:
    """A node with a driver, registered and published."""
    with directories() as made:
        driver = Driver(made, api.kubeconfig, *flags)
        running = Node(made, driver, Kubelet(driver.registrar), api.kubeconfig)
        try:
            if connect:
                await driver.start()
                await running.connect()
            yield running
        finally:
            await running.kubelet.close()
            await driver.kill()
            if os.environ.get("BENCH_KEEP_LOG"):
                Path(os.environ["BENCH_KEEP_LOG"]).write_text(driver.log, encoding="utf-8")


@contextlib.asynccontextmanager
async def relay(node: Node) -> AsyncIterator[Callable[[dict[str, Any]], Any]]:
    """What calls a server that only GETs the claim of a call."""
    socket = node.directories.root / "relay.sock"
    async with (
        module("tests.bench.relay", str(node.kubeconfig), str(socket)),
        grpc.aio.insecure_channel(f"unix:{socket}") as channel,
    ):
        stub = dra_v1_pb2_grpc.DRAPluginStub(channel)

        async def call(of: dict[str, Any]) -> None:
            await stub.NodePrepareResources(dra.NodePrepareResourcesRequest(claims=[_reference(of)]), timeout=45)

        yield call


@contextlib.asynccontextmanager
async def stock_client(node: Node) -> AsyncIterator[Any]:
    """The official client with the settings that it comes with."""
    from kubernetes.aio.client.api.resource_v1_api import ResourceV1Api
    from kubernetes.aio.client.api_client import ApiClient
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.config.kube_config import load_kube_config

    configuration = Configuration()
    await load_kube_config(config_file=str(node.kubeconfig), client_configuration=configuration, persist_config=False)
    async with ApiClient(configuration) as connected:
        yield ResourceV1Api(connected)


@contextlib.asynccontextmanager
async def client(api: ApiProcess) -> AsyncIterator[Api]:
    """The HTTP client that the driver has too."""
    async with await Api.connect(api.kubeconfig) as connected:
        yield connected


async def timed(work: Any) -> float:
    """Milliseconds that something takes."""
    started = time.perf_counter()
    await work
    return (time.perf_counter() - started) * 1000


async def concurrently(
    items: list[dict[str, Any]], work: Callable[[dict[str, Any]], Any], workers: int
) -> tuple[list[float], float]:
    """Do something with each item, so many at a time. Answers milliseconds each and seconds for all."""
    waiting = iter(items)
    samples: list[float] = []

    async def worker() -> None:
        for item in waiting:
            samples.append(await timed(work(item)))  # noqa: PERF401

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(workers)))
    return samples, time.perf_counter() - started


def _reference(of: dict[str, Any]) -> dra.Claim:
    metadata = of["metadata"]
    return dra.Claim(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])


def _check(response: Any, of: dict[str, Any]) -> None:
    answer = response.claims[of["metadata"]["uid"]]
    if answer.error:
        raise RuntimeError(answer.error)
