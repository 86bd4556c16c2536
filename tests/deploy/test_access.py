"""What a driver's token may do and what it may not: the chart's roles and policies, enforced by the API server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from driver.inventory.slices import slice_name
from driver.kube.client import MERGE_PATCH, RESOURCE, Api, ApiError
from driver.kube.events import NodeEvents
from driver.node.settings import Settings
from driver.operate.doctor.permissions import needed
from tests.deploy.helm import NAMESPACE, RELEASE, Object, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from driver.operate.doctor.state import Permission
    from driver.sim.apiserver import ApiServer
    from tests.deploy.conftest import Tool

SLICES = f"{RESOURCE}/resourceslices"
CLAIMS = f"{RESOURCE}/namespaces/default/resourceclaims"
CORE = "/api/v1"
EVENTS = f"{CORE}/namespaces/default/events"
DRIVER = "gpu.nvidia.com"
VALUES: Object = {"deviceStatus": True}
NODES = ("node-a", "node-b")


@pytest.fixture
async def cluster(server: ApiServer, install: Callable[[Object], None], tmp_path: Path) -> AsyncIterator[Cluster]:
    install(VALUES)
    async with await Api.connect(server.write_kubeconfig(tmp_path / "admin")) as admin:
        cluster = Cluster(server, admin, tmp_path)
        for node in NODES:
            await admin.request("POST", f"{CORE}/nodes", body={"metadata": {"name": node}})
            await cluster.start_driver(node)
        try:
            yield cluster
        finally:
            for api in cluster.opened:
                await api.close()


class Cluster:
    """Two nodes with a driver's pod on each, and who asks."""

    def __init__(self, server: ApiServer, admin: Api, directory: Path) -> None:
        self.server = server
        self.admin = admin
        self.opened: list[Api] = []
        self._directory = directory

    async def start_driver(self, node: str, *, pod: str = "") -> None:
        spec = {
            "nodeName": node,
            "serviceAccountName": RELEASE,
            "containers": [{"name": "driver", "image": "driver"}],
        }
        body = {"metadata": {"name": pod or f"driver-{node}", "namespace": NAMESPACE}, "spec": spec}
        await self.admin.request("POST", f"{CORE}/namespaces/{NAMESPACE}/pods", body=body)

    async def driver(self, node: str = "node-a", *, pod: str = "") -> Api:
        """The API as the driver's pod on a node sees it."""
        return await self.ask_with(self.server.service_account_token(NAMESPACE, RELEASE, pod=pod or f"driver-{node}"))

    async def ask_with(self, token: str) -> Api:
        config = self._directory / f"config-{len(self.opened)}"
        api = await Api.connect(self.server.write_kubeconfig(config, token=token))
        self.opened.append(api)
        return api


def resource_slice(node: str = "node-a", **changed: Any) -> Object:
    """A slice as the driver of this node would publish it, or with something else in its place."""
    name = changed.pop("name", f"00000-{DRIVER}-{node}")
    pool = {"name": changed.pop("pool", node), "generation": 1, "resourceSliceCount": 1}
    metadata = {key: changed.pop(key) for key in ("finalizers", "ownerReferences") if key in changed}
    spec = {"driver": DRIVER, "nodeName": node, "pool": pool, "devices": []} | changed
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name, **metadata},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def owner(*, kind: str = "Node", name: str = "node-a") -> Object:
    return {"apiVersion": "v1", "kind": kind, "name": name, "uid": f"uid-{name}", "controller": kind == "Node"}


def event(kind: str = "Node", name: str = "node-a", **changed: Any) -> Object:
    """An Event as the driver of node-a would write it, or with something else in its place."""
    return {
        "metadata": {"generateName": "node-a-", "namespace": "default", **changed.pop("metadata", {})},
        "involvedObject": {"apiVersion": "v1", "kind": kind, "name": name, "uid": name},
        "reason": "Test",
        "message": "a test",
        "type": "Warning",
        "source": {"component": DRIVER, "host": "node-a"},
        **changed,
    }


