"""An embedded API server, the real tools on it, and the chart's objects in it."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
import yaml

from driver.sim.apiserver import ApiServer
from driver.sim.apiserver.call import Call
from driver.sim.apiserver.patch import APPLY
from driver.sim.apiserver.resources import BY_KIND
from tests.deploy.helm import NAMESPACE, Object, program, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Tool = Callable[..., Awaitable[str]]


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    # Who brings no token is the administrator: kubectl and helm send none over plain HTTP.
    async with ApiServer() as running:
        yield running


@pytest.fixture
def tool(server: ApiServer, tmp_path: Path) -> Tool:
    """Run kubectl or helm as the administrator: ``await tool("kubectl", "get", "pods")``."""
    config = server.write_kubeconfig(tmp_path / "kubeconfig")

    async def run(name: str, *arguments: str, stdin: str = "", fails: bool | None = False) -> str:
        # The embedded server does not decode the Secrets in which helm would keep its releases otherwise.
        environment = {"KUBECONFIG": str(config), "HOME": str(tmp_path), "HELM_DRIVER": "configmap"}
        process = await asyncio.create_subprocess_exec(
            program(name),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment | {"PATH": os.environ["PATH"]},
        )
        output, _ = await asyncio.wait_for(process.communicate(stdin.encode()), 120)
        assert fails is None or bool(process.returncode) == fails, output.decode()
        return output.decode()

    return run


@pytest.fixture
def install(server: ApiServer) -> Callable[[Object], None]:
    """Apply what the chart makes of some values, as an administrator; test_apply does so with the real tools."""
    return lambda values: apply(server, of_kubernetes(values))


def apply(server: ApiServer, objects: list[Object]) -> None:
    """The server has these objects and their namespace, by the same checks as if they came by HTTP."""
    for obj in [NAMESPACE_OBJECT, *objects]:
        resource, meta = BY_KIND[obj["apiVersion"], obj["kind"]], obj["metadata"]
        namespace = meta.get("namespace", "default") if resource.namespaced else ""
        server.engine.patch(Call(resource=resource, namespace=namespace, name=meta["name"]), APPLY, obj)


NAMESPACE_OBJECT: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
NOT_OF_KUBERNETES = ("monitoring.coreos.com/", "autoscaling.k8s.io/")
"""Groups that others bring along: the Prometheus operator and the vertical pod autoscaler."""


def of_kubernetes(values: Object) -> list[Object]:
    """The chart's objects of kinds that every cluster has."""
    return [obj for obj in render(values) if not obj["apiVersion"].startswith(NOT_OF_KUBERNETES)]


def manifest(values: Object) -> str:
    """These objects and their namespace."""
    return yaml.safe_dump_all([NAMESPACE_OBJECT, *of_kubernetes(values)])
