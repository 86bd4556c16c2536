"""A cluster with a driver: the embedded one, made for each test, or a real one with a namespace for each test."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from driver.sim.apiserver import V1_36, V1_37, Release
from driver.sim.cluster import Cluster
from driver.sim.kubelet import Options
from driver.sim.process import DriverProcess, gpu_dra
from tests.e2e.real import connected
from tests.e2e.site import Site, run
from tests.eventually import PATIENCE, eventually
from tests.short import short_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


NODE_CONFIG = """\
gpus:
- match: {name: gpu-7}  # the last one is for claims that want a part of a GPU only
  partitioning: none
  shares: memory
"""


ON_1_37 = " on 1.37"


@pytest.fixture
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    option = request.config.getoption
    if option("--kubeconfig"):
        async with connected(option) as site, site.fresh_namespace():
            yield site
    else:
        async with EmbeddedSite.running() as embedded:
            yield embedded


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """For modules whose tests share a cluster, each with a namespace of its own."""
    async with Stage(request.config.getoption) as stage:
        yield stage


@pytest.fixture
def embedded(site: Site) -> EmbeddedSite:
    """For tests that need to look behind the API."""
    if not isinstance(site, EmbeddedSite):
        pytest.skip("looks at the driver's process and files, which are elsewhere")
    return site


class Stage:
    """Clusters by the kind of their GPUs, each made when somebody asks for it first. There is one real cluster.

    They are of Kubernetes 1.36, unless the kind ends in ON_1_37.
    """

    def __init__(self, option: Any) -> None:
        self._option = option
        self._sites: dict[str, Site] = {}
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Stage:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def site(self, devices: str) -> Site:
        """A node with such GPUs; on a real cluster the node that there is, whatever it has."""
        key = "" if self._option("--kubeconfig") else devices
        if key not in self._sites:
            flag, release = f"--devices={devices.removesuffix(ON_1_37)}", V1_37 if devices.endswith(ON_1_37) else V1_36
            running = EmbeddedSite.running(flag, release=release) if key else connected(self._option)
            self._sites[key] = await self._stack.enter_async_context(running)
        return self._sites[key]


class EmbeddedSite(Site):
    """The embedded cluster, and a driver that belongs to the test."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.api, namespace="default", node=cluster.node_name, patience=PATIENCE)
        self.cluster = cluster
        self.drivers: list[DriverProcess] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, *flags: str, release: Release = V1_36) -> AsyncIterator[EmbeddedSite]:
        with short_directory() as root:
            # With the kubelet's own pace for pods: what a driver does wrong once is not healed within a second.
            async with Cluster(root, options=Options(resync=5.0), release=release) as cluster:
                site = cls(cluster)
                try:
                    await site.start_driver(*flags)
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
        config = self.cluster.root / "node.yaml"
        config.write_text(NODE_CONFIG)
        driver = DriverProcess(
            [
                *self.cluster.driver_flags(),
                "--devices=fake:h100x8",
                "--partitioning=dynamic",
                f"--config={config}",
                *flags,
            ],
            log=self.cluster.root / f"driver-{len(self.drivers)}.log",
        )
        self.drivers.append(await driver.start())

        async def ready() -> bool:
            assert driver.status is None, driver.log
            with contextlib.suppress(OSError):
                return (await driver.get("/readyz"))[0] == 200
            return False

        await eventually(ready)
        return driver

    async def fault(self, device: str, *arguments: str) -> None:
        plugins = f"--kubelet-plugins-dir={self.cluster.plugins_dir}"
        await run(*gpu_dra("fault"), f"--device={device}", *arguments, plugins)

    async def restart_driver(self) -> None:
        await self.driver.kill()
        await self.start_driver()

    def files(self) -> tuple[list[str], list[str]]:
        """Records and CDI specs on the node."""
        records = sorted(path.name for path in self.cluster.plugins_dir.glob("*/claims/*.json"))
        return records, sorted(path.name for path in self.cluster.cdi_root.glob("*.json"))
