"""In-place resize: what a pod with devices does not lose by it."""

from driver.kube.client import MERGE_PATCH
from tests.eventually import eventually
from tests.unit.sim_kubelet.fakes import NAMESPACE, pod

SMALL = {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"cpu": "10m", "memory": "8Mi"}}
BIGGER = {"requests": {"cpu": "20m", "memory": "16Mi"}, "limits": {"cpu": "20m", "memory": "16Mi"}}


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
