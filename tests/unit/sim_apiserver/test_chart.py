"""What an installed chart consists of: applied, rehearsed, and refused where it is wrong."""

from pathlib import Path

import pytest
import yaml

from driver.sim import identity
from driver.sim.apiserver.resources import BY_KIND
from tests.unit.sim_apiserver.cluster import CLAIMS, NODES, PODS, SLICES, Cluster, pod, refused, resource_slice

MANIFESTS = sorted((Path(__file__).parents[3] / "deploy" / "manifests").glob("*.yaml"))
DAEMON_SETS = "/apis/apps/v1/namespaces/default/daemonsets"
DRIVER = "gpu.nvidia.com"


def path(obj: dict) -> str:
    resource, meta = BY_KIND[obj["apiVersion"], obj["kind"]], obj["metadata"]
    namespace = f"/namespaces/{meta.get('namespace', 'default')}" if resource.namespaced else ""
    return f"{resource.root}{namespace}/{resource.plural}"


def daemon_set(**spec) -> dict:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}}
    return {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template, **spec}}


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
async def test_the_manifests_are_taken_field_by_field(cluster, file) -> None:
    objects = list(yaml.safe_load_all(file.read_text()))
    namespace, *others = objects
    await cluster.create(path(namespace), namespace, fieldValidation="Strict")
    for obj in others:
        rehearsed = await cluster.create(path(obj), obj, fieldValidation="Strict", dryRun="All")
        created = await cluster.create(path(obj), obj, fieldValidation="Strict")
        assert rehearsed.get("spec") == created.get("spec")
        again = await cluster.apply(f"{path(obj)}/{obj['metadata']['name']}", obj, "helm", force=True)
        assert again.get("spec") == created.get("spec")


async def test_an_unknown_field_is_refused(cluster) -> None:
    async with refused(400) as refusal:
        await cluster.create(DAEMON_SETS, daemon_set(foo=1), fieldValidation="Strict")
    assert 'unknown field "spec.foo"' in refusal.message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"selector": {"matchLabels": {"a": "c"}}}, "`selector` does not match template `labels`"),
    ],
)
async def test_daemon_sets_are_checked(cluster, spec, message) -> None:
    async with refused(422) as refusal:
        await cluster.create(DAEMON_SETS, daemon_set(**spec))
    assert message in refusal.message


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, 'volumeMounts[0].name: Not found: "v"'),
        (
            {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
            "must be less than or equal to cpu limit of 1",
        ),
    ],
)
async def test_containers_are_checked(cluster, container, message) -> None:
    body = pod(containers=[{"name": "c", "image": "busybox", **container}])
    async with refused(422) as refusal:
        await cluster.create(PODS, body)
    assert message in refusal.message


async def test_rehearsals_change_nothing(cluster) -> None:
    await cluster.create(PODS, pod(), dryRun="All")
    assert await cluster.names(PODS) == []
    await cluster.create(PODS, pod())
    await cluster.merge(f"{PODS}/pod", {"metadata": {"labels": {"a": "b"}}}, dryRun="All")
    await cluster.delete(f"{PODS}/pod", dryRun=["All"])
    assert "labels" not in (await cluster.get(f"{PODS}/pod"))["metadata"]


# -- what the chart lets the driver do -------------------------------------------------------------------------------


@pytest.fixture
async def driver(server, cluster, login) -> Cluster:
    """The driver on node-1, with the chart's permissions and no others."""
    await cluster.create(NODES, {"metadata": {"name": "node-1"}})
    identity.install(server)
    account = identity.username().split(":")
    return await login(token=server.service_account_token(account[2], account[3], node="node-1"))


async def test_the_driver_writes_the_slices_of_its_node(driver) -> None:
    name = f"00000-{DRIVER}-node-1"
    await driver.create(SLICES, resource_slice(name, driver=DRIVER))
    assert await driver.names(SLICES, fieldSelector="spec.nodeName=node-1") == [name]
    await driver.merge(f"{SLICES}/{name}", {"spec": {"devices": [{"name": "gpu-0"}]}})
    await driver.delete(f"{SLICES}/{name}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodeName": "node-2"},
        {"nodeName": ..., "allNodes": True},
        {"driver": "other.example.com"},
        {"pool": {"name": "node-2", "generation": 1, "resourceSliceCount": 1}},
    ],
)
async def test_the_driver_writes_no_other_slices(driver, wrong) -> None:
    async with refused(403) as refusal:
        await driver.create(SLICES, resource_slice(f"00000-{DRIVER}-node-1", **{"driver": DRIVER, **wrong}))
    assert "ValidatingAdmissionPolicy" in refusal.message


async def test_the_driver_may_do_nothing_else(driver) -> None:
    for attempt in (
        driver.names(CLAIMS),
        driver.names("/api/v1/pods"),
        driver.names(NODES),
        driver.merge(f"{NODES}/node-1", {"metadata": {"labels": {"a": "b"}}}),
        driver.names("/api/v1/namespaces/default/secrets"),
        driver.delete(SLICES),
    ):
        async with refused(403):
            await attempt
    await driver.get(f"{NODES}/node-1")
    async with refused(404):
        await driver.get(f"{CLAIMS}/claim")
