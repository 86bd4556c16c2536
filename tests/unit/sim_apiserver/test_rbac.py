"""Roles and bindings: who may do what, what a refusal says, and how one asks beforehand."""

import asyncio

import aiohttp

from driver.sim.apiserver import ADMIN
from tests.eventually import PATIENCE
from tests.unit.sim_apiserver.cluster import CLAIMS, CONFIGMAPS, CORE, DRA, PODS, Cluster, claim, pod, refused

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLES, BINDINGS = f"{RBAC}/namespaces/default/roles", f"{RBAC}/namespaces/default/rolebindings"
CLUSTER_ROLES, CLUSTER_BINDINGS = f"{RBAC}/clusterroles", f"{RBAC}/clusterrolebindings"
ACCESS = "/apis/authorization.k8s.io/v1"


def rule(verbs: str, resources: str, group: str = "", **more) -> dict:
    return {"verbs": verbs.split(), "resources": resources.split(), "apiGroups": [group], **more}


def subject(kind: str, name: str, **more) -> dict:
    return {"kind": kind, "name": name, **more}


async def bind(cluster: Cluster, name: str, *rules: dict, to: dict, namespaced: bool = True, kind: str = "") -> None:
    """Give the rules to somebody, in the namespace ``default`` or everywhere."""
    kind = kind or ("Role" if namespaced else "ClusterRole")
    await cluster.create(ROLES if kind == "Role" else CLUSTER_ROLES, {"metadata": {"name": name}, "rules": list(rules)})
    await refer(cluster, name, kind, to, namespaced=namespaced)


async def refer(cluster: Cluster, name: str, kind: str, to: dict, *, namespaced: bool = True) -> None:
    body = {"metadata": {"name": name}, "roleRef": {"kind": kind, "name": name}, "subjects": [to]}
    await cluster.create(BINDINGS if namespaced else CLUSTER_BINDINGS, body)


async def test_a_new_user_may_do_nothing_but_read_surroundings(cluster, login) -> None:
    jane = await login("jane")
    await jane.get("/apis")
    async with refused(403) as refusal:
        await jane.get(f"{PODS}/pod")
    assert refusal.message == (
        'pods "pod" is forbidden: User "jane" cannot get resource "pods" in API group "" in the namespace "default"'
    )
    async with refused(403) as refusal:
        await jane.get("/metrics")
    assert refusal.message == 'forbidden: User "jane" cannot get path "/metrics"'


async def test_what_does_not_exist_is_not_told_to_those_who_may_not_ask(cluster, login) -> None:
    jane = await login("jane")
    async with refused(403):
        await jane.get(f"{DRA}/nosuchthings")
    async with refused(404):
        await cluster.get(f"{DRA}/nosuchthings")


async def test_a_role_holds_in_its_namespace(cluster, login) -> None:
    await cluster.create("/api/v1/namespaces", {"metadata": {"name": "other"}})
    await bind(cluster, "reader", rule("get list watch", "pods"), to=subject("User", "jane"))
    jane = await login("jane")
    assert await jane.names(PODS) == []
    for path in ("/api/v1/namespaces/other/pods", "/api/v1/pods"):
        async with refused(403):
            await jane.names(path)
    async with refused(403) as refusal:
        await jane.create(PODS, pod())
    assert 'cannot create resource "pods"' in refusal.message


async def test_a_cluster_role_holds_where_it_is_bound(cluster, login) -> None:
    await bind(cluster, "here", rule("list", "configmaps"), to=subject("User", "jane"), kind="ClusterRole")
    await bind(
        cluster, "everywhere", rule("list", "pods"), to=subject("Group", "system:authenticated"), namespaced=False
    )
    jane = await login("jane")
    assert await jane.names("/api/v1/pods") == []
    assert "x" not in await jane.names(CONFIGMAPS)
    async with refused(403):
        await jane.names("/api/v1/configmaps")


async def test_subresources_need_their_own_permission(cluster, login) -> None:
    await cluster.create(CLAIMS, claim())
    await bind(cluster, "user", rule("get patch", "resourceclaims", "resource.k8s.io"), to=subject("User", "jane"))
    jane = await login("jane")
    await jane.merge(f"{CLAIMS}/claim", {"metadata": {"labels": {"a": "b"}}})
    async with refused(403) as refusal:
        await jane.merge(f"{CLAIMS}/claim/status", {"status": {}})
    assert 'cannot patch resource "resourceclaims/status" in API group "resource.k8s.io"' in refusal.message


async def test_names_limit_a_rule(cluster, login) -> None:
    await bind(cluster, "mine", rule("*", "configmaps", resourceNames=["mine"]), to=subject("User", "jane"))
    for name in ("mine", "other"):
        await cluster.create(CONFIGMAPS, {"metadata": {"name": name}})
    jane = await login("jane")
    await jane.get(f"{CONFIGMAPS}/mine")
    assert await jane.names(CONFIGMAPS, fieldSelector="metadata.name=mine") == ["mine"]
    async with refused(403):
        await jane.get(f"{CONFIGMAPS}/other")
    async with refused(403):
        await jane.names(CONFIGMAPS)
    async with refused(403):
        await jane.create(CONFIGMAPS, {"metadata": {"name": "mine"}})


