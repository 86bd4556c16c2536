"""A cluster at work, for pictures: teams with pods on whole GPUs, partitions and shares, and a GPU that has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.kube import RESOURCE
from tests.eventually import eventually

if TYPE_CHECKING:
    from driver.kube import Api

_GPU = {"deviceClassName": "gpu.nvidia.com"}


def _partition(profile: str) -> dict[str, Any]:
    expression = f'device.attributes["gpu.nvidia.com"].profile == "{profile}"'
    return {"deviceClassName": "mig.nvidia.com", "selectors": [{"cel": {"expression": expression}}]}


def _share(memory: str) -> dict[str, Any]:
    shared = {"cel": {"expression": "device.allowMultipleAllocations"}}
    return {**_GPU, "selectors": [shared], "capacity": {"requests": {"memory": memory}}}


PODS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("training", "llm-0", _GPU),
    ("training", "llm-1", _GPU),
    ("training", "eval", _partition("4g.40gb")),
    ("notebooks", "ada", _partition("3g.40gb")),
    ("inference", "chat-0", _partition("2g.20gb")),
    ("inference", "chat-1", _partition("2g.20gb")),
    ("inference", "embed", _partition("1g.10gb")),
    ("ci", "unit-1", _partition("1g.10gb")),
    ("ci", "unit-2", _partition("1g.10gb")),
    ("notebooks", "grace", _share("30Gi")),
    ("inference", "rerank", _share("20Gi")),
)


async def play(api: Api, *, pods: tuple[tuple[str, str, dict[str, Any]], ...] = PODS) -> None:
    """All of these run."""
    for namespace in sorted({namespace for namespace, _, _ in pods}):
        await api.request(
            "POST",
            "/api/v1/namespaces",
            body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        )
    for namespace, name, exactly in pods:
        template = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": name},
            "spec": {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}},
        }
        await api.request("POST", f"{RESOURCE}/namespaces/{namespace}/resourceclaimtemplates", body=template)
        await eventually(lambda namespace=namespace, name=name: _start(api, namespace, name))


async def _start(api: Api, namespace: str, name: str) -> bool:
    path = f"/api/v1/namespaces/{namespace}/pods"
    await api.request("POST", path, body=_pod(name))

    async def runs() -> bool:
        return (await api.get(f"{path}/{name}")).get("status", {}).get("phase") == "Running"

    return await eventually(runs, what=f"{namespace}/{name} runs")


def _pod(name: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "busybox:1.37",
        "command": ["sh", "-c", "sleep 3600 & wait"],
        "resources": {"claims": [{"name": "gpu"}]},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": name}],
            "containers": [container],
        },
    }
