"""The server is of the release that it is told: its version, its fields, and in which versions kinds are served."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import RESOURCE, Api, ApiError
from driver.sim.apiserver import GATES, V1_36, V1_37, ApiServer, Release

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

RELEASES = [V1_36, V1_37]
TAINT = {"key": "example.com/maintenance", "effect": "NoSchedule"}


@contextlib.asynccontextmanager
async def api_of(tmp_path: Path, release: Release, gates: frozenset[str] = GATES) -> AsyncIterator[Api]:
    async with (
        ApiServer(release=release, gates=gates) as server,
        await Api.connect(server.write_kubeconfig(tmp_path / "kubeconfig")) as api,
    ):
        yield api


def taint_rule(version: str) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": "DeviceTaintRule",
        "metadata": {"name": "maintenance"},
        "spec": {"deviceSelector": {"device": "gpu-0"}, "taint": TAINT},
    }


@pytest.mark.parametrize(("release", "version"), [(V1_36, "v1.36.2"), (V1_37, "v1.37.0")])
async def test_it_says_which_release_it_is(tmp_path: Path, release: Release, version: str) -> None:
    async with api_of(tmp_path, release) as api:
        assert (await api.get("/version"))["gitVersion"] == version


@pytest.mark.parametrize(
    ("release", "served", "other"),
    [
        (V1_36, "resource.k8s.io/v1beta2", "resource.k8s.io/v1"),
        (V1_37, "resource.k8s.io/v1", "resource.k8s.io/v1beta2"),
    ],
)
async def test_taint_rules_are_stable_since_1_37(tmp_path: Path, release: Release, served: str, other: str) -> None:
    async with api_of(tmp_path, release) as api:
        await api.request("POST", f"/apis/{served}/devicetaintrules", body=taint_rule(served))

        with pytest.raises(ApiError) as refused:
            await api.request("POST", f"/apis/{other}/devicetaintrules", body=taint_rule(other))

    assert refused.value.status == 404


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.version)
async def test_a_field_of_another_release_is_dropped(tmp_path: Path, release: Release) -> None:
    since = {"nodeAllocatableResourceMappings": V1_36, "nodeAllocatableResources": V1_37}
    device = {"name": "gpu-0"} | {
        "nodeAllocatableResourceMappings": {"memory": {"allocationMultiplier": "2Gi"}},
        "nodeAllocatableResources": {"memory": {"overhead": {"perPod": "2Gi"}}},
    }
    spec = {
        "driver": "gpu.nvidia.com",
        "nodeName": "node",
        "pool": {"name": "node", "generation": 1, "resourceSliceCount": 1},
        "devices": [device],
    }
    gates = GATES | {"DRANodeAllocatableResources"}

    async with api_of(tmp_path, release, gates) as api:
        body = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "s"}, "spec": spec}
        stored = await api.request("POST", f"{RESOURCE}/resourceslices", body=body)

    [kept] = stored["spec"]["devices"]
    assert kept.keys() - {"name"} == {field for field, first in since.items() if first is release}
