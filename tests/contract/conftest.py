"""An API server, a node's directories, real drivers on it, and where a test wants one, a kubelet."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import Api
from driver.sim import identity
from driver.sim.apiserver import ANONYMOUS, ApiServer
from driver.sim.kubelet import Kubelet as EmbeddedKubelet
from driver.sim.kubelet import Options
from tests.eventually import PATIENCE
from tests.forked.process import ForkedDriver
from tests.harness import NODE, Claims, Driver, Kubelet, NodeDirectories, node_directories
from tests.unit.sim_kubelet.fakes import Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@pytest.fixture
def node() -> Iterator[NodeDirectories]:
    with node_directories() as directories:
        yield directories


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer(anonymous=ANONYMOUS) as server:
        identity.install(server, device_status=True)
        yield server


@pytest.fixture
def kubeconfig(server: ApiServer, node: NodeDirectories, api: Api) -> Path:
    """The driver's: its service account, bound to the node."""
    return identity.write_kubeconfig(server, node.root / "kubeconfig", node=NODE)


@pytest.fixture
async def api(server: ApiServer, node: NodeDirectories) -> AsyncIterator[Api]:
    async with await Api.connect(server.write_kubeconfig(node.root / "admin.kubeconfig")) as api:
        await api.request(
            "POST", "/api/v1/nodes", body={"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        )
        yield api


@pytest.fixture
def claims(api: Api) -> Claims:
    return Claims(api)


@pytest.fixture
async def run(node: NodeDirectories, kubeconfig: Path) -> AsyncIterator[Any]:
    """Start drivers; whatever still runs at the end is killed."""
    started: list[Driver] = []

    async def start(*flags: str, pod_uid: str = "", wait: bool = True) -> Driver:
        process = ForkedDriver(node, kubeconfig, *flags, pod_uid=pod_uid)
        started.append(process)
        await process.start()
        return await process.serving() if wait else process

    yield start
    for process in started:
        await process.kill()


@pytest.fixture
async def driver(run: Any, api: Api) -> Driver:
    process: Driver = await run()
    return process


@pytest.fixture
async def kubelet(driver: Driver) -> AsyncIterator[Kubelet]:
    """Calls the driver as a kubelet does, one call at a time."""
    kubelet = Kubelet(driver.registrar)
    yield kubelet
    await kubelet.close()


@pytest.fixture
def cluster(api: Api) -> Cluster:
    """Pods on the node, with claims that are allocated by hand."""
    return Cluster(api)


class NodeKubelet:
    """A kubelet that serves the node, and can be stopped and replaced by another one in its place."""

    def __init__(self, api: Api, node: NodeDirectories, options: Options, clock: Callable[[], float]) -> None:
        self._api, self._node, self._options, self._clock = api, node, options, clock
        self._task: asyncio.Task[None] | None = None
        self.now: EmbeddedKubelet

    async def start(self) -> NodeKubelet:
        """Start it; its slices have been deleted when this returns, as at every start."""
        self.now = EmbeddedKubelet(
            api=self._api,
            node_name=NODE,
            root_dir=self._node.root,
            cdi_dirs=[self._node.cdi],
            options=self._options,
            clock=self._clock,
        )
        self._task = asyncio.create_task(self.now.run(), name="kubelet")
        async with asyncio.timeout(PATIENCE):
            await self.now.started.wait()
        return self

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def registered(self, driver: str) -> bool:
        """Whether an instance of the driver is registered and connected."""
        return any(plugin.driver == driver and plugin.connected for plugin in self.now.plugins.instances)


@pytest.fixture
async def new_kubelet(api: Api, node: NodeDirectories) -> AsyncIterator[Any]:
    """Kubelets with quick timers; changes to the options by keyword. Containers outlive them, as on a real node."""
    made: list[NodeKubelet] = []

    def new(*, clock: Callable[[], float] = time.time, **changes: Any) -> NodeKubelet:
        made.append(NodeKubelet(api, node, Options(on_shutdown="leave", **changes), clock))
        return made[-1]

    yield new
    for kubelet in made:
        await kubelet.stop()
        runtime = kubelet.now.runtime
        for container in [c for uid in runtime.sandboxes() for c in runtime.containers(uid)]:
            await container.stop(0)


@pytest.fixture
async def node_kubelet(new_kubelet: Any) -> NodeKubelet:
    """A running kubelet."""
    kubelet: NodeKubelet = await new_kubelet().start()
    return kubelet
