"""Who may do what, servers that misbehave, logs, and state that outlives the process."""

import asyncio

import aiohttp
import pytest

from driver.kube.client import Api, ApiError
from driver.sim.apiserver import ApiServer, Fault, User
from tests.eventually import PATIENCE
from tests.unit.sim_apiserver.cluster import (
    CLAIMS,
    CONFIGMAPS,
    PODS,
    SLICES,
    Cluster,
    allocation,
    claim,
    pod,
    refused,
    resource_slice,
    result,
)

NODE_PLUGIN = User(
    name="system:serviceaccount:gpu:driver",
    groups=("system:serviceaccounts",),
    extra={"authentication.kubernetes.io/node-name": ("node-1",)},
)


async def test_a_user_without_permission_is_told_what_is_missing(server, tmp_path) -> None:
    server.tokens = {"secret": User(name="jane")}
    server.authorize = lambda user, verb, group, resource, sub, namespace, name: resource == "resourceclaims"
    async with await Api.connect(server.write_kubeconfig(tmp_path / "jane", token="secret")) as api:
        assert await Cluster(api).names(CLAIMS) == []
        async with refused(403) as refusal:
            await Cluster(api).names(SLICES)
        assert refusal.message == (
            'resourceslices.resource.k8s.io is forbidden: User "jane" cannot list resource "resourceslices" '
            'in API group "resource.k8s.io" at the cluster scope'
        )
        async with refused(403) as refusal:
            await Cluster(api).get(f"{CONFIGMAPS}/c")
        assert refusal.message.endswith('cannot get resource "configmaps" in API group "" in the namespace "default"')


async def test_device_status_needs_the_synthetic_permission_of_its_driver(server, cluster, tmp_path) -> None:
    node = {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}]}
    await cluster.create(CLAIMS, claim())
    await cluster.merge(f"{CLAIMS}/claim/status", {"status": {"allocation": allocation() | {"nodeSelector": node}}})
    device = {key: value for key, value in result().items() if key != "request"}
    allowed: set[str] = set()
    server.tokens = {"secret": NODE_PLUGIN}
    server.authorize = lambda _user, verb, _group, _resource, sub, _namespace, name: (
        sub != "driver" or (name == "gpu.example.com" and verb in allowed)
    )
    async with await Api.connect(server.write_kubeconfig(tmp_path / "plugin", token="secret")) as api:
        async with refused(422) as refusal:
            await Cluster(api).merge(f"{CLAIMS}/claim/status", {"status": {"devices": [device]}})
        assert (
            'changing status.devices requires resource="resourceclaims/driver", '
            'verb="[associated-node:patch arbitrary-node:patch]" permission'
        ) in refusal.message
        allowed.add("associated-node:patch")
        assert await Cluster(api).merge(f"{CLAIMS}/claim/status", {"status": {"devices": [device]}})


async def test_a_fault_may_refuse_with_retry_after(server, cluster) -> None:
    server.fault = lambda request: Fault(status=429, retry_after=3) if request.resource == "resourceslices" else None
    with pytest.raises(ApiError) as error:
        await cluster.get(SLICES)
    assert (error.value.status, error.value.reason, error.value.retry_after) == (429, "TooManyRequests", 3)
    assert await cluster.names(CONFIGMAPS) == []


async def test_a_fault_may_answer_garbage(server, cluster) -> None:
    server.fault = lambda _request: Fault(status=502, body=b"<html>bad gateway</html>")
    with pytest.raises(ApiError, match="bad gateway") as error:
        await cluster.get(SLICES)
    assert error.value.transient


async def test_a_dropped_request_has_no_effect(server, cluster) -> None:
    server.fault = lambda request: Fault(drop=True) if request.verb == "create" else None
    async with refused(0):
        await cluster.create(SLICES, resource_slice())
    assert await cluster.names(SLICES) == []


async def test_a_lost_answer_has_its_effect(server, cluster) -> None:
    server.fault = lambda request: Fault(lose_answer=True) if request.verb == "create" else None
    async with refused(0):
        await cluster.create(SLICES, resource_slice())
    assert await cluster.names(SLICES) == ["slice"]


async def test_a_fault_may_wait_for_the_test(server, cluster) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def hold(request):
        arrived.set()
        await go.wait()

    server.fault = hold
    task = asyncio.create_task(cluster.names(SLICES))
    await asyncio.wait_for(arrived.wait(), PATIENCE)
    assert not task.done()
    go.set()
    assert await task == []


async def test_requests_are_counted(server, cluster) -> None:
    await cluster.names(SLICES)
    await cluster.names(SLICES)
    assert server.requests["list", "resourceslices"] == 2


async def read_log(server, **params) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}{PODS}/pod/log", params=params) as response,
    ):
        return await response.text()


async def test_logs_are_those_that_were_handed_in() -> None:
    async with ApiServer(read_log=lambda _pod, container: {"": "one\ntwo\n"}[container]) as server:
        async with aiohttp.ClientSession(server.url) as session:
            await session.post(PODS, json=pod())
        assert await read_log(server) == "one\ntwo\n"
        assert await read_log(server, tailLines="1") == "two\n"
        assert "other" in await read_log(server, container="other")


async def test_discovery_lists_groups_and_resources(server, cluster) -> None:
    groups = await cluster.get("/apis")
    assert "resource.k8s.io" in [group["metadata"]["name"] for group in groups["items"]]
    listed = await cluster.get("/apis/resource.k8s.io/v1")
    names = {item["name"] for item in listed["resources"]}
    assert {"resourceclaims", "resourceclaims/status", "resourceslices"} <= names
    assert (await cluster.get("/version"))["gitVersion"] == "v1.36.2"


async def test_openapi_names_the_validation_parameter(server, cluster) -> None:
    roots = await cluster.get("/openapi/v3")
    document = await cluster.get(roots["paths"]["apis/resource.k8s.io/v1"]["serverRelativeURL"])
    operation = document["paths"]["/apis/resource.k8s.io/v1/resourceslices/{name}"]["patch"]
    assert "fieldValidation" in [parameter["name"] for parameter in operation["parameters"]]


async def test_tables_have_the_columns_that_kubectl_shows(server, cluster) -> None:
    await cluster.create(SLICES, resource_slice())
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    async with aiohttp.ClientSession(server.url, headers=headers) as session:
        table = await (await session.get(SLICES)).json()
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Node", "Driver", "Pool", "Age"]
    assert table["rows"][0]["cells"][:4] == ["slice", "node-1", "gpu.example.com", "node-1"]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