async def refused(status: int, request: Awaitable[Any], *words: str) -> None:
    with pytest.raises(ApiError) as error:
        await request
    assert error.value.status == status, error.value
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("status", [True, False])
def test_the_roles_allow_what_the_driver_needs_and_status_only_where_it_writes_it(status: bool) -> None:
    objects = render({"deviceStatus": status})
    rules = [
        (role["metadata"].get("namespace", ""), rule)
        for role in objects
        if role["kind"] in {"ClusterRole", "Role"} and role["metadata"]["name"] in {RELEASE, f"{RELEASE}-events"}
        for rule in role["rules"]
    ]

    def allowed(need: Permission) -> bool:
        return any(
            need.verb in rule["verbs"]
            and need.group in rule["apiGroups"]
            and need.resource in rule["resources"]
            and (need.name in rule["resourceNames"] if "resourceNames" in rule else True)
            and namespace in {"", need.namespace}
            for namespace, rule in rules
        )

    wanted = needed(Settings(node_name="node-a", device_status=status), node_name="node-a")
    assert all(allowed(need) for need in wanted), [need for need in wanted if not allowed(need)]
    assert any("resourceclaims/status" in rule["resources"] for _, rule in rules) == status


async def test_a_driver_writes_the_slices_of_its_own_node(cluster: Cluster) -> None:
    driver = await cluster.driver()

    created = await driver.request("POST", SLICES, body=resource_slice())
    path = f"{SLICES}/{created['metadata']['name']}"
    created["spec"]["pool"]["generation"] = 2
    updated = await driver.request("PUT", path, body=created)
    await driver.request("PATCH", path, body={"metadata": {"labels": {"a": "b"}}}, content_type=MERGE_PATCH)
    await driver.request("DELETE", path)

    assert updated["spec"]["pool"]["generation"] == 2
    assert not (await driver.get(SLICES))["items"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (resource_slice("node-b"), "spec.nodeName"),
        (resource_slice(driver="gpu.example.com"), "only slices of the driver gpu.nvidia.com"),
        (resource_slice(pool="node-b"), "spec.pool.name"),
        (resource_slice(name=f"00000-{DRIVER}-node-b"), "names its slices"),
        (resource_slice(name=f"x-{DRIVER}-node-a"), "names its slices"),
        (resource_slice(name=f"00000-more-{DRIVER}-node-a"), "names its slices"),
        (resource_slice(name="anything"), "names its slices"),
        (resource_slice(name=f"00080-{DRIVER}-node-a"), "names its slices"),
        (resource_slice(finalizers=["example.com/for-ever"]), "may not add finalizers"),
        (resource_slice(ownerReferences=[owner(name="node-b")]), "belong to the Node of the driver"),
        (resource_slice(ownerReferences=[owner(), owner(kind="Pod", name="pod")]), "belong to the Node of the driver"),
        (resource_slice(nodeName=None, allNodes=True), "spec.nodeName"),
        (resource_slice(nodeName=None, perDeviceNodeSelection=True), "spec.nodeName"),
    ],
    ids=[
        "other node",
        "other driver",
        "other pool",
        "name of another node's slice",
        "name without an index",
        "name with more in it",
        "any name",
        "more slices than a node has",
        "finalizers",
        "owned by another node",
        "owned by something else as well",
        "all nodes",
        "nodes by device",
    ],
)
async def test_a_slice_that_is_not_its_own_is_not_created(cluster: Cluster, body: Object, word: str) -> None:
    driver = await cluster.driver()

    await refused(403, driver.request("POST", SLICES, body=body), f"{RELEASE}-slices", word)


LONG_NODES = ("n" * 63, ".".join(["n" * 62] * 3) + ".nnn", ".".join(["n" * 62] * 4), f"{'.'.join(['n' * 62] * 4)}.x")