async def test_wildcards(cluster, login) -> None:
    await bind(cluster, "status", rule("get", "*/status", "*"), to=subject("User", "jane"), namespaced=False)
    await bind(
        cluster, "live", {"verbs": ["get"], "nonResourceURLs": ["/live*"]}, to=subject("User", "jane"), namespaced=False
    )
    await cluster.create(CLAIMS, claim())
    jane = await login("jane")
    await jane.get(f"{CLAIMS}/claim/status")
    async with refused(403):
        await jane.get(f"{CLAIMS}/claim")
    async with refused(404):  # allowed, but not there
        await jane.get("/live/and/let/live")


async def test_an_aggregated_role_is_the_sum_of_its_parts_at_any_time(cluster, login) -> None:
    rules = [rule("get", "pods")]
    await cluster.create(CLUSTER_ROLES, {"metadata": {"name": "part", "labels": {"to": "sum"}}, "rules": rules})
    selectors = {"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]}
    await cluster.create(CLUSTER_ROLES, {"metadata": {"name": "sum"}, "aggregationRule": selectors})
    await refer(cluster, "sum", "ClusterRole", subject("User", "jane"), namespaced=False)
    assert (await cluster.get(f"{CLUSTER_ROLES}/sum"))["rules"] == rules
    await cluster.merge(f"{CLUSTER_ROLES}/part", {"rules": [rule("list", "nodes")]})
    assert await (await login("jane")).names(f"{CORE}/nodes") == []
    await cluster.delete(f"{CLUSTER_ROLES}/part")
    assert (
        "rules" not in await cluster.get(f"{CLUSTER_ROLES}/sum")
        or not (await cluster.get(f"{CLUSTER_ROLES}/sum"))["rules"]
    )


async def test_permissions_follow_the_objects_at_once(cluster, login) -> None:
    jane = await login("jane")
    async with refused(403):
        await jane.names(PODS)
    await bind(cluster, "reader", rule("list", "pods"), to=subject("User", "jane"))
    assert await jane.names(PODS) == []
    await cluster.delete(f"{BINDINGS}/reader")
    async with refused(403):
        await jane.names(PODS)


async def test_a_watch_needs_its_verb(cluster, login) -> None:
    await bind(cluster, "lister", rule("list", "pods"), to=subject("User", "jane"))
    jane = await login("jane")
    async with refused(403), asyncio.timeout(PATIENCE):
        async for _ in jane.api.watch(PODS, {}):
            pass


async def test_a_binding_keeps_its_role(cluster) -> None:
    await refer(cluster, "edit", "ClusterRole", subject("User", "jane"))
    async with refused(422) as refusal:
        await cluster.merge(f"{BINDINGS}/edit", {"roleRef": {"name": "cluster-admin"}})
    assert refusal.message.endswith("field is immutable")


# -- asking --------------------------------------------------------------------------------------------------------


async def may(cluster: Cluster, kind: str = "SelfSubjectAccessReview", **spec) -> dict:
    return (await cluster.create(f"{ACCESS}/{kind.lower()}s", {"kind": kind, "spec": spec}))["status"]


async def test_a_user_may_ask_what_she_may_do(cluster, login) -> None:
    await bind(cluster, "reader", rule("get", "pods"), to=subject("User", "jane"))
    jane = await login("jane")
    assert await may(jane, resourceAttributes={"verb": "get", "resource": "pods", "namespace": "default"}) == {
        "allowed": True,
        "reason": 'RBAC: allowed by RoleBinding "reader"',
    }
    assert await may(jane, resourceAttributes={"verb": "get", "resource": "pods"}) == {"allowed": False}
    assert (await may(jane, nonResourceAttributes={"verb": "get", "path": "/version"}))["allowed"]


async def test_an_administrator_may_ask_about_others(cluster, login) -> None:
    await bind(cluster, "reader", rule("get", "pods"), to=subject("Group", "team"), namespaced=False)
    what = {"verb": "get", "resource": "pods"}
    assert (await may(cluster, "SubjectAccessReview", user="joe", groups=["team"], resourceAttributes=what))["allowed"]
    async with refused(403):
        await may(await login("jane"), "SubjectAccessReview", user="joe", resourceAttributes=what)


async def test_questions_are_not_stored(cluster) -> None:
    async with refused(405):
        await cluster.get(f"{ACCESS}/selfsubjectaccessreviews")
    async with refused(400) as refusal:
        await may(cluster)
    assert "exactly one of nonResourceAttributes or resourceAttributes must be specified" in refusal.message


async def test_an_administrator_may_ask_in_the_name_of_others(server, cluster, login) -> None:
    await login("jane")
    headers = {"Impersonate-User": "system:serviceaccount:default:driver"}
    async with aiohttp.ClientSession(server.url, headers=headers) as session, session.get(PODS) as response:
        assert (await response.json())["message"] == (
            'serviceaccounts "driver" is forbidden: User "system:anonymous" cannot impersonate resource '
            '"serviceaccounts" in API group "" in the namespace "default"'
        )
    server.anonymous = ADMIN
    async with aiohttp.ClientSession(server.url, headers=headers) as session, session.get(PODS) as response:
        assert 'User "system:serviceaccount:default:driver" cannot list' in (await response.json())["message"]
