"""Bearer tokens: whose they are, what they are bound to, and when they end."""

import aiohttp
import pytest

from driver.sim.apiserver import ANONYMOUS
from tests.unit.sim_apiserver.cluster import CORE, NODES, PODS, SLICES, Cluster, pod, refused

ACCOUNTS = f"{CORE}/namespaces/default/serviceaccounts"
WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
EXTRA = "authentication.kubernetes.io/"


async def who(cluster: Cluster) -> dict:
    return (await cluster.create(WHO_AM_I, {}))["status"]["userInfo"]


@pytest.fixture
async def account(cluster: Cluster) -> str:
    created = await cluster.create(ACCOUNTS, {"metadata": {"name": "driver"}})
    return created["metadata"]["uid"]


async def test_the_kubeconfig_is_the_administrators(server, cluster) -> None:
    server.anonymous = ANONYMOUS
    assert (await who(cluster))["groups"] == ["system:masters", "system:authenticated"]


@pytest.mark.parametrize(
    ("header", "status", "message"),
    [
        ({}, 403, 'resourceslices.resource.k8s.io is forbidden: User "system:anonymous" cannot list resource '
                  '"resourceslices" in API group "resource.k8s.io" at the cluster scope'),
        ({"Authorization": "Bearer nonsense"}, 401, "Unauthorized"),
        ({"Authorization": "Bearer a.b.c"}, 401, "Unauthorized"),
    ],
)  # fmt: skip
async def test_nobody_is_let_in_without_a_good_token(server, header, status, message) -> None:
    server.anonymous = ANONYMOUS
    async with aiohttp.ClientSession(headers=header) as session, session.get(server.url + SLICES) as response:
        assert (response.status, (await response.json())["message"]) == (status, message)


async def test_anybody_may_ask_for_health_and_version(server) -> None:
    server.anonymous = ANONYMOUS
    async with aiohttp.ClientSession() as session:
        for path in ("/healthz", "/readyz", "/version"):
            async with session.get(server.url + path) as response:
                assert response.status == 200
        async with session.get(server.url + "/api") as response:
            assert (await response.json())["message"] == 'forbidden: User "system:anonymous" cannot get path "/api"'


async def test_a_token_stands_for_its_service_account(server, account, login) -> None:
    found = await who(await login(token=server.service_account_token("default", "driver")))
    assert found["username"] == "system:serviceaccount:default:driver"
    assert found["uid"] == account
    assert found["groups"] == ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
    assert found["extra"] == {}


async def test_a_pods_token_names_pod_and_node(server, cluster, account, login) -> None:
    node = await cluster.create(NODES, {"metadata": {"name": "node-1"}})
    created = await cluster.create(PODS, pod(serviceAccountName="driver", nodeName="node-1"))
    found = await who(await login(token=server.service_account_token("default", "driver", pod="pod")))
    assert found["extra"] == {
        f"{EXTRA}pod-name": ["pod"],
        f"{EXTRA}pod-uid": [created["metadata"]["uid"]],
        f"{EXTRA}node-name": ["node-1"],
        f"{EXTRA}node-uid": [node["metadata"]["uid"]],
    }


async def test_a_token_ends_with_what_it_is_bound_to(server, cluster, account, login) -> None:
    await cluster.create(NODES, {"metadata": {"name": "node-1"}})
    await cluster.create(PODS, pod(serviceAccountName="driver"))
    users = [
        await login(token=server.service_account_token("default", "driver", pod="pod")),
        await login(token=server.service_account_token("default", "driver", node="node-1")),
        await login(token=server.service_account_token("default", "driver")),
    ]
    for user, path in zip(users, (f"{PODS}/pod", f"{NODES}/node-1", f"{ACCOUNTS}/driver"), strict=True):
        await who(user)
        await cluster.delete(path)
        async with refused(401):
            await who(user)
