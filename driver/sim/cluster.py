"""The embedded cluster, assembled: API server, control plane and one kubelet in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from driver.kube import LARGE_BODY, Api
from driver.sim import identity
from driver.sim.apiserver import V1_36, ApiServer, Release
from driver.sim.controllers.manager import ControlPlane
from driver.sim.kubelet import Kubelet, Options
from driver.sim.scheduler.cel import compile_error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NODE = "demo-node"


class ClusterError(Exception):
    """A part of the cluster has failed, so nothing that is seen in it can be trusted any more."""


class Cluster:
    """One node's cluster below ``root``; the path must be short, because sockets lie in it.

    Use as an async context manager. Everything that a driver needs to join it is a plain attribute.
    """

    def __init__(
        self, root: Path, *, node_name: str = NODE, options: Options | None = None, release: Release = V1_36
    ) -> None:
        self.release = release
        self.root = root
        self.node_name = node_name
        self.kubeconfig = root / "kubeconfig"
        """The administrator's."""
        self.driver_kubeconfig = root / "driver.kubeconfig"
        """The driver's: what the chart gives it and no more."""
        self.cdi_root = root / "cdi"
        self.plugins_dir = root / "plugins"
        self.registry_dir = root / "plugins_registry"
        self.server = ApiServer(release=release, compile_cel=compile_error, read_log=self._read_log)
        self.api: Api
        self.kubelet: Kubelet
        self._options = options or Options()
        self._stack = contextlib.AsyncExitStack()
        self._kubelet_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Cluster:
        self.cdi_root.mkdir(parents=True, exist_ok=True)
        await self._stack.enter_async_context(self.server)
        self.server.write_kubeconfig(self.kubeconfig)
        self.api = await self._stack.enter_async_context(await Api.connect(self.kubeconfig, max_body=LARGE_BODY))
        plane = ControlPlane(self.api, taint_rules=self.release.taint_rules)
        control_plane = asyncio.create_task(plane.run(), name="control plane")
        self._stack.push_async_callback(_end, control_plane)
        self._control_plane = control_plane
        await self.start_kubelet()
        self._stack.push_async_callback(self.stop_kubelet)
        identity.install(self.server)
        identity.write_kubeconfig(self.server, self.driver_kubeconfig, node=self.node_name)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start_kubelet(self) -> None:
        """Start the kubelet, or another one in the place of one that was stopped."""
        self.kubelet = Kubelet(
            api=self.api,
            node_name=self.node_name,
            root_dir=self.root,
            cdi_dirs=[self.cdi_root],
            options=self._options,
        )
        self._kubelet_task = asyncio.create_task(self.kubelet.run(), name="kubelet")
        await self.or_failure(self.kubelet.started.wait())

    async def stop_kubelet(self) -> None:
        """Stop the kubelet; what becomes of its containers is one of its options."""
        task, self._kubelet_task = self._kubelet_task, None
        if task is not None:
            await _end(task)

    async def or_failure(self, waiting: Any) -> Any:
        """Await something in the cluster. Raises ClusterError if a part of the cluster ends meanwhile."""
        task = asyncio.ensure_future(waiting)
        parts = {part for part in (self._control_plane, self._kubelet_task) if part is not None}
        try:
            await asyncio.wait({task, *parts}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:  # nothing of it goes on when we do not wait for it any more
            task.cancel()
            await asyncio.wait({task})
        ended = next(part for part in parts if part.done())
        raise ClusterError(f"the embedded cluster's {ended.get_name()} has ended") from ended.exception()

    def driver_flags(self) -> list[str]:
        """The flags with which a driver joins this cluster."""
        return [
            f"--node-name={self.node_name}",
            f"--kubeconfig={self.driver_kubeconfig}",
            f"--kubelet-plugins-dir={self.plugins_dir}",
            f"--kubelet-registry-dir={self.registry_dir}",
            f"--cdi-root={self.cdi_root}",
        ]

    def _read_log(self, pod: Mapping[str, Any], container: str) -> str:
        return self.kubelet.read_log(pod["metadata"]["namespace"], pod["metadata"]["name"], container)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
