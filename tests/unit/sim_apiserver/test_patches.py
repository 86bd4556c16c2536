"""Merge patches, strategic ones, and what stands for a server-side apply."""

from tests.unit.sim_apiserver.cluster import (
    CLAIMS,
    CONFIGMAPS,
    PODS,
    allocation,
    claim,
    pod,
    refused,
    result,
)

SHARE = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
READY = {"type": "Ready", "status": "True", "reason": "Prepared", "lastTransitionTime": "2026-01-01T00:00:00Z"}


def device(**fields):
    return {"driver": "gpu.example.com", "pool": "node-1", "device": "gpu-0", **fields}


def applied(*devices):
    return {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "status": {"devices": list(devices)}}


async def allocated(cluster) -> None:
    await cluster.create(CLAIMS, claim())
    both = allocation(result(), result(device="gpu-1", shareID=SHARE))
    await cluster.merge(f"{CLAIMS}/claim/status", {"status": {"allocation": both}})


async def test_a_merge_patch_removes_with_null(cluster) -> None:
    await cluster.create(CONFIGMAPS, {"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}})
    changed = await cluster.merge(f"{CONFIGMAPS}/c", {"data": {"a": None, "c": "3"}})
    assert changed["data"] == {"b": "2", "c": "3"}


async def test_a_patch_may_ask_for_a_resource_version(cluster) -> None:
    created = await cluster.create(CONFIGMAPS, {"metadata": {"name": "c"}})
    version = created["metadata"]["resourceVersion"]
    await cluster.merge(f"{CONFIGMAPS}/c", {"metadata": {"resourceVersion": version}, "data": {"a": "1"}})
    async with refused(409):
        await cluster.merge(f"{CONFIGMAPS}/c", {"metadata": {"resourceVersion": version}, "data": {"a": "2"}})


async def test_an_unknown_patch_type_is_refused(cluster) -> None:
    await cluster.create(CONFIGMAPS, {"metadata": {"name": "c"}})
    async with refused(415) as refusal:
        await cluster.api.request("PATCH", f"{CONFIGMAPS}/c", body={}, content_type="application/json")
    assert refusal.reason == "UnsupportedMediaType"


async def test_a_strategic_patch_merges_containers_by_name(cluster) -> None:
    await cluster.create(PODS, pod(containers=[{"name": "a", "image": "one"}, {"name": "b", "image": "two"}]))
    changed = await cluster.strategic(f"{PODS}/pod", {"spec": {"containers": [{"name": "b", "image": "three"}]}})
    assert [(c["name"], c["image"]) for c in changed["spec"]["containers"]] == [("a", "one"), ("b", "three")]


async def test_a_strategic_patch_replaces_conditions_of_the_same_type(cluster) -> None:
    await cluster.create(PODS, pod())
    for state in ("False", "True"):
        patch = {"status": {"conditions": [{"type": "Ready", "status": state}]}}
        changed = await cluster.strategic(f"{PODS}/pod/status", patch)
    assert changed["status"]["conditions"] == [{"type": "Ready", "status": "True"}]


async def test_a_strategic_patch_deletes_list_items(cluster) -> None:
    await allocated(cluster)
    consumers = [{"resource": "pods", "name": name, "uid": name} for name in "abc"]
    await cluster.merge(f"{CLAIMS}/claim/status", {"status": {"reservedFor": consumers}})
    patch = {"reservedFor": [{"$patch": "delete", "uid": "b"}]}
    changed = await cluster.strategic(f"{CLAIMS}/claim/status", {"status": patch})
    assert [item["uid"] for item in changed["status"]["reservedFor"]] == ["a", "c"]


async def test_apply_creates_what_is_not_there(cluster) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}}
    created = await cluster.apply(f"{CONFIGMAPS}/c", body, "me")
    assert created["data"] == {"a": "1"}


async def test_applying_the_same_again_changes_nothing(cluster) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}}
    first = await cluster.apply(f"{CONFIGMAPS}/c", body, "me")
    assert await cluster.apply(f"{CONFIGMAPS}/c", body, "me") == first


async def test_a_status_apply_leaves_the_spec_and_the_allocation_alone(cluster) -> None:
    await allocated(cluster)
    before = await cluster.get(f"{CLAIMS}/claim")
    body = {**applied(device()), "spec": {"devices": {}}, "metadata": {"labels": {"a": "b"}}}
    after = await cluster.apply(f"{CLAIMS}/claim/status", body, "first")
    assert after["spec"] == before["spec"]
    assert after["status"]["allocation"] == before["status"]["allocation"]
    assert "labels" not in after["metadata"]
