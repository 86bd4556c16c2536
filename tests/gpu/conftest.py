from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import RESOURCE, Api
from driver.sim.apiserver import ApiServer
from driver.sim.apiserver.access import ADMIN
from driver.sim.kubelet.cdi import CdiCache
from tests.eventually import eventually
from tests.gpu import isolation, report
from tests.gpu import machine as machines
from tests.harness import NODE, Claims, Driver, Kubelet, node_directories
from tests.needs import COMPILER, NO_COMPILER, NO_GPU, NO_ROOT
from tests.short import short_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from driver.sim.kubelet.cdi import Injection
    from tests.gpu.machine import Machine
    from tests.harness import NodeDirectories


@pytest.fixture
def scratch() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory


@pytest.fixture
async def isolated() -> None:
    if not await isolation.possible():
        pytest.skip(NO_ROOT)


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.gpu)])
def machine(request: pytest.FixtureRequest, scratch: Path, isolated: None) -> Machine:
    """Every test runs on a stand-in where there is a C compiler, and on real GPUs where there are any."""
    if request.param == "real":
        found = machines.real()
        if isinstance(found, str):
            pytest.skip(f"{NO_GPU}; {found}")
        return found
    if COMPILER is None:
        pytest.skip(NO_COMPILER)
    return machines.standin(scratch)[0]


@dataclass
class Node:
    """A driver on this machine, the API server that it publishes to, and the kubelet's end of its sockets."""

    machine: Machine
    directories: NodeDirectories
    api: Api
    driver: Driver
    kubelet: Kubelet
    claims: Claims

    async def devices(self) -> list[dict[str, Any]]:
        """What is published, once anything is."""

        async def published() -> list[dict[str, Any]]:
            slices = (await self.api.get(f"{RESOURCE}/resourceslices"))["items"]
            return [device for item in slices for device in item["spec"].get("devices", [])]

        try:
            return await eventually(published, what="devices are published")
        except AssertionError as error:
            raise AssertionError(f"{error}; the driver says:\n{self.driver.log[-4000:]}") from None

    async def prepare(self, name: str, *devices: str) -> tuple[dict[str, Any], Injection]:
        """A claim with these devices, and the edits that a runtime makes for it."""
        claim = await self.claims.allocated(name, *devices)
        answer = (await self.kubelet.prepare(claim))[claim["metadata"]["uid"]]
        if answer.error:
            raise PrepareError(answer.error)
        ids = [cdi for device in answer.devices for cdi in device.cdi_device_ids]
        return claim, CdiCache([self.directories.cdi]).inject(ids)

    async def unprepare(self, claim: dict[str, Any]) -> str:
        return (await self.kubelet.unprepare(claim))[claim["metadata"]["uid"]].error


class PrepareError(Exception):
    """The driver refused."""


@pytest.fixture
async def start(machine: Machine) -> AsyncIterator[Any]:
    """Start a driver with further flags."""
    with node_directories() as directories:
        async with ApiServer(tokens={"admin": ADMIN}) as server:
            kubeconfig = server.write_kubeconfig(directories.root / "kubeconfig", token="admin")
            started: list[Driver] = []
            kubelets: list[Kubelet] = []
            async with await Api.connect(kubeconfig) as api:
                body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
                await api.request("POST", "/api/v1/nodes", body=body)

                async def new(*flags: str) -> Node:
                    driver = Driver(directories, kubeconfig, "--devices=nvml", *machine.flags, *flags)
                    started.append(driver)
                    await driver.start()
                    await driver.serving()
                    kubelets.append(Kubelet(driver.registrar))
                    await kubelets[-1].notify(registered=True)
                    return Node(machine, directories, api, driver, kubelets[-1], Claims(api))

                yield new
                for kubelet in kubelets:
                    await kubelet.close()
                for driver in started:
                    await driver.kill()


@pytest.fixture(scope="session")
def findings() -> Iterator[report.Findings]:
    """What a run on real GPUs has found; written where GPU_REPORT says."""
    found = report.Findings()
    yield found
    found.write()
