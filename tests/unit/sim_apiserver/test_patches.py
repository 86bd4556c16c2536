"""Patches of all four kinds; server-side apply of a claim's device status as drivers use it."""

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


async def test_a_json_patch_tests_before_it_changes(cluster) -> None:
    await cluster.create(CONFIGMAPS, {"metadata": {"name": "c"}, "data": {"a": "1"}})
    await cluster.json_patch(
        f"{CONFIGMAPS}/c",
        [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "replace", "path": "/data/a", "value": "2"}],
    )
    async with refused(422) as refusal:
        await cluster.json_patch(f"{CONFIGMAPS}/c", [{"op": "test", "path": "/data/a", "value": "1"}])
    assert refusal.message == "the server rejected our request due to an error in our request"


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


async def test_a_strategic_patch_deletes_list_items_and_orders_them(cluster) -> None:
    await allocated(cluster)
    consumers = [{"resource": "pods", "name": name, "uid": name} for name in "abc"]
    await cluster.merge(f"{CLAIMS}/claim/status", {"status": {"reservedFor": consumers}})
    patch = {
        "$setElementOrder/reservedFor": [{"uid": "c"}, {"uid": "a"}],
        "reservedFor": [{"$patch": "delete", "uid": "b"}],
    }
    changed = await cluster.strategic(f"{CLAIMS}/claim/status", {"status": patch})
    assert [item["uid"] for item in changed["status"]["reservedFor"]] == ["c", "a"]


async def test_apply_creates_what_is_not_there(cluster) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}}
    created = await cluster.apply(f"{CONFIGMAPS}/c", body, "me")
    entry = created["metadata"]["managedFields"][0]
    assert (entry["manager"], entry["operation"], entry["fieldsV1"]) == ("me", "Apply", {"f:data": {"f:a": {}}})


async def test_apply_needs_a_field_manager(cluster) -> None:
    async with refused(422) as refusal:
        await cluster.apply(f"{CONFIGMAPS}/c", {}, "")
    assert "fieldManager: Required value: is required for apply patch" in refusal.message


async def test_applying_the_same_again_changes_nothing(cluster) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}}
    first = await cluster.apply(f"{CONFIGMAPS}/c", body, "me")
    assert await cluster.apply(f"{CONFIGMAPS}/c", body, "me") == first


async def test_what_a_manager_no_longer_applies_is_removed(cluster) -> None:
    kind = {"apiVersion": "v1", "kind": "ConfigMap"}
    await cluster.apply(f"{CONFIGMAPS}/c", {**kind, "data": {"a": "1", "b": "2"}}, "me")
    await cluster.apply(f"{CONFIGMAPS}/c", {**kind, "data": {"b": "2"}}, "other")
    changed = await cluster.apply(f"{CONFIGMAPS}/c", {**kind, "data": {}}, "me")
    assert changed["data"] == {"b": "2"}


async def test_another_managers_value_is_a_conflict_unless_forced(cluster) -> None:
    kind = {"apiVersion": "v1", "kind": "ConfigMap"}
    await cluster.apply(f"{CONFIGMAPS}/c", {**kind, "data": {"a": "1"}}, "me")
    async with refused(409) as refusal:
        await cluster.apply(f"{CONFIGMAPS}/c", {**kind, "data": {"a": "2"}}, "other")
    assert refusal.message == 'Apply failed with 1 conflict: conflict with "me": .data.a'
    changed = await cluster.apply(f"{CONFIGMAPS}/c", {**kind, "data": {"a": "2"}}, "other", force=True)
    assert changed["data"] == {"a": "2"}
    assert [entry["manager"] for entry in changed["metadata"]["managedFields"]] == ["other"]


async def test_a_plain_write_takes_a_field_over(cluster) -> None:
    kind = {"apiVersion": "v1", "kind": "ConfigMap"}
    await cluster.apply(f"{CONFIGMAPS}/c", {**kind, "data": {"a": "1"}}, "me")
    await cluster.merge(f"{CONFIGMAPS}/c", {"data": {"a": "2"}}, fieldManager="writer")
    async with refused(409) as refusal:
        await cluster.apply(f"{CONFIGMAPS}/c", {**kind, "data": {"a": "1"}}, "me")
    assert 'conflict with "writer" using v1: .data.a' in refusal.message


async def test_device_status_of_two_drivers_is_merged_by_driver_device_pool_and_share(cluster) -> None:
    await allocated(cluster)
    await cluster.apply(f"{CLAIMS}/claim/status", applied(device(conditions=[READY], data={"uuid": "x"})), "first")
    shared = device(device="gpu-1", shareID=SHARE, conditions=[READY])
    changed = await cluster.apply(f"{CLAIMS}/claim/status", applied(shared), "second")
    assert [item["device"] for item in changed["status"]["devices"]] == ["gpu-0", "gpu-1"]
    again = await cluster.apply(f"{CLAIMS}/claim/status", applied(), "first")
    assert [item["device"] for item in again["status"]["devices"]] == ["gpu-1"]


async def test_conditions_of_a_device_are_merged_by_type(cluster) -> None:
    await allocated(cluster)
    await cluster.apply(f"{CLAIMS}/claim/status", applied(device(conditions=[READY])), "first")
    other = {**READY, "type": "Attached"}
    changed = await cluster.apply(f"{CLAIMS}/claim/status", applied(device(conditions=[other])), "second")
    assert [item["type"] for item in changed["status"]["devices"][0]["conditions"]] == ["Ready", "Attached"]


async def test_a_status_apply_leaves_the_spec_and_the_allocation_alone(cluster) -> None:
    await allocated(cluster)
    before = await cluster.get(f"{CLAIMS}/claim")
    body = {**applied(device()), "spec": {"devices": {}}, "metadata": {"labels": {"a": "b"}}}
    after = await cluster.apply(f"{CLAIMS}/claim/status", body, "first")
    assert after["spec"] == before["spec"]
    assert after["status"]["allocation"] == before["status"]["allocation"]
    assert "labels" not in after["metadata"]
