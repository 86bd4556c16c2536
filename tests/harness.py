"""The real driver as a process on a node of its own, and the kubelet's end of its sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio

from driver.kube.client import RESOURCE, Api, ApiError, claim_path
from driver.node.settings import Settings
from driver.sim.process import DriverProcess
from driver.wire import dra_v1_pb2 as dra
from driver.wire import dra_v1_pb2_grpc, pluginregistration_pb2_grpc
from driver.wire import pluginregistration_pb2 as registration
from tests.eventually import PATIENCE, eventually
from tests.short import short_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DRIVER = "gpu.nvidia.com"
NODE = "node-1"
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", "localhost"))


@dataclass
class NodeDirectories:
    """A node's directories; short, because socket paths are."""

    root: Path
    plugins: Path = field(init=False)
    registry: Path = field(init=False)
    cdi: Path = field(init=False)

    def __post_init__(self) -> None:
        self.plugins, self.registry = self.root / "plugins", self.root / "plugins_registry"
        self.cdi = self.root / "cdi"
        for directory in (self.plugins, self.registry, self.cdi):
            directory.mkdir()

    @property
    def state(self) -> Path:
        return self.plugins / DRIVER

    def records(self) -> list[str]:
        return sorted(path.name for path in (self.state / "claims").glob("*.json"))

    def specs(self) -> list[str]:
        return sorted(path.name for path in self.cdi.iterdir() if path.is_file())

    def sockets(self) -> list[str]:
        return sorted(path.name for path in self.root.rglob("*.sock"))


@contextlib.contextmanager
def node_directories() -> Iterator[NodeDirectories]:
    with short_directory() as root:
        yield NodeDirectories(root)


class Driver(DriverProcess):
    """``gpu-dra run`` on a node, as users start it."""

    def __init__(self, node: NodeDirectories, kubeconfig: Path, *flags: str, pod_uid: str = "") -> None:
        super().__init__(
            [
                f"--node-name={NODE}",
                f"--kubeconfig={kubeconfig}",
                f"--kubelet-plugins-dir={node.plugins}",
                f"--kubelet-registry-dir={node.registry}",
                f"--cdi-root={node.cdi}",
                "--devices=fake:h100x8",
                *flags,
            ],
            log=node.root / f"driver-{uuid.uuid4().hex[:6]}.log",
            pod_uid=pod_uid,
        )
        self.node = node
        self.registrar = Settings(
            node_name=NODE, pod_uid=pod_uid, kubelet_plugins_dir=node.plugins, kubelet_registry_dir=node.registry
        ).registrar_socket

    async def serving(self) -> Driver:
        """Wait until the sockets and, a little later, the pages are served."""
        await eventually(self.answers, what=f"the driver serves {self.registrar}")
        return self

    async def answers(self) -> bool:
        """Whether sockets and pages are served; fails at once when the process has ended."""
        if self.status is not None:
            raise AssertionError(f"the driver ended with status {self.status}:\n{self.log}")
        if not self.registrar.exists():  # cheaper to see than by a call, and the driver needs the processor
            return False
        try:
            async with asyncio.timeout(5):
                await Kubelet(self.registrar).info()
                await self.get("/readyz")
        except (grpc.aio.AioRpcError, TimeoutError, OSError):
            return False
        return True

    async def ready(self) -> bool:
        """Whether the driver says that it is registered and published."""
        return (await self.get("/readyz"))[0] == 200

    def said(self, text: str) -> bool:
        """Whether a message of the log contains a text."""
        return any(text in str(line.get("message", "")) for line in self.lines())

    def messages(self, start: str) -> list[dict[str, Any]]:
        """The lines of the log whose message starts like this."""
        return [line for line in self.lines() if str(line.get("message", "")).startswith(start)]


