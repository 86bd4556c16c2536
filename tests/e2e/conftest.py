"""A cluster with a driver: the embedded one, made for each test, or a real one with a namespace for each test."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import RESOURCE, Api
from driver.sim.cluster import Cluster
from driver.sim.kubelet import Options
from driver.sim.process import DriverProcess, gpu_dra
from tests.e2e.site import DRIVER, Site
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    option = request.config.getoption
    if option("--kubeconfig"):
        async with _real(option) as site:
            yield site
    else:
        async with EmbeddedSite.running() as embedded:
            yield embedded


@pytest.fixture
def embedded(site: Site) -> EmbeddedSite:
    """For tests that need to look behind the API."""
    if not isinstance(site, EmbeddedSite):
        pytest.skip("looks at the driver's process and files, which are elsewhere")
    return site


class EmbeddedSite(Site):
    """The embedded cluster, and a driver that belongs to the test."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.api, namespace="default", node=cluster.node_name, patience=30)
        self.cluster = cluster
        self.drivers: list[DriverProcess] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncIterator[EmbeddedSite]:
        with tempfile.TemporaryDirectory(prefix="ge-", dir="/tmp", ignore_cleanup_errors=True) as root:
            # With the kubelet's own pace for pods: what a driver does wrong once is not healed within a second.
            async with Cluster(Path(root), options=Options.quick(resync=5.0)) as cluster:
                site = cls(cluster)
                try:
                    await site.start_driver()
                    yield site
                finally:
                    for driver in site.drivers:
                        await driver.kill()

    @property
    def driver(self) -> DriverProcess:
        return self.drivers[-1]

    @property
    def can_fault(self) -> bool:
        return True

    @property
    def can_restart(self) -> bool:
        return True

    async def start_driver(self, *flags: str) -> DriverProcess:
        """Start a driver, and wait until it is ready. Later flags win."""
        driver = DriverProcess(
            [*self.cluster.driver_flags(), "--devices=fake:h100x8", "--partitioning=dynamic", *flags],
            log=self.cluster.root / f"driver-{len(self.drivers)}.log",
        )
        self.drivers.append(await driver.start())

        async def ready() -> bool:
            assert driver.status is None, driver.log
            with contextlib.suppress(OSError):
                return (await driver.get("/readyz"))[0] == 200
            return False

        await eventually(ready, within=30)
        return driver

    async def fault(self, device: str, *arguments: str) -> None:
        plugins = f"--kubelet-plugins-dir={self.cluster.plugins_dir}"
        await _run(*gpu_dra("fault"), f"--device={device}", *arguments, plugins)

    async def restart_driver(self) -> None:
        await self.driver.kill()
        await self.start_driver()

    def files(self) -> tuple[list[str], list[str]]:
        """Records and CDI specs on the node."""
        records = sorted(path.name for path in self.cluster.plugins_dir.glob("*/claims/*.json"))
        return records, sorted(path.name for path in self.cluster.cdi_root.glob("*.json"))


class RealSite(Site):
    """A cluster of somebody's, with a namespace that is gone afterwards."""

    def __init__(self, api: Api, *, namespace: str, node: str, option: Any) -> None:
        # A kubelet tries a failed prepare again after 60 to 90 s.
        super().__init__(api, namespace=namespace, node=node, patience=200, image=option("--image") or "")
        self._fault, self._restart = option("--fault-command"), option("--restart-command")

    @property
    def can_fault(self) -> bool:
        return bool(self._fault)

    @property
    def can_restart(self) -> bool:
        return bool(self._restart)

    async def fault(self, device: str, *arguments: str) -> None:
        await _run(*shlex.split(self._fault), f"--device={device}", *arguments)

    async def restart_driver(self) -> None:
        await _run(*shlex.split(self._restart))


@contextlib.asynccontextmanager
async def _real(option: Any) -> AsyncIterator[RealSite]:
    async with await Api.connect(Path(option("--kubeconfig"))) as api:
        slices = (await api.get(f"{RESOURCE}/resourceslices"))["items"]
        nodes = sorted({obj["spec"]["nodeName"] for obj in slices if obj["spec"]["driver"] == DRIVER})
        if option("--node"):
            nodes = [node for node in nodes if node == option("--node")]
        if len(nodes) != 1:
            pytest.fail(f"one node with ResourceSlices of {DRIVER} is expected, found {nodes}; choose with --node=NAME")
        namespace = f"gpu-dra-e2e-{uuid.uuid4().hex[:8]}"
        site = RealSite(api, namespace=namespace, node=nodes[0], option=option)
        await site.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}])
        try:
            yield site
        finally:
            await site.delete_all()


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{shlex.join(command)}: {output.decode()}"
