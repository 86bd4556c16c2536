"""Who may do what, servers that misbehave, logs, and state that outlives the process."""

import asyncio

import aiohttp
import pytest

from driver.kube.client import ApiError
from driver.sim.apiserver import ApiServer, Fault
from tests.eventually import PATIENCE
from tests.unit.sim_apiserver.cluster import (
    CONFIGMAPS,
    PODS,
    SLICES,
    pod,
    refused,
    resource_slice,
)


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
