from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import Api
from driver.sim.apiserver import ApiServer
from tests.harness import NODE, Claims, DriverProcess, Kubelet, NodeDirectories, node_directories

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
def node() -> Iterator[NodeDirectories]:
    with node_directories() as directories:
        yield directories


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server


@pytest.fixture
def kubeconfig(server: ApiServer, node: NodeDirectories) -> Path:
    return server.write_kubeconfig(node.root / "kubeconfig")


@pytest.fixture
async def api(kubeconfig: Path) -> AsyncIterator[Api]:
    async with await Api.connect(kubeconfig) as api:
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
    started: list[DriverProcess] = []

    async def start(*flags: str, pod_uid: str = "", wait: bool = True) -> DriverProcess:
        process = DriverProcess(node, kubeconfig, *flags, pod_uid=pod_uid)
        started.append(process)
        return await process.start(wait=wait)

    yield start
    for process in started:
        await process.kill()


@pytest.fixture
async def driver(run: Any, api: Api) -> DriverProcess:
    process: DriverProcess = await run()
    return process


@pytest.fixture
async def kubelet(driver: DriverProcess) -> AsyncIterator[Kubelet]:
    kubelet = Kubelet(driver.registrar)
    yield kubelet
    await kubelet.close()
