"""An embedded API server and the driver's own client to it."""

from collections.abc import AsyncIterator

import pytest

from driver.kube.client import Api
from driver.sim.apiserver import ApiServer
from tests.unit.sim_apiserver.cluster import Cluster


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as running:
        yield running


@pytest.fixture
async def cluster(server: ApiServer, tmp_path) -> AsyncIterator[Cluster]:
    async with await Api.connect(server.write_kubeconfig(tmp_path / "kubeconfig")) as api:
        yield Cluster(api)
