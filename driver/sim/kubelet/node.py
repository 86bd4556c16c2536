"""The Node object: made when it is missing, kept Ready while the kubelet lives."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from typing import TYPE_CHECKING, Any

from driver.kube import MERGE_PATCH, ApiError
from driver.sim.kubelet.podspec import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.kube import Api

logger = logging.getLogger(__name__)

KUBELET_VERSION = "v1.36.2"
NODE_IP = "127.0.0.1"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class NodeReporter:
    """Keeps one Node up to date; ``ready`` is set once it exists."""

    def __init__(self, *, api: Api, name: str, period: float, clock: Callable[[], float]) -> None:
        self._api = api
        self._name = name
        self._period = period
        self._clock = clock
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            try:
                await self._report()
                self.ready.set()
            except ApiError as error:
                logger.warning("cannot update node %s: %s", self._name, error)
            await asyncio.sleep(self._period if self.ready.is_set() else min(self._period, 1.0))

    async def _report(self) -> None:
        path = f"/api/v1/nodes/{self._name}"
        try:
            node = await self._api.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
            body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._name, "labels": self._all_labels()}}
            node = await self._api.request("POST", "/api/v1/nodes", body=body)
        status = node_status(node, now=timestamp(self._clock()), name=self._name)
        if any((node.get("status") or {}).get(key) != value for key, value in status.items()):
            await self._api.request("PATCH", f"{path}/status", body={"status": status}, content_type=MERGE_PATCH)

    def _all_labels(self) -> dict[str, str]:
        return {
            "kubernetes.io/hostname": self._name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        }


def capacity() -> dict[str, str]:
    """What this machine has, all of it for pods."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
    return {"cpu": str(os.cpu_count() or 1), "memory": f"{memory}Ki", "pods": "110"}


def node_status(node: Mapping[str, Any], *, now: str, name: str) -> dict[str, Any]:
    """What the kubelet owns of a Node's status; conditions of others are kept."""
    old = (node.get("status") or {}).get("conditions") or []
    known: Mapping[str, Any] = next((c for c in old if c["type"] == "Ready" and c["status"] == "True"), {})
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "kubelet is posting ready status",
        "lastTransitionTime": known.get("lastTransitionTime") or now,
    }
    return {
        "addresses": [{"type": "InternalIP", "address": NODE_IP}, {"type": "Hostname", "address": name}],
        "capacity": capacity(),
        "allocatable": capacity(),
        "conditions": [*(c for c in old if c["type"] != "Ready"), ready],
        "nodeInfo": {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "containerRuntimeVersion": "process://1",
            "kernelVersion": platform.release(),
            "kubeletVersion": KUBELET_VERSION,
            "operatingSystem": "linux",
            "osImage": "embedded node",
        },
    }
