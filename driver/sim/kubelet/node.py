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
HEARTBEAT = 300.0
"""Seconds after which a condition that did not change is written again, as the real kubelet does."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class NodeReporter:
    """Keeps one Node up to date; ``ready`` is set once it exists."""

    def __init__(
        self, *, api: Api, name: str, period: float, clock: Callable[[], float], node_ip: str, labels: Mapping[str, str]
    ) -> None:
        self._api = api
        self._name = name
        self._period = period
        self._clock = clock
        self._ip = node_ip
        self._labels = labels
        self._written = float("-inf")
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
        now = self._clock()
        status = node_status(node, now=timestamp(now), ip=self._ip, name=self._name)
        if not _same(node.get("status") or {}, status) or now - self._written > HEARTBEAT:
            await self._api.request("PATCH", f"{path}/status", body={"status": status}, content_type=MERGE_PATCH)
            self._written = now

    def _all_labels(self) -> dict[str, str]:
        return {
            "kubernetes.io/hostname": self._name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            **self._labels,
        }


def capacity() -> dict[str, str]:
    """What this machine has, all of it for pods."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
    return {"cpu": str(os.cpu_count() or 1), "memory": f"{memory}Ki", "pods": "110"}


def node_status(node: Mapping[str, Any], *, now: str, ip: str, name: str) -> dict[str, Any]:
    """What the kubelet owns of a Node's status; conditions of others are kept."""
    old = {condition["type"]: condition for condition in (node.get("status") or {}).get("conditions") or []}
    own = {
        "MemoryPressure": ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        "DiskPressure": ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        "PIDPressure": ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        "Ready": ("True", "KubeletReady", "kubelet is posting ready status"),
    }
    conditions = [dict(condition) for kind, condition in old.items() if kind not in own]
    for kind, (status, reason, message) in own.items():
        known = old.get(kind, {})
        since = known.get("lastTransitionTime") if known.get("status") == status else None
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": since or now,
            }
        )
    return {
        "addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}],
        "capacity": capacity(),
        "allocatable": capacity(),
        "conditions": conditions,
        "nodeInfo": {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "bootID": "",
            "containerRuntimeVersion": "process://1",
            "kernelVersion": platform.release(),
            "kubeProxyVersion": "",
            "kubeletVersion": KUBELET_VERSION,
            "machineID": "",
            "operatingSystem": "linux",
            "osImage": "embedded node",
            "systemUUID": "",
        },
    }


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    def bare(status: Mapping[str, Any]) -> dict[str, Any]:
        conditions = {
            condition["type"]: {key: value for key, value in condition.items() if key != "lastHeartbeatTime"}
            for condition in status.get("conditions") or []
        }
        return {**{key: status.get(key) for key in new}, "conditions": conditions}

    return bare(old) == bare(new)
