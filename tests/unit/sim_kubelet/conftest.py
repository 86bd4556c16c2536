"""An API server in memory, and a kubelet on a directory with a short path."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from driver.kube.client import Api
from driver.sim.apiserver import ApiServer
from driver.sim.kubelet import Kubelet, Options
from tests.short import short_directory
from tests.unit.sim_kubelet.fakes import NODE, Cluster, FakePlugin


@pytest.fixture
def root() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server


@pytest.fixture
async def api(server: ApiServer, root: Path) -> AsyncIterator[Api]:
    async with await Api.connect(server.write_kubeconfig(root / "kubeconfig")) as api:
        yield api


@pytest.fixture
def cluster(api: Api) -> Cluster:
    return Cluster(api)


class RunningKubelet:
    """A kubelet that can be stopped and started again on the same directory."""

    def __init__(self, api: Api, root: Path, options: Options) -> None:
        self._api, self._root, self.options = api, root, options
        self.now: Kubelet
        self._task: asyncio.Task[None] | None = None

    def start(self) -> "RunningKubelet":
        self.now = Kubelet(
            api=self._api, node_name=NODE, root_dir=self._root, cdi_dirs=[self._root / "cdi"], options=self.options
        )
        self._task = asyncio.create_task(self.now.run())
        return self

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        if task.done():
            task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def run_kubelet(api: Api, root: Path) -> AsyncIterator[Callable[..., RunningKubelet]]:
    """Start a kubelet with quick timers; changes to the options by keyword."""
    running: list[RunningKubelet] = []

    def start(**changes: object) -> RunningKubelet:
        running.append(RunningKubelet(api, root, Options(**changes)).start())
        return running[-1]

    yield start
    for kubelet in running:
        await kubelet.stop()
        for uid in kubelet.now.runtime.sandboxes():  # those that were left to a next one
            for container in kubelet.now.runtime.containers(uid):
                await container.stop(0)


@pytest.fixture
async def make_plugin(root: Path) -> AsyncIterator[Callable[..., FakePlugin]]:
    for name in ("plugins", "plugins_registry"):
        (root / name).mkdir(exist_ok=True)
    made: list[FakePlugin] = []

    def make(**arguments: str) -> FakePlugin:
        made.append(FakePlugin(root, **arguments))
        return made[-1]

    yield make
    for plugin in made:
        await plugin.stop()