@pytest.mark.parametrize("node", LONG_NODES, ids=len)
async def test_every_name_that_a_driver_gives_is_taken_however_long_its_nodes(cluster: Cluster, node: str) -> None:
    await cluster.admin.request("POST", f"{CORE}/nodes", body={"metadata": {"name": node}})
    await cluster.start_driver(node, pod="driver")
    driver = await cluster.driver(pod="driver")

    for index in (0, 127):
        name = slice_name(index, driver_name=DRIVER, node_name=node)
        created = await driver.request("POST", SLICES, body=resource_slice(node, name=name))
        assert created["metadata"]["name"] == name
    for name in (slice_name(128, driver_name=DRIVER, node_name=node), f"00001-{DRIVER}-node-a", "anything"):
        await refused(403, driver.request("POST", SLICES, body=resource_slice(node, name=name)), "names its slices")


async def test_what_the_publisher_and_the_events_writer_send_is_taken(cluster: Cluster) -> None:
    driver = await cluster.driver()
    events = NodeEvents(driver, node_name="node-a", component=DRIVER)

    await events.write("Warning", "Test", "a test")
    created = await driver.request("POST", SLICES, body=resource_slice(ownerReferences=[owner()]))

    assert created["metadata"]["ownerReferences"] == [owner()]
    assert [found["reason"] for found in (await cluster.admin.get(EVENTS))["items"]] == ["Test"]


async def test_what_others_put_on_a_slice_may_stay_and_nothing_may_be_added(cluster: Cluster) -> None:
    node = await cluster.admin.get(f"{CORE}/nodes/node-b")
    other = {"apiVersion": "v1", "kind": "Node", "name": "node-b", "uid": node["metadata"]["uid"]}
    theirs = {"finalizers": ["example.com/backup"], "ownerReferences": [other]}
    found = await cluster.admin.request("POST", SLICES, body=resource_slice(**theirs))
    path = f"{SLICES}/{found['metadata']['name']}"
    driver = await cluster.driver()

    found["spec"]["pool"]["generation"] = 2
    updated = await driver.request("PUT", path, body=found)
    more = {"metadata": {"finalizers": ["example.com/backup", "example.com/for-ever"]}}

    await refused(403, driver.request("PATCH", path, body=more, content_type=MERGE_PATCH), "may not add finalizers")
    assert {key: updated["metadata"][key] for key in theirs} == theirs


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (event(name="node-b"), "about this Node only"),
        (event(kind="Pod", name="pod"), "about this Node only"),
        (event(source={"component": "kubelet"}), "in the name of others"),
        (event(metadata={"finalizers": ["example.com/for-ever"]}), "neither finalizers nor owners"),
        (event(metadata={"ownerReferences": [owner()]}), "neither finalizers nor owners"),
    ],
    ids=["another node", "somebody's pod", "in the kubelet's name", "finalizers", "owners"],
)
async def test_an_event_that_is_not_of_the_own_node_is_not_written(cluster: Cluster, body: Object, word: str) -> None:
    driver = await cluster.driver()

    await refused(403, driver.request("POST", EVENTS, body=body), f"{RELEASE}-events", word)


async def test_a_token_that_is_bound_to_no_pod_writes_no_event(cluster: Cluster) -> None:
    unbound = await cluster.ask_with(cluster.server.service_account_token(NAMESPACE, RELEASE))

    await refused(403, unbound.request("POST", EVENTS, body=event()), "the token has no node name")


async def test_slices_of_another_node_are_neither_changed_nor_deleted(cluster: Cluster) -> None:
    theirs = await (await cluster.driver("node-b")).request("POST", SLICES, body=resource_slice("node-b"))
    path = f"{SLICES}/{theirs['metadata']['name']}"
    driver = await cluster.driver("node-a")

    await refused(403, driver.request("PUT", path, body=theirs), "spec.nodeName")
    patch = {"metadata": {"labels": {"a": "b"}}}
    await refused(403, driver.request("PATCH", path, body=patch, content_type=MERGE_PATCH), "spec.nodeName")
    await refused(403, driver.request("DELETE", path), "spec.nodeName")
    assert (await cluster.admin.get(path))["metadata"]["resourceVersion"] == theirs["metadata"]["resourceVersion"]


