"""``pods/resize``: cpu and memory of a pod's containers, and nothing else."""

import pytest

from tests.unit.sim_apiserver.cluster import PODS, Cluster, refused

AMOUNTS = {"cpu": "500m", "memory": "64Mi"}
RESIZE = f"{PODS}/pod/resize"


def resources(**amounts: str) -> dict:
    return {"requests": dict(amounts), "limits": dict(amounts)}


def change(resources: dict, name: str = "main", **more) -> dict:
    return {"spec": {"containers": [{"name": name, "resources": resources, **more}]}}


@pytest.fixture(autouse=True)
async def created(cluster: Cluster) -> dict:
    container = {"name": "main", "image": "busybox", "resources": resources(**AMOUNTS, **{"example.com/gpu": "1"})}
    return await cluster.create(PODS, {"metadata": {"name": "pod"}, "spec": {"containers": [container]}})


async def test_cpu_and_memory_change_and_the_generation_counts(cluster) -> None:
    resized = await cluster.strategic(RESIZE, change(resources(cpu="1", memory="128Mi")))
    assert resized["spec"]["containers"][0]["resources"]["limits"] == {
        "cpu": "1",
        "memory": "128Mi",
        "example.com/gpu": "1",
    }
    assert resized["metadata"]["generation"] == 2
    assert (await cluster.get(RESIZE))["spec"] == resized["spec"]


async def test_everything_else_is_left_alone(cluster) -> None:
    body = change(resources(cpu="1"), image="other") | {"metadata": {"labels": {"a": "b"}}}
    body["spec"]["hostNetwork"] = True
    resized = await cluster.strategic(RESIZE, body)
    assert resized["spec"]["containers"][0]["image"] == "busybox"
    assert "hostNetwork" not in resized["spec"]
    assert "labels" not in resized["metadata"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (change({"requests": {"cpu": "100m"}}), "Pod QOS Class may not change as a result of resizing"),
        (change({"requests": {"cpu": "9"}}), "must be less than or equal to cpu limit of 500m"),
        (change({"limits": {"cpu": None}}), "limits: Forbidden: cannot be removed"),
        (change(resources(**{"example.com/gpu": "2"})), "only cpu and memory resources are mutable"),
    ],
)
async def test_what_a_resize_may_not_do(cluster, body, message) -> None:
    async with refused(422) as refusal:
        await cluster.strategic(RESIZE, body)
    assert message in refusal.message


async def test_a_container_that_names_a_claim_is_not_resized_as_in_kubernetes_1_36(cluster) -> None:
    container = {"name": "main", "image": "busybox", "resources": {"claims": [{"name": "gpu"}], **resources(**AMOUNTS)}}
    spec = {"containers": [container], "resourceClaims": [{"name": "gpu", "resourceClaimName": "claim"}]}
    await cluster.create(PODS, {"metadata": {"name": "claimer"}, "spec": spec})
    async with refused(422) as refusal:
        await cluster.strategic(f"{PODS}/claimer/resize", change(resources(cpu="1", memory="64Mi")))
    assert "only cpu and memory resources are mutable" in refusal.message


async def test_the_pod_itself_does_not_take_other_resources(cluster) -> None:
    async with refused(422) as refusal:
        await cluster.strategic(f"{PODS}/pod", change(resources(cpu="1")))
    assert "pod updates may not change fields other than" in refusal.message
