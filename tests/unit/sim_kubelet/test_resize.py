"""In-place resize: what fits, what restarts, and what a pod with devices does not lose by it."""

import pytest

from driver.kube.client import MERGE_PATCH
from driver.sim.kubelet import resize
from tests.eventually import eventually
from tests.unit.sim_kubelet.fakes import NAMESPACE, pod

SMALL = {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"cpu": "10m", "memory": "8Mi"}}
BIGGER = {"requests": {"cpu": "20m", "memory": "16Mi"}, "limits": {"cpu": "20m", "memory": "16Mi"}}
HUGE = {"requests": {"cpu": "10k", "memory": "8Mi"}, "limits": {"cpu": "10k", "memory": "8Mi"}}


def container(resources, **policies):
    entries = [{"resourceName": name, "restartPolicy": policy} for name, policy in policies.items()]
    return {"name": "main", "resources": resources, "resizePolicy": entries}


def helped(*, policy="NotRequired", restart="Always"):
    """A pod with a claim, and with a second container that can be resized."""
    body = pod(claims={"gpu": "claim-1"}, restartPolicy=restart)
    # The API server of 1.36 refuses to resize a pod of which any container names a claim.
    del body["spec"]["containers"][0]["resources"]
    helper = {
        "name": "helper",
        "image": "busybox:1",
        "command": ["sh", "-c", "exec sleep 100"],
        "resources": SMALL,
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}],
    }
    body["spec"]["containers"].append(helper)
    return body


async def running(cluster, run_kubelet, make_plugin, body):
    plugin = await make_plugin().start()
    run_kubelet()
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(body)
    return plugin, await cluster.phase("Running")


async def patch(cluster, resources):
    found = await cluster.pod()
    containers = found["spec"]["containers"]
    containers[1]["resources"] = resources
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/pod-1/resize"
    body = {"spec": {"containers": containers}}
    await cluster.api.request("PATCH", path, body=body, content_type=MERGE_PATCH)


async def with_resources(cluster, resources):
    async def there():
        found = await cluster.pod()
        return found if found["status"]["containerStatuses"][1].get("resources") == resources else None

    return await eventually(there, what=f"a container with {resources}")


@pytest.mark.parametrize(
    ("wanted", "used", "reason", "message"),
    [
        ("2", "2", "", ""),
        ("3", "2", "OutOfcpu", "Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000"),
    ],
)
def test_what_other_pods_leave_is_what_fits(wanted, used, reason, message):
    amounts = (resize.requests([container({"requests": {"cpu": cores}})]) for cores in (wanted, used))
    mine, theirs = amounts

    assert resize.refusal(mine, used=theirs, capacity={"cpu": "4", "memory": "1Gi"}) == (reason, message)


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ({"cpu": "NotRequired", "memory": "NotRequired"}, False),
        ({"cpu": "RestartContainer"}, True),
        ({}, False),
    ],
)
def test_a_container_restarts_only_if_its_policy_for_what_changed_says_so(policies, expected):
    assert resize.restarts(container(SMALL), container(BIGGER, **policies)) is expected
    assert not resize.restarts(container(SMALL), container(SMALL, **policies))


async def test_a_resized_container_goes_on_and_no_claim_is_prepared_again(cluster, run_kubelet, make_plugin):
    plugin, before = await running(cluster, run_kubelet, make_plugin, helped())

    await patch(cluster, BIGGER)

    after = await with_resources(cluster, BIGGER)
    assert [s["containerID"] for s in after["status"]["containerStatuses"]] == [
        s["containerID"] for s in before["status"]["containerStatuses"]
    ]
    assert after["status"]["containerStatuses"][1]["allocatedResources"] == BIGGER["requests"]
    assert [method for method, _ in plugin.calls] == ["prepare"]
    await cluster.event("ResizeCompleted")


async def test_a_container_that_restarts_for_its_resize_does_so_alone(cluster, run_kubelet, make_plugin):
    plugin, before = await running(cluster, run_kubelet, make_plugin, helped(policy="RestartContainer"))

    await patch(cluster, BIGGER)

    async def restarted():
        found = await cluster.pod()
        statuses = found["status"]["containerStatuses"]
        return statuses if statuses[1]["restartCount"] == 1 and statuses[1]["ready"] else None

    first, second = await eventually(restarted)
    assert first["containerID"] == before["status"]["containerStatuses"][0]["containerID"]
    assert second["resources"] == BIGGER
    assert [method for method, _ in plugin.calls] == ["prepare"]


async def test_a_resize_that_does_not_fit_waits_and_says_so(cluster, run_kubelet, make_plugin):
    await running(cluster, run_kubelet, make_plugin, helped())

    await patch(cluster, HUGE)

    await cluster.event("ResizeDeferred", containing="OutOfcpu")

    async def pending():
        found = await cluster.pod()
        conditions = {c["type"]: c for c in found["status"]["conditions"]}
        return conditions.get("PodResizePending")

    assert (await eventually(pending))["reason"] == "OutOfcpu"
    assert (await cluster.pod())["status"]["containerStatuses"][1]["resources"] == SMALL

    await patch(cluster, SMALL)

    async def settled():
        return not await pending()

    await eventually(settled)
