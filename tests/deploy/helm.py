"""The chart, rendered by real helm binaries."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.needs import NO_TOOLS, TOOLS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "chart"
HELMS = ("helm3", "helm4")
KUBERNETES = ("1.35", "1.36", "1.37")
RELEASE = NAMESPACE = "gpu-dra-driver"

Object = dict[str, Any]

FAKE: Object = {"devices": "fake:h100x8"}
NVML: Object = {}
EVERYTHING: Object = {
    "namespace": {"create": True},
    "partitioning": "dynamic",
    "shares": "memory",
    "deviceStatus": True,
    "deviceMetadata": True,
    "nodeConfig": {"gpus": [{"match": {"name": "gpu-0"}, "partitioning": "none"}]},
    "kubeconfig": {"secretName": "credentials"},
    "imagePullSecrets": [{"name": "registry"}],
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "runtimeClassName": "nvidia",
    "nodeSelector": {"gpus": "yes"},
    "podLabels": {"team": "infra"},
    "seLinuxOptions": {"type": "spc_t"},
    "podDisruptionBudget": {"enabled": True},
    "resourceQuota": {"enabled": True},
    "serviceAccount": {"annotations": {"a": "b"}},
    "deviceClasses": {
        "gpu": {"exclusive": True},
        "mig": {"profiles": ["1g.10gb", "1g.10gb+me"]},
        "shared": {"extendedResourceName": "nvidia.com/gpu.shared"},
        "mps": {"name": "mps.gpu.nvidia.com", "extendedResourceName": "nvidia.com/gpu.mps"},
        "extra": {"h100.gpu.nvidia.com": {"selectors": [{"cel": {"expression": "true"}}]}},
    },
    "verticalPodAutoscaler": {"enabled": True},
    "metrics": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True},
        "dashboards": {"enabled": True, "annotations": {"grafana_folder": "GPUs"}},
    },
    "networkPolicy": {
        "enabled": True,
        "apiServerCIDRs": ["10.0.0.0/8"],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    },
}
MODES: dict[str, Object] = {
    "nvml": NVML,
    "fake": FAKE,
    "everything-nvml": EVERYTHING,
    "everything-fake": EVERYTHING | FAKE | {"userNamespace": True},
    "static-mig": {"partitioning": "static"},
    "host-network": {"hostNetwork": True, "updateStrategy": {"maxSurge": 0, "maxUnavailable": 1}},
    "service-monitor": {"metrics": {"serviceMonitor": {"enabled": True}}},
    "bare": {
        "serviceAccount": {"create": False},
        "rbac": {"create": False},
        "admissionPolicy": {"create": False, "parameters": "Off"},
        "users": {"create": False},
        "deviceClasses": {"create": False},
        "drain": {"enabled": False},
        "healthPort": 0,
        "httpPort": 0,
        "priorityClassName": "",
        "updateStrategy": {"type": "OnDelete"},
    },
}


class HelmError(Exception):
    """What helm wrote when it refused."""


def program(name: str) -> Path:
    """A program that `make tools` has fetched; a test skips without it."""
    path = TOOLS / name
    if not path.is_file():
        pytest.skip(NO_TOOLS)
    return path


def run(name: str, *arguments: str, text: str = "") -> str:
    result = subprocess.run([program(name), *arguments], input=text, capture_output=True, text=True, check=False)
    if result.returncode:
        raise HelmError(result.stdout + result.stderr)
    return result.stdout


def render_text(values: Object, *, helm: str = "helm4", kubernetes: str = "1.36", options: tuple[str, ...] = ()) -> str:
    """The manifests as helm writes them."""
    return _render(json.dumps(values), helm, kubernetes, options)


@functools.cache
def _render(values: str, helm: str, kubernetes: str, options: tuple[str, ...]) -> str:
    command = ("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", f"{kubernetes}.0")
    return run(helm, *command, "--values", "-", *options, text=values)


def render(values: Object, *, helm: str = "helm4", kubernetes: str = "1.36") -> list[Object]:
    """The objects that the chart makes of these values."""
    return [obj for obj in yaml.safe_load_all(render_text(values, helm=helm, kubernetes=kubernetes)) if obj]


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    [found] = [obj for obj in objects if obj["kind"] == kind and obj["metadata"]["name"].endswith(name)]
    return found


def pod_spec(values: Object) -> Object:
    spec: Object = one(render(values), "DaemonSet")["spec"]["template"]["spec"]
    return spec


def container(values: Object) -> Object:
    [found] = pod_spec(values)["containers"]
    return dict(found)
