"""A cluster without a kubelet: API server, scheduler and controllers; tests play the node."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from driver.kube.client import MERGE_PATCH, RESOURCE, Api, ApiError
from driver.sim.apiserver import V1_36, ApiServer
from driver.sim.controllers.manager import ControlPlane
from driver.sim.scheduler.cel import compile_error
from tests.eventually import eventually

PODS = "/api/v1/namespaces/default/pods"
CLAIMS = f"{RESOURCE}/namespaces/default/resourceclaims"
TEMPLATES = f"{RESOURCE}/namespaces/default/resourceclaimtemplates"
SLICES = f"{RESOURCE}/resourceslices"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
EVENTS = "/api/v1/namespaces/default/events"
RULES = f"/apis/{V1_36.taint_rules}/devicetaintrules"
KINDS = {
    PODS: ("v1", "Pod"),
    CLAIMS: ("resource.k8s.io/v1", "ResourceClaim"),
    TEMPLATES: ("resource.k8s.io/v1", "ResourceClaimTemplate"),
    SLICES: ("resource.k8s.io/v1", "ResourceSlice"),
    f"{RESOURCE}/deviceclasses": ("resource.k8s.io/v1", "DeviceClass"),
    "/api/v1/nodes": ("v1", "Node"),
    JOBS: ("batch/v1", "Job"),
    RULES: (V1_36.taint_rules, "DeviceTaintRule"),
}


class World:
    """What a test does to the cluster, and what it waits for."""

    def __init__(self, api: Api, server: ApiServer, plane: ControlPlane) -> None:
        self.api, self.server, self.plane = api, server, plane
        self.running: asyncio.Task[None] | None = None

    async def create(self, collection, name, **fields):
        version, kind = KINDS[collection]
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}
        return await self.api.request("POST", collection, body=body)

    async def gpus(self, count, *, taints=None):
        devices = [
            {"name": f"gpu-{i}", "attributes": {"index": {"int": i}}, "capacity": {"memory": {"value": "80Gi"}}}
            for i in range(count)
        ]
        for index, taint in (taints or {}).items():
            devices[index]["taints"] = [taint]
        pool = {"name": "node-a", "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": "gpu.nvidia.com", "nodeName": "node-a", "pool": pool, "devices": devices}
        return await self.create(SLICES, "00000-gpu.nvidia.com-node-a", spec=spec)

    async def taint(self, index, taint):
        path = f"{SLICES}/00000-gpu.nvidia.com-node-a"
        slice_ = await self.api.get(path)
        slice_["spec"]["devices"][index]["taints"] = [taint] if taint else []
        await self.api.request("PUT", path, body=slice_)

    async def pod(self, name, *claims, resources=None, **spec):
        """A pod with claims: a name makes an entry from the template "one", a pair (entry, claim) names a claim."""
        entries = [
            {"name": c, "resourceClaimTemplateName": "one"}
            if isinstance(c, str)
            else {"name": c[0], "resourceClaimName": c[1]}
            for c in claims
        ]
        resources = resources or {"claims": [{"name": e["name"]} for e in entries]}
        containers = [{"name": "main", "image": "x", "resources": resources}]
        claims_ = {"resourceClaims": entries} if entries else {}
        return await self.create(PODS, name, spec={"containers": containers, **claims_, **spec})

    async def get(self, collection, name):
        with contextlib.suppress(ApiError):
            return await self.api.get(f"{collection}/{name}")
        return None

    async def list(self, collection):
        return (await self.api.get(collection))["items"]

    async def phase(self, pod, phase):
        path = f"{PODS}/{pod}/status"
        await self.api.request("PATCH", path, body={"status": {"phase": phase}}, content_type=MERGE_PATCH)

    async def remove(self, pod):
        """What a kubelet does last for a pod that ends."""
        await self.api.request("DELETE", f"{PODS}/{pod}", params={"gracePeriodSeconds": 0})

    async def eventually(self, condition, what=""):
        """The first true answer of an async function, while the control plane runs."""

        async def look():
            if self.running is not None and self.running.done():
                await self.running
            return await condition()

        return await eventually(look, what=what or str(condition))

    async def bound(self, pod):
        async def condition():
            found = await self.get(PODS, pod)
            return found if found and found["spec"].get("nodeName") else None

        return await self.eventually(condition, f"pod {pod} is bound")

    async def unschedulable(self, pod, text=""):
        async def condition():
            found = await self.get(PODS, pod) or {}
            for entry in found.get("status", {}).get("conditions", []):
                if entry["type"] == "PodScheduled" and entry["status"] == "False" and text in entry["message"]:
                    return entry["message"]
            return None

        return await self.eventually(condition, f"pod {pod} is unschedulable: {text}")

    async def claim_of(self, pod):
        (status,) = pod["status"]["resourceClaimStatuses"]
        return await self.api.get(f"{CLAIMS}/{status['resourceClaimName']}")

    async def no_claims(self):
        async def condition():
            return not await self.list(CLAIMS)

        await self.eventually(condition, "all claims are gone")

    async def events(self, reason):
        return [e for e in await self.list(EVENTS) if e["reason"] == reason]


@pytest.fixture
async def world(tmp_path):
    async with ApiServer(compile_cel=compile_error) as server, contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(await Api.connect(server.write_kubeconfig(tmp_path / "kubeconfig")))
        plane = ControlPlane(api, taint_rules=V1_36.taint_rules)
        world = World(api, server, plane)
        await world.create("/api/v1/nodes", "node-a")
        selector = {"cel": {"expression": 'device.driver == "gpu.nvidia.com"'}}
        spec = {"selectors": [selector], "extendedResourceName": "nvidia.com/gpu"}
        await world.create(f"{RESOURCE}/deviceclasses", "gpu", spec=spec)
        request = {"name": "gpu", "exactly": {"deviceClassName": "gpu"}}
        await world.create(TEMPLATES, "one", spec={"spec": {"devices": {"requests": [request]}}})
        world.running = asyncio.create_task(plane.run())
        yield world
        world.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await world.running