async def test_slices_of_another_driver_on_the_same_node_are_left_alone(cluster: Cluster) -> None:
    other = await cluster.admin.request("POST", SLICES, body=resource_slice(driver="nic.example.com", name="nic"))
    driver = await cluster.driver()

    await refused(403, driver.request("DELETE", f"{SLICES}/{other['metadata']['name']}"), "only slices of the driver")


async def test_what_another_driver_of_the_same_name_left_on_the_node_may_be_deleted(cluster: Cluster) -> None:
    name = f"00000-{DRIVER}-node-a-x7k2p"
    await cluster.admin.request("POST", SLICES, body=resource_slice(name=name, pool="old"))
    driver = await cluster.driver()

    await driver.request("DELETE", f"{SLICES}/{name}")

    assert not (await driver.get(SLICES))["items"]


async def test_a_token_that_is_bound_to_no_pod_writes_no_slice(cluster: Cluster) -> None:
    unbound = await cluster.ask_with(cluster.server.service_account_token(NAMESPACE, RELEASE))

    await refused(403, unbound.request("POST", SLICES, body=resource_slice()), "the token has no node name")


async def test_the_policy_binds_nobody_else(cluster: Cluster) -> None:
    created = await cluster.admin.request("POST", SLICES, body=resource_slice(name="by-hand", pool="anything"))

    assert created["metadata"]["name"] == "by-hand"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{RESOURCE}/resourceclaims"),
        ("GET", CLAIMS),
        ("DELETE", SLICES),
        ("GET", f"{CORE}/nodes"),
        ("PATCH", f"{CORE}/nodes/node-a"),
        ("GET", f"{CORE}/pods"),
        ("GET", f"{CORE}/namespaces/{NAMESPACE}/secrets"),
        ("GET", f"{CORE}/namespaces/{NAMESPACE}/configmaps"),
        ("POST", f"{RESOURCE}/deviceclasses"),
        ("GET", f"{RESOURCE}/deviceclasses"),
        ("POST", CLAIMS),
        ("DELETE", f"{CLAIMS}/claim"),
        ("PATCH", f"{CLAIMS}/claim"),
        ("POST", f"{CORE}/namespaces/kube-system/events"),
        ("POST", f"{CORE}/namespaces/{NAMESPACE}/pods"),
    ],
)
async def test_what_no_rule_allows_is_forbidden(cluster: Cluster, method: str, path: str) -> None:
    driver = await cluster.driver()
    kind = MERGE_PATCH if method == "PATCH" else "application/json"

    await refused(403, driver.request(method, path, body={"metadata": {"name": "x"}}, content_type=kind), "cannot")


async def test_a_driver_reads_claims_by_name_and_its_node_and_writes_events_about_it(cluster: Cluster) -> None:
    await cluster.admin.request("POST", CLAIMS, body=claim())
    driver = await cluster.driver()

    assert (await driver.get(f"{CLAIMS}/claim"))["metadata"]["name"] == "claim"
    assert (await driver.get(f"{CORE}/nodes/node-a"))["metadata"]["name"] == "node-a"
    await driver.request("POST", EVENTS, body=event())


async def test_a_driver_says_of_a_claim_what_became_of_its_devices(cluster: Cluster) -> None:
    await allocated(cluster)

    changed = await write_status(await cluster.driver(), {"devices": [device()]})

    assert changed["status"]["devices"][0]["device"] == "gpu-0"


async def test_a_claim_of_another_node_is_not_spoken_for(cluster: Cluster) -> None:
    await allocated(cluster)

    await refused(422, write_status(await cluster.driver("node-b"), {"devices": [device()]}), "resourceclaims/driver")


async def test_another_drivers_devices_are_not_spoken_for(cluster: Cluster) -> None:
    await allocated(cluster, driver="nic.example.com")
    driver = await cluster.driver()

    await refused(422, write_status(driver, {"devices": [device("nic.example.com")]}), "resourceclaims/driver")


