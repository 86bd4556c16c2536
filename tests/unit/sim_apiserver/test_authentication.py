"""Bearer tokens: whose they are, what they are bound to, and when they end."""

from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from driver.kube.client import Api
from driver.sim.apiserver import ANONYMOUS, ApiServer
from tests.unit.sim_apiserver.cluster import CORE, NODES, PODS, SLICES, Cluster, pod, refused

ACCOUNTS = f"{CORE}/namespaces/default/serviceaccounts"
WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
EXTRA = "authentication.kubernetes.io/"


async def who(cluster: Cluster) -> dict:
    return (await cluster.create(WHO_AM_I, {}))["status"]["userInfo"]


async def token(cluster: Cluster, account: str = "driver", **spec) -> str:
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return (await cluster.create(f"{ACCOUNTS}/{account}/token", request))["status"]["token"]


def bound(kind: str, name: str, **more) -> dict:
    return {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, **more}}


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


async def test_a_token_stands_for_its_service_account(cluster, account, login) -> None:
    found = await who(await login(await token(cluster)))
    assert found["username"] == "system:serviceaccount:default:driver"
    assert found["uid"] == account
    assert found["groups"] == ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
    [credential] = found["extra"].pop(f"{EXTRA}credential-id")
    assert credential.startswith("JTI=")
    assert found["extra"] == {}


async def test_a_pods_token_names_pod_and_node(cluster, account, login) -> None:
    node = await cluster.create(NODES, {"metadata": {"name": "node-1"}})
    created = await cluster.create(PODS, pod(serviceAccountName="driver", nodeName="node-1"))
    found = await who(await login(await token(cluster, **bound("Pod", "pod"))))
    del found["extra"][f"{EXTRA}credential-id"]
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
        await login(await token(cluster, **bound("Pod", "pod"))),
        await login(await token(cluster, **bound("Node", "node-1"))),
        await login(await token(cluster)),
    ]
    for user, path in zip(users, (f"{PODS}/pod", f"{NODES}/node-1", f"{ACCOUNTS}/driver"), strict=True):
        await who(user)
        await cluster.delete(path)
        async with refused(401):
            await who(user)


async def test_a_token_ends_when_its_time_is_up(tmp_path) -> None:
    clock = datetime.now(UTC)
    async with ApiServer(now=lambda: clock) as server:
        server.add({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "driver"}})
        async with await Api.connect(server.write_kubeconfig(tmp_path / "admin")) as api:
            short = await token(Cluster(api), expirationSeconds=600)
        async with await Api.connect(server.write_kubeconfig(tmp_path / "driver", token=short)) as api:
            await who(Cluster(api))
            clock += timedelta(seconds=601)
            async with refused(401):
                await who(Cluster(api))


async def test_a_token_for_somebody_else_is_not_taken(cluster, account, login) -> None:
    other = await login(await token(cluster, audiences=["https://example.com"]))
    async with refused(401):
        await who(other)


@pytest.mark.parametrize(
    ("name", "spec", "status", "message"),
    [
        ("driver", {"expirationSeconds": 599}, 422, "may not specify a duration less than 10 minutes"),
        ("driver", bound("Pod", "other"), 400, "to pod running with different serviceaccount name"),
        ("driver", bound("Pod", "pod", uid="another"), 409, "might have been deleted and then recreated"),
        ("driver", bound("ConfigMap", "c"), 400, "cannot bind token to object of type /v1, Kind=ConfigMap"),
        ("driver", bound("Node", "nowhere"), 404, 'nodes "nowhere" not found'),
        ("nobody", {}, 404, 'serviceaccounts "nobody" not found'),
    ],
)
async def test_requests_for_tokens_are_checked(cluster, account, name, spec, status, message) -> None:
    await cluster.create(PODS, pod(serviceAccountName="driver"))
    await cluster.create(PODS, pod("other"))
    async with refused(status) as refusal:
        await token(cluster, name, **spec)
    assert message in refusal.message


async def test_token_reviews_say_whose_a_token_is(cluster, account) -> None:
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    good = await cluster.create(path, {"spec": {"token": await token(cluster)}})
    assert good["status"]["authenticated"]
    assert good["status"]["user"]["username"] == "system:serviceaccount:default:driver"
    bad = await cluster.create(path, {"spec": {"token": "nonsense"}})
    assert bad["status"] == {"user": {}, "error": "invalid bearer token"}
