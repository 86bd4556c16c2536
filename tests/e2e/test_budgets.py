"""Budgets in a whole cluster: example 25, and the manifest that people start from, with the chart's policy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from driver.cluster.accountant.count import Count, Policy
from driver.cluster.accountant.writing import Pace
from driver.kube.client import MERGE_PATCH
from driver.sim.demo.workloads import load_examples
from tests.deploy.helm import render
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.conftest import EmbeddedSite
    from tests.e2e.site import Site

HOURS, GPUS = "requests.resource.k8s.io/gpu-hours", "requests.resource.k8s.io/gpu"
HOUR = 3_600_000
EXAMPLES = {example.name: example for example in load_examples()}
CLASSES = EXAMPLES["00-deviceclasses"].objects
PACE = Pace(change=0.05, idle=0.05, repair=0, retry=0, tick=0.05)
MANIFEST = """
apiVersion: v1
kind: ResourceQuota
metadata: {name: team-budget, namespace: research-team}
spec:
  hard:
    requests.resource.k8s.io/gpu-hours: "1000"
    requests.resource.k8s.io/gpu: "10"
"""


class Accounting:
    """An accountant whose time can be made to pass, in a cluster with the chart's policy."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.skipped = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Accounting:
        policies = [
            obj for obj in render({"accountant": {"enabled": True}}) if obj["metadata"]["name"].endswith("-budgets")
        ]
        for obj in policies:
            plural = "validatingadmissionpolic" + ("ies" if obj["kind"].endswith("Policy") else "ybindings")
            await self.site.api.request("POST", f"/apis/admissionregistration.k8s.io/v1/{plural}", body=obj)
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        count = Count(self.site.api, Policy(pace=PACE), now=lambda: round(time.time() * 1000) + self.skipped)
        self._task = asyncio.create_task(count.run())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def used(self, namespace: str) -> tuple[float, float]:
        """Hours and GPUs that people see."""
        [quota] = (await self.site.api.get(f"/api/v1/namespaces/{namespace}/resourcequotas"))["items"]
        used = quota["status"]["used"]
        hours, gpus = (
            float(used[name].removesuffix("m")) / (1000 if "m" in used[name] else 1) for name in (HOURS, GPUS)
        )
        return hours, gpus


@pytest.fixture
async def accounting(embedded: EmbeddedSite) -> AsyncIterator[Accounting]:
    async with Accounting(embedded) as accounting:
        yield accounting


async def running(site: Site, namespace: str) -> list[str]:
    found = (await site.api.get(f"/api/v1/namespaces/{namespace}/pods"))["items"]
    return sorted(pod["metadata"]["name"] for pod in found if pod["status"].get("phase") == "Running")


async def test_the_third_pod_is_refused_until_the_budget_is_raised(accounting: Accounting) -> None:
    site, namespace = accounting.site, "gpu-minutes"
    example = EXAMPLES["25-gpu-hours"]
    text = json.dumps(example.objects).replace("sleep 200", "sleep 3600")
    await site.apply([*CLASSES, *json.loads(text)])

    async def two_run() -> list[str]:
        names = await running(site, namespace)
        return names if len(names) == 2 and (await accounting.used(namespace))[1] == 2 else []

    first, _ = await eventually(two_run, within=site.patience)
    accounting.skipped += 200_000
    await eventually(lambda: spent(accounting, namespace), within=site.patience)
    await site.api.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{first}")

    async def refused() -> list[str]:
        return [text for text in await site.events("FailedResourceClaimCreation", namespace) if "is spent" in text]

    [text, *_] = await eventually(refused, within=site.patience)
    assert f"the GPU budget of namespace {namespace} is spent: 0.1" in text
    more = {"spec": {"hard": {HOURS: "1"}}}
    path = f"/api/v1/namespaces/{namespace}/resourcequotas/budget"
    await site.api.request("PATCH", path, body=more, content_type=MERGE_PATCH)
    assert first not in await eventually(two_run, within=site.patience)


async def test_a_claim_from_before_gets_gpus_when_the_budget_is_raised(accounting: Accounting) -> None:
    site, namespace = accounting.site, "stock"
    path = f"/api/v1/namespaces/{namespace}/resourcequotas/budget"
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "budget", "namespace": namespace},
        "spec": {"hard": {HOURS: "1", GPUS: "10"}},
    }
    requests = [{"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}]
    claims: list[dict[str, Any]] = [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"devices": {"requests": requests}},
        }
        for name in ("used", "stocked")
    ]
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    await site.apply([space, *CLASSES, quota, *claims, named(site, "used", namespace)])
    await eventually(lambda: shows(accounting, namespace, 0, 1), within=site.patience)
    accounting.skipped += HOUR
    await eventually(lambda: shows(accounting, namespace, 1, 1), within=site.patience)

    await site.apply([named(site, "stocked", namespace)])

    async def refused() -> list[str]:
        return [text for text in await site.events("FailedScheduling", namespace) if "is spent" in text]

    [text, *_] = await eventually(refused, within=site.patience)
    assert f"the GPU budget of namespace {namespace} is spent: 1.0" in text
    assert await running(site, namespace) == ["used"]
    await site.api.request("PATCH", path, body={"spec": {"hard": {HOURS: "2"}}}, content_type=MERGE_PATCH)
    await site.phase("stocked", "Running", namespace=namespace)


def named(site: Site, name: str, namespace: str) -> dict[str, Any]:
    """A pod that uses the claim of its name."""
    pod = site.sleeper(name, template="", seconds=3600)
    pod["metadata"]["namespace"] = namespace
    pod["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": name}]
    return pod


async def test_the_manifest_that_people_start_from_shows_hours_that_grow_over_a_restart(accounting: Accounting) -> None:
    site, namespace = accounting.site, "research-team"
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "gpu", "namespace": namespace},
        "spec": {
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}]}}
        },
    }
    pod: dict[str, Any] = site.sleeper("pod", template="gpu", seconds=3600)
    pod["metadata"]["namespace"] = namespace
    quota = yaml.safe_load(MANIFEST)
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    await site.apply([space, *CLASSES, quota, template, pod])
    await eventually(lambda: shows(accounting, namespace, 0, 1), within=site.patience)

    accounting.skipped += HOUR
    await eventually(lambda: shows(accounting, namespace, 1, 1), within=site.patience)
    await accounting.stop()
    accounting.skipped += HOUR
    accounting.start()

    await eventually(lambda: shows(accounting, namespace, 2, 1), within=site.patience)


async def spent(accounting: Accounting, namespace: str) -> bool:
    return (await accounting.used(namespace))[0] >= 0.1


async def shows(accounting: Accounting, namespace: str, hours: int, gpus: int) -> bool:
    """A minute more or less is the time that the test takes."""
    used, held = await accounting.used(namespace)
    return hours <= used < hours + 0.1 and held == gpus
