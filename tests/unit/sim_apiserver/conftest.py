"""An embedded API server and the driver's own client to it."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable

import pytest

from driver.kube.client import Api
from driver.sim.apiserver import ANONYMOUS, ApiServer, User
from tests.unit.sim_apiserver.cluster import Cluster


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as running:
        yield running


@pytest.fixture
async def cluster(server: ApiServer, tmp_path) -> AsyncIterator[Cluster]:
    async with await Api.connect(server.write_kubeconfig(tmp_path / "kubeconfig")) as api:
        yield Cluster(api)


@pytest.fixture
async def login(server: ApiServer, tmp_path) -> AsyncIterator[Callable[..., Cluster]]:
    """``await login(token=…)``: requests with this token; ``await login("jane")``: as a user who is not known yet.

    From then on nobody is the administrator without a token.
    """
    server.anonymous = ANONYMOUS
    numbers = itertools.count()
    async with contextlib.AsyncExitStack() as stack:

        async def connect(name: str = "", *, token: str = "") -> Cluster:
            if name:
                server.tokens = {**server.tokens, name: User(name=name, groups=("system:authenticated",))}
            kubeconfig = server.write_kubeconfig(tmp_path / f"user-{next(numbers)}", token=token or name)
            return Cluster(await stack.enter_async_context(await Api.connect(kubeconfig)))

        yield connect
