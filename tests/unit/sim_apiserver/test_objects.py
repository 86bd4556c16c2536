"""Creating, reading, replacing: what every kind has in common."""

import re

from tests.unit.sim_apiserver.cluster import (
    CLAIMS,
    CONFIGMAPS,
    CORE,
    DRA,
    NODES,
    PODS,
    SLICES,
    claim,
    pod,
    refused,
    resource_slice,
)


async def test_a_created_object_gets_its_system_metadata(cluster) -> None:
    created = await cluster.create(CLAIMS, claim())
    meta = created["metadata"]
    assert (created["kind"], created["apiVersion"]) == ("ResourceClaim", "resource.k8s.io/v1")
    assert meta["namespace"] == "default"
    assert re.fullmatch(r"[0-9a-f-]{36}", meta["uid"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", meta["creationTimestamp"])
    assert await cluster.get(f"{CLAIMS}/claim") == created


async def test_resource_versions_grow_over_all_kinds(cluster) -> None:
    first = await cluster.create(CLAIMS, claim())
    second = await cluster.create(SLICES, resource_slice())
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    listing = await cluster.get(CLAIMS)
    assert listing["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


async def test_generate_name_is_cut_to_leave_room_for_five_characters(cluster) -> None:
    created = await cluster.create(CLAIMS, {**claim(), "metadata": {"generateName": "x" * 70}})
    assert re.fullmatch("x{58}[a-z0-9]{5}", created["metadata"]["name"])


async def test_a_name_is_taken_only_once(cluster) -> None:
    await cluster.create(CLAIMS, claim())
    async with refused(409) as refusal:
        await cluster.create(CLAIMS, claim())
    assert refusal.reason == "AlreadyExists"
    assert refusal.message == 'resourceclaims.resource.k8s.io "claim" already exists'


async def test_a_missing_object_is_named_in_the_refusal(cluster) -> None:
    async with refused(404) as refusal:
        await cluster.get(f"{CLAIMS}/nope")
    assert refusal.message == 'resourceclaims.resource.k8s.io "nope" not found'


async def test_the_namespace_must_exist(cluster) -> None:
    async with refused(404) as refusal:
        await cluster.create(f"{DRA}/namespaces/nope/resourceclaims", claim())
    assert refusal.message == 'namespaces "nope" not found'


async def test_the_namespace_of_the_object_must_be_that_of_the_url(cluster) -> None:
    body = claim()
    body["metadata"]["namespace"] = "kube-system"
    async with refused(400) as refusal:
        await cluster.create(CLAIMS, body)
    assert "does not match the namespace sent on the request" in refusal.message


async def test_a_replacement_with_an_old_resource_version_is_a_conflict(cluster) -> None:
    created = await cluster.create(SLICES, resource_slice())
    await cluster.put(f"{SLICES}/slice", {**created, "spec": resource_slice(devices=[{"name": "gpu-0"}])["spec"]})
    async with refused(409) as refusal:
        await cluster.put(f"{SLICES}/slice", created)
    assert refusal.reason == "Conflict"
    assert "the object has been modified; please apply your changes to the latest version" in refusal.message


async def test_a_replacement_for_another_uid_is_a_conflict(cluster) -> None:
    await cluster.create(SLICES, resource_slice())
    body = resource_slice()
    body["metadata"]["uid"] = "other"
    async with refused(409):
        await cluster.put(f"{SLICES}/slice", body)


async def test_writing_what_is_there_already_changes_nothing(cluster) -> None:
    created = await cluster.create(SLICES, resource_slice(devices=[{"name": "gpu-0"}]))
    again = await cluster.put(f"{SLICES}/slice", created)
    assert again["metadata"]["resourceVersion"] == created["metadata"]["resourceVersion"]


async def test_the_generation_counts_changes_of_the_spec_only(cluster) -> None:
    created = await cluster.create(SLICES, resource_slice())
    assert created["metadata"]["generation"] == 1
    labelled = await cluster.merge(f"{SLICES}/slice", {"metadata": {"labels": {"a": "b"}}})
    assert labelled["metadata"]["generation"] == 1
    changed = await cluster.merge(f"{SLICES}/slice", {"spec": {"devices": [{"name": "gpu-0"}]}})
    assert changed["metadata"]["generation"] == 2


async def test_the_status_is_written_by_its_own_endpoint_only(cluster) -> None:
    created = await cluster.create(NODES, {"metadata": {"name": "node-1"}})
    status = {"nodeInfo": {"kubeletVersion": "v1.36.2"}}
    assert "nodeInfo" not in (await cluster.put(f"{NODES}/node-1", {**created, "status": status})).get("status", {})
    changed = await cluster.put(
        f"{NODES}/node-1/status", {**created, "spec": {"unschedulable": True}, "status": status}
    )
    assert changed["status"]["nodeInfo"]["kubeletVersion"] == "v1.36.2"
    assert "unschedulable" not in changed["spec"]


async def test_a_new_claim_has_no_status_whatever_the_client_sends(cluster) -> None:
    created = await cluster.create(CLAIMS, {**claim(), "status": {"allocation": {}}})
    assert created["status"] == {}


async def test_unknown_fields_are_dropped_or_refused_as_the_client_wishes(cluster) -> None:
    body = {**resource_slice(), "foo": 1}
    async with refused(400) as refusal:
        await cluster.create(SLICES, body, fieldValidation="Strict")
    assert refusal.message.endswith('strict decoding error: unknown field "foo"')
    created = await cluster.create(SLICES, body, fieldValidation="Ignore")
    assert "foo" not in created


async def test_a_wrong_type_is_refused(cluster) -> None:
    async with refused(400) as refusal:
        await cluster.create(SLICES, resource_slice(nodeName=5))
    assert refusal.message == (
        'ResourceSlice in version "v1" cannot be handled as a ResourceSlice: '
        "spec.nodeName: a value of type string is expected, and it is 5"
    )


async def test_a_dry_run_leaves_nothing_behind(cluster) -> None:
    assert (await cluster.create(SLICES, resource_slice(), dryRun="All"))["metadata"]["uid"]
    assert await cluster.names(SLICES) == []


async def test_lists_are_selected_by_fields_and_labels(cluster) -> None:
    await cluster.create(SLICES, resource_slice("a"))
    other = resource_slice("b", nodeName="node-2", driver="x.example.com")
    other["metadata"]["labels"] = {"team": "red"}
    await cluster.create(SLICES, other)
    assert await cluster.names(SLICES, fieldSelector="spec.nodeName=node-1") == ["a"]
    assert await cluster.names(SLICES, fieldSelector="spec.driver=x.example.com,spec.nodeName=node-2") == ["b"]
    assert await cluster.names(SLICES, fieldSelector="metadata.name=b") == ["b"]
    assert await cluster.names(SLICES, labelSelector="team in (red)") == ["b"]
    async with refused(400) as refusal:
        await cluster.names(SLICES, fieldSelector="spec.pool.name=x")
    assert refusal.message == "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: spec.pool.name"


async def test_items_of_a_list_have_no_kind_as_with_the_real_server(cluster) -> None:
    await cluster.create(CLAIMS, claim())
    listing = await cluster.get(f"{DRA}/resourceclaims")
    assert listing["kind"] == "ResourceClaimList"
    assert "kind" not in listing["items"][0]


async def test_pods_get_their_defaults(cluster) -> None:
    created = await cluster.create(PODS, pod())
    assert created["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert created["spec"]["restartPolicy"] == "Always"


async def test_binding_assigns_a_pod_once(cluster) -> None:
    await cluster.create(PODS, pod())
    await cluster.create(f"{PODS}/pod/binding", {"target": {"kind": "Node", "name": "node-1"}})
    assert (await cluster.get(f"{PODS}/pod"))["spec"]["nodeName"] == "node-1"
    assert await cluster.names(PODS, fieldSelector="spec.nodeName=node-1") == ["pod"]
    async with refused(409) as refusal:
        await cluster.create(f"{PODS}/pod/binding", {"target": {"kind": "Node", "name": "node-2"}})
    assert 'pod pod is already assigned to node "node-1"' in refusal.message


async def test_events_are_selected_by_what_they_are_about(cluster) -> None:
    event = {"involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "Why", "message": "what"}
    await cluster.create(f"{CORE}/namespaces/default/events", {"metadata": {"name": "e"}, **event})
    assert await cluster.names(f"{CORE}/events", fieldSelector="involvedObject.name=p,involvedObject.kind=Pod") == ["e"]


async def test_a_body_of_more_than_three_mebibytes_is_refused(cluster) -> None:
    async with refused(413) as refusal:
        await cluster.create(CONFIGMAPS, {"metadata": {"name": "c"}, "data": {"a": "x" * (3 << 20)}})
    assert refusal.message == "Request entity too large: limit is 3145728"


async def test_an_invalid_object_is_refused_before_its_name_is_looked_up(cluster) -> None:
    await cluster.create(SLICES, resource_slice())
    async with refused(422):
        await cluster.create(SLICES, resource_slice(driver=...))