@pytest.mark.parametrize(
    "status",
    [
        {"allocation": None},
        {"reservedFor": [{"resource": "pods", "name": "pod", "uid": "1"}]},
    ],
    ids=["allocation", "reservedFor"],
)
@pytest.mark.parametrize("granular", [True, False], ids=["1.36", "1.35"])
async def test_allocation_and_reservations_are_the_schedulers(cluster: Cluster, status: Object, granular: bool) -> None:
    await allocated(cluster)
    driver = await cluster.driver()
    if not granular:  # where the API server itself does not ask for more than the permission to write status
        await cluster.admin.request("POST", f"{RBAC}/clusterroles", body=BINDING_ROLE)
        await cluster.admin.request("POST", f"{RBAC}/clusterrolebindings", body=BINDING)

    patch = driver.request("PATCH", f"{CLAIMS}/claim/status", body={"status": status}, content_type=MERGE_PATCH)

    await refused(422 if granular else 403, patch, "status." if granular else "the driver may not change")


async def test_without_device_status_a_claims_status_is_out_of_reach(
    cluster: Cluster, install: Callable[[Object], None]
) -> None:
    await allocated(cluster)
    install({})

    await refused(403, write_status(await cluster.driver(), {"devices": [device()]}), "cannot patch")


async def test_users_with_the_role_edit_make_claims_and_nothing_that_is_the_administrators(
    cluster: Cluster, tool: Tool
) -> None:
    await tool("kubectl", "create", "rolebinding", "dev", "--clusterrole=edit", "--user=dev")

    async def may(verb: str, resource: str, *options: str) -> bool:
        command = ("auth", "can-i", verb, f"{resource}.resource.k8s.io", "--as=dev", *options)
        # Its exit status says it as well; either is an answer.
        answer = await tool("kubectl", *command, fails=None)
        return answer.strip().splitlines()[-1] == "yes"

    assert await may("create", "resourceclaims")
    assert await may("create", "resourceclaimtemplates")
    assert not await may("update", "resourceclaims", "--subresource=status")
    assert not await may("update", "resourceclaims", "--subresource=binding")
    assert not await may("create", "deviceclasses")
    assert not await may("create", "resourceslices")


async def test_readers_of_slices_read_them_and_the_classes(cluster: Cluster, tool: Tool) -> None:
    role = f"--clusterrole={RELEASE}-slices-view"
    await tool("kubectl", "create", "clusterrolebinding", "readers", role, "--user=reader")

    for resource in ("resourceslices", "deviceclasses"):
        assert "yes" in await tool("kubectl", "auth", "can-i", "list", f"{resource}.resource.k8s.io", "--as=reader")
    await tool("kubectl", "auth", "can-i", "delete", "resourceslices.resource.k8s.io", "--as=reader", fails=True)


RBAC = "/apis/rbac.authorization.k8s.io/v1"
BINDING_ROLE: Object = {
    "metadata": {"name": "binding"},
    "rules": [{"apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims/binding"], "verbs": ["*"]}],
}
BINDING: Object = {
    "metadata": {"name": "binding"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "binding"},
    "subjects": [{"kind": "ServiceAccount", "name": RELEASE, "namespace": NAMESPACE}],
}


def claim() -> Object:
    request = {"name": "gpu", "exactly": {"deviceClassName": DRIVER}}
    return {"metadata": {"name": "claim", "namespace": "default"}, "spec": {"devices": {"requests": [request]}}}


def device(driver: str = DRIVER) -> Object:
    return {"driver": driver, "pool": "node-a", "device": "gpu-0"}


async def allocated(cluster: Cluster, driver: str = DRIVER) -> None:
    """A claim with a device of node-a, as the scheduler leaves it."""
    created = await cluster.admin.request("POST", CLAIMS, body=claim())
    only_here = {"key": "metadata.name", "operator": "In", "values": ["node-a"]}
    created["status"] = {
        "allocation": {
            "devices": {"results": [{"request": "gpu", **device(driver)}]},
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [only_here]}]},
        }
    }
    await cluster.admin.request("PUT", f"{CLAIMS}/claim/status", body=created)


async def write_status(api: Api, status: Object) -> Object:
    """As the driver does it."""
    return await api.request("PATCH", f"{CLAIMS}/claim/status", body={"status": status}, content_type=MERGE_PATCH)
