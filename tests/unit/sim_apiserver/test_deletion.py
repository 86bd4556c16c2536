"""Deleting: preconditions, finalizers, graceful deletion of pods, owners, namespaces."""

from tests.unit.sim_apiserver.cluster import (
    CLAIMS,
    CORE,
    NODES,
    PODS,
    SLICES,
    claim,
    pod,
    refused,
    resource_slice,
)


async def test_the_answer_to_a_delete_is_the_object(cluster) -> None:
    created = await cluster.create(CLAIMS, claim())
    deleted = await cluster.delete(f"{CLAIMS}/claim")
    assert deleted["metadata"]["uid"] == created["metadata"]["uid"]


async def test_preconditions_guard_a_delete(cluster) -> None:
    created = await cluster.create(CLAIMS, claim())
    async with refused(409):
        await cluster.delete(f"{CLAIMS}/claim", preconditions={"uid": "other"})
    async with refused(409):
        await cluster.delete(f"{CLAIMS}/claim", preconditions={"resourceVersion": "1"})
    wanted = {key: created["metadata"][key] for key in ("uid", "resourceVersion")}
    await cluster.delete(f"{CLAIMS}/claim", preconditions=wanted)
    await cluster.gone(f"{CLAIMS}/claim")


async def test_finalizers_keep_an_object_until_they_are_removed(cluster) -> None:
    body = claim()
    body["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
    await cluster.create(CLAIMS, body)
    deleting = await cluster.delete(f"{CLAIMS}/claim")
    assert deleting["metadata"]["deletionTimestamp"]
    assert deleting["metadata"]["deletionGracePeriodSeconds"] == 0
    async with refused(422) as refusal:
        await cluster.merge(f"{CLAIMS}/claim", {"metadata": {"finalizers": ["example.com/more"]}})
    assert "no new finalizers can be added if the object is being deleted" in refusal.message
    await cluster.merge(f"{CLAIMS}/claim", {"metadata": {"finalizers": None}})
    await cluster.gone(f"{CLAIMS}/claim")


async def test_a_pod_without_node_goes_at_once(cluster) -> None:
    await cluster.create(PODS, pod())
    await cluster.delete(f"{PODS}/pod")
    await cluster.gone(f"{PODS}/pod")


async def test_a_pod_on_a_node_waits_for_the_kubelet(cluster) -> None:
    await cluster.create(PODS, pod(nodeName="node-1", terminationGracePeriodSeconds=7))
    deleting = await cluster.delete(f"{PODS}/pod")
    assert deleting["metadata"]["deletionGracePeriodSeconds"] == 7
    shorter = await cluster.delete(f"{PODS}/pod", gracePeriodSeconds=1)
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 1
    longer = await cluster.delete(f"{PODS}/pod", gracePeriodSeconds=60)
    assert longer["metadata"]["deletionGracePeriodSeconds"] == 1
    await cluster.delete(f"{PODS}/pod", gracePeriodSeconds=0)
    await cluster.gone(f"{PODS}/pod")


async def test_a_pod_that_has_ended_goes_at_once(cluster) -> None:
    await cluster.create(PODS, pod(nodeName="node-1"))
    await cluster.merge(f"{PODS}/pod/status", {"status": {"phase": "Succeeded"}})
    await cluster.delete(f"{PODS}/pod")
    await cluster.gone(f"{PODS}/pod")


async def test_eviction_deletes_the_pod(cluster) -> None:
    await cluster.create(PODS, pod())
    await cluster.create(f"{PODS}/pod/eviction", {"metadata": {"name": "pod"}})
    await cluster.gone(f"{PODS}/pod")


async def test_a_collection_is_deleted_by_selector(cluster) -> None:
    await cluster.create(SLICES, resource_slice("a"))
    await cluster.create(SLICES, resource_slice("b", nodeName="node-2"))
    deleted = await cluster.api.request("DELETE", SLICES, params={"fieldSelector": "spec.nodeName=node-1"})
    assert [item["metadata"]["name"] for item in deleted["items"]] == ["a"]
    assert await cluster.names(SLICES) == ["b"]


async def test_dependents_go_when_their_owner_is_gone(cluster) -> None:
    owner = await cluster.create(PODS, pod())
    body = claim()
    body["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Pod", "name": "pod", "uid": owner["metadata"]["uid"], "controller": True}
    ]
    await cluster.create(CLAIMS, body)
    await cluster.delete(f"{PODS}/pod")
    await cluster.gone(f"{CLAIMS}/claim")


async def test_a_dependent_of_an_owner_that_was_replaced_goes(cluster) -> None:
    await cluster.create(NODES, {"metadata": {"name": "node-1"}})
    body = resource_slice()
    body["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "of-old"}]
    await cluster.create(SLICES, body)
    await cluster.gone(f"{SLICES}/slice")


async def test_a_namespace_takes_its_contents_along(cluster) -> None:
    await cluster.create(f"{CORE}/namespaces", {"metadata": {"name": "team"}})
    pods = f"{CORE}/namespaces/team/pods"
    await cluster.create(pods, pod(nodeName="node-1"))
    await cluster.delete(f"{CORE}/namespaces/team")
    assert (await cluster.get(f"{CORE}/namespaces/team"))["status"]["phase"] == "Terminating"
    async with refused(403) as refusal:
        await cluster.create(pods, pod("late"))
    assert "because it is being terminated" in refusal.message
    await cluster.delete(f"{pods}/pod", gracePeriodSeconds=0)
    await cluster.gone(f"{CORE}/namespaces/team")
