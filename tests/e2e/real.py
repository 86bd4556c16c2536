"""A real cluster, where the driver runs already: installed by the chart, or started by somebody's command."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import RESOURCE, Api, ApiError
from driver.kube.credentials import ConfigError
from tests.e2e.site import DRIVER, Site, run
from tests.eventually import eventually
from tests.needs import KUBECTL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONTAINER = "driver"
"""The driver's container in the pods that the chart makes."""
PODS = "/api/v1/pods"


class RealSite(Site):
    """Somebody's cluster. GPUs are broken, and the driver is restarted, by given commands or in the driver's pod."""

    def __init__(self, api: Api, *, node: str, option: Any, installed: dict[str, Any] | None) -> None:
        # A kubelet tries a failed prepare again after 60 to 90 s.
        super().__init__(api, namespace="default", node=node, patience=200, image=option("--image") or "")
        self._kubeconfig: str = option("--kubeconfig")
        self._labels: str = option("--driver-labels")
        self._fault, self._restart = option("--fault-command"), option("--restart-command")
        self._installed = installed

    @property
    def can_fault(self) -> bool:
        return bool(self._fault) or (KUBECTL is not None and _fake(self._installed))

    @property
    def can_restart(self) -> bool:
        return bool(self._restart or self._installed)

    async def scheduler_defect(self) -> str:
        version = (await self.api.get("/version"))["gitVersion"]
        if version.partition("-")[0].partition("+")[0] in {"v1.36.0", "v1.36.1", "v1.36.2"}:
            return f"the scheduler of Kubernetes {version} ignores new DeviceTaintRules, or ends with a panic"
        return ""

    async def fault(self, device: str, *arguments: str) -> None:
        command = shlex.split(self._fault or "")
        if not command:
            metadata = (await self._driver_pod())["metadata"]
            command = [str(KUBECTL), f"--kubeconfig={self._kubeconfig}", f"--namespace={metadata['namespace']}", "exec"]
            command += [metadata["name"], f"--container={CONTAINER}", "--", "gpu-dra", "fault"]
        await run(*command, f"--device={device}", *arguments)

    async def restart_driver(self) -> None:
        if self._restart:
            await run(*shlex.split(self._restart))
            return
        metadata = (await self._driver_pod())["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        await self.api.request("DELETE", path, params={"gracePeriodSeconds": "0"})

        async def another() -> bool:
            found = await driver_pod(self.api, self.node, self._labels)
            return found is not None and found["metadata"]["uid"] != metadata["uid"] and _ready(found)

        await eventually(another, within=self.patience, what=f"another driver pod on {self.node} is ready")

    async def _driver_pod(self) -> dict[str, Any]:
        found = await driver_pod(self.api, self.node, self._labels)
        assert found is not None, f"no pod with the labels {self._labels} on {self.node} any more"
        return found


@contextlib.asynccontextmanager
async def connected(option: Any) -> AsyncIterator[RealSite]:
    """The node that the options name, or the only one that has slices of the driver. Raises UsageError."""
    try:
        api = await Api.connect(Path(option("--kubeconfig")))
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
    async with api:
        node = await _node(api, option("--node"))
        installed = await driver_pod(api, node, option("--driver-labels"))
        yield RealSite(api, node=node, option=option, installed=installed)


async def _node(api: Api, named: str | None) -> str:
    try:
        slices = (await api.get(f"{RESOURCE}/resourceslices"))["items"]
    except ApiError as error:
        raise pytest.UsageError(f"the cluster of --kubeconfig cannot be used: {error}") from None
    nodes = sorted({obj["spec"].get("nodeName", "") for obj in slices if obj["spec"]["driver"] == DRIVER})
    wanted = [node for node in nodes if node == (named or node)]
    if len(wanted) != 1:
        raise pytest.UsageError(
            f"one node with ResourceSlices of {DRIVER} is expected, where the driver runs; found: "
            f"{', '.join(nodes) or 'none'}; choose with --node=NAME"
        )
    return wanted[0]


def look(option: Any) -> None:
    """Whether there is such a cluster and such a node, before any test runs into it. Raises UsageError."""

    async def once() -> None:
        async with connected(option):
            pass

    asyncio.run(once())


async def driver_pod(api: Api, node: str, labels: str) -> dict[str, Any] | None:
    """The driver's pod on a node, the newest if there are two; None where it does not run in a pod."""
    query = {"labelSelector": labels, "fieldSelector": f"spec.nodeName={node}"}
    pods: list[dict[str, Any]] = (await api.get(PODS, query))["items"]
    running = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return max(running, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)


def _ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or [])


def _fake(pod: dict[str, Any] | None) -> bool:
    """Whether its GPUs are fake ones, the only ones that can be broken by a command."""
    containers = pod["spec"]["containers"] if pod else []
    env = {e["name"]: e.get("value", "") for c in containers if c["name"] == CONTAINER for e in c.get("env") or []}
    return str(env.get("DEVICES", "")).startswith("fake:")
