"""The driver's identity in an embedded cluster: account, roles and admission policy of the chart, and a token.

The objects are those of ``deploy/manifests``, so that a permission that the chart lacks is missed here too.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from driver.sim.apiserver import ApiServer

_LEFT_OUT = {"DaemonSet", "DeviceClass"}
"""Its pods are processes here, and classes are part of the examples."""
_DEVICE_STATUS: list[dict[str, Any]] = [
    {"apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims/status"], "verbs": ["patch", "update"]},
    {
        "apiGroups": ["resource.k8s.io"],
        "resources": ["resourceclaims/driver"],
        "verbs": ["associated-node:patch", "associated-node:update"],
        "resourceNames": ["gpu.nvidia.com"],
    },
]
"""What the chart adds for a driver with ``--device-status``."""


def install(server: ApiServer, *, device_status: bool = False) -> None:
    """Create the chart's objects, as an administrator does with ``kubectl apply``."""
    for obj in _manifests():
        if obj["kind"] == "ClusterRole" and obj["metadata"]["name"] == _account()["name"] and device_status:
            obj["rules"] += _DEVICE_STATUS
        if obj["kind"] not in _LEFT_OUT:
            server.add(obj)


def write_kubeconfig(server: ApiServer, path: Path, *, node: str) -> Path:
    """A kubeconfig with the driver's token for a node that exists, as its pod on that node has it."""
    account = _account()
    token = server.service_account_token(account["namespace"], account["name"], node=node)
    return server.write_kubeconfig(path, token=token)


def username() -> str:
    """The driver's user name."""
    account = _account()
    return f"system:serviceaccount:{account['namespace']}:{account['name']}"


def _account() -> dict[str, str]:
    return next(obj["metadata"] for obj in _manifests() if obj["kind"] == "ServiceAccount")


def _manifests() -> list[dict[str, Any]]:
    """The chart, rendered: from the package, or from the repository of an editable install."""
    shipped: Traversable = files("driver.sim") / "manifests"
    directory = shipped if shipped.is_dir() else Path(__file__).parents[2] / "deploy" / "manifests"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return list(yaml.load_all((directory / "fake.yaml").read_text(encoding="utf-8"), Loader=loader))