class Kubelet:
    """The kubelet's end of one plugin's sockets."""

    def __init__(self, registrar: Path) -> None:
        self.registrar = registrar
        self._channel: grpc.aio.Channel | None = None

    async def info(self) -> registration.PluginInfo:
        async with grpc.aio.insecure_channel(f"unix:{self.registrar}", options=OPTIONS) as channel:
            stub = pluginregistration_pb2_grpc.RegistrationStub(channel)
            return await stub.GetInfo(registration.InfoRequest(), timeout=PATIENCE)

    async def notify(self, *, registered: bool, error: str = "") -> None:
        async with grpc.aio.insecure_channel(f"unix:{self.registrar}", options=OPTIONS) as channel:
            stub = pluginregistration_pb2_grpc.RegistrationStub(channel)
            status = registration.RegistrationStatus(plugin_registered=registered, error=error)
            await stub.NotifyRegistrationStatus(status, timeout=PATIENCE)

    async def connect(self) -> grpc.aio.Channel:
        """The one connection that the kubelet keeps to a plugin."""
        if self._channel is None:
            endpoint = (await self.info()).endpoint
            self._channel = grpc.aio.insecure_channel(f"unix:{endpoint}", options=OPTIONS)
        return self._channel

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def prepare(self, *claims: dict[str, Any], timeout: float = 45) -> dict[str, dra.NodePrepareResourceResponse]:
        stub = dra_v1_pb2_grpc.DRAPluginStub(await self.connect())
        request = dra.NodePrepareResourcesRequest(claims=[_ref(claim) for claim in claims])
        return dict((await stub.NodePrepareResources(request, timeout=timeout)).claims)

    async def unprepare(
        self, *claims: dict[str, Any], timeout: float = 45
    ) -> dict[str, dra.NodeUnprepareResourceResponse]:
        stub = dra_v1_pb2_grpc.DRAPluginStub(await self.connect())
        request = dra.NodeUnprepareResourcesRequest(claims=[_ref(claim) for claim in claims])
        return dict((await stub.NodeUnprepareResources(request, timeout=timeout)).claims)


def _ref(claim: dict[str, Any]) -> dra.Claim:
    metadata = claim["metadata"]
    return dra.Claim(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])


class Claims:
    """Claims on an API server, allocated by hand as the kubelet's own tests do."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def allocated(
        self, name: str, *devices: str, driver: str = DRIVER, pool: str = NODE, **more: Any
    ) -> dict[str, Any]:
        """Create a claim and allocate these devices to it, one request each."""
        requests = [f"req-{index}" for index in range(len(devices))] or ["req-0"]
        claim = await self.api.request(
            "POST",
            f"{RESOURCE}/namespaces/default/resourceclaims",
            body={
                "apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceClaim",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "devices": {
                        "requests": [{"name": r, "exactly": {"deviceClassName": DRIVER}} for r in requests],
                    }
                },
            },
        )
        results = [
            {"request": request, "driver": driver, "pool": pool, "device": device, **more}
            for request, device in zip(requests, devices, strict=True)
        ]
        return await self.allocate(claim, results)

    async def allocate(
        self, claim: dict[str, Any], results: list[dict[str, Any]], config: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any]:
        """Write an allocation into a claim's status."""
        node = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [NODE]}]}
        devices = {"results": results, "config": list(config)}
        claim["status"] = {"allocation": {"devices": devices, "nodeSelector": {"nodeSelectorTerms": [node]}}}
        return await self.api.request("PUT", f"{self._path(claim)}/status", body=claim)

    async def read(self, claim: dict[str, Any]) -> dict[str, Any]:
        return await self.api.get(self._path(claim))

    async def deallocate(self, claim: dict[str, Any]) -> dict[str, Any]:
        while True:  # a driver may be writing the devices' status
            current = await self.api.get(self._path(claim))
            current["status"] = {}
            try:
                return await self.api.request("PUT", f"{self._path(claim)}/status", body=current)
            except ApiError as error:
                if error.status != 409:
                    raise

    async def delete(self, claim: dict[str, Any]) -> None:
        await self.api.request("DELETE", self._path(claim))

    @staticmethod
    def _path(claim: dict[str, Any]) -> str:
        return claim_path(claim["metadata"]["namespace"], claim["metadata"]["name"])


def read_spec(node: NodeDirectories, claim: dict[str, Any]) -> dict[str, Any]:
    """The CDI spec of a claim."""
    path = node.cdi / f"k8s.{DRIVER}-claim_{claim['metadata']['uid']}.json"
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded
