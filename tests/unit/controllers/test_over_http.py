"""Scheduler and controllers against the embedded API server; the tests play the kubelet."""

from __future__ import annotations

import asyncio

import pytest

from driver.kube.client import ApiError
from driver.sim.apiserver.faults import Fault
from tests.unit.controllers.conftest import CLAIMS, JOBS, PODS, RULES, TEMPLATES

FINALIZER = "resource.kubernetes.io/delete-protection"
LOST = {"key": "gpu.nvidia.com/lost", "effect": "NoExecute"}


def devices(claim):
    return [r["device"] for r in claim["status"]["allocation"]["devices"]["results"]]


def spec_for(**fields):
    return {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu", **fields}}]}}


async def test_a_pod_with_a_claim_from_a_template_gets_a_gpu(world):
    await world.gpus(1)
    await world.pod("train", "gpu")

    pod = await world.bound("train")

    claim = await world.claim_of(pod)
    assert pod["spec"]["nodeName"] == "node-a"
    assert devices(claim) == ["gpu-0"]
    assert claim["metadata"]["finalizers"] == [FINALIZER]
    assert claim["metadata"]["annotations"]["resource.kubernetes.io/pod-claim-name"] == "gpu"
    assert claim["status"]["reservedFor"] == [{"resource": "pods", "name": "train", "uid": pod["metadata"]["uid"]}]
    assert [e["message"] for e in await world.events("Scheduled")] == ["Successfully assigned default/train to node-a"]


async def test_a_pod_without_claims_is_bound(world):
    await world.pod("plain")

    assert (await world.bound("plain"))["spec"]["nodeName"] == "node-a"


async def test_a_pod_waits_for_its_claim_and_for_slices(world):
    await world.pod("train", ("gpu", "mine"))
    await world.unschedulable("train", 'resourceclaim "mine" not found')

    await world.create(CLAIMS, "mine", spec=spec_for())
    await world.unschedulable("train", "cannot allocate all claims")
    await world.gpus(1)

    await world.bound("train")


async def test_a_pod_waits_for_its_template(world):
    await world.gpus(1)
    entry = {"name": "gpu", "resourceClaimTemplateName": "later"}
    await world.create(PODS, "train", spec={"containers": [{"name": "c", "image": "x"}], "resourceClaims": [entry]})

    async def complained():
        return await world.events("FailedResourceClaimCreation")

    (event, *_) = await world.eventually(complained)
    assert 'template "later" not found' in event["message"]
    await world.create(TEMPLATES, "later", spec={"spec": spec_for()})
    await world.bound("train")


async def test_the_next_pod_gets_the_gpu_of_a_finished_one(world):
    await world.gpus(1)
    await world.pod("first", "gpu")
    await world.bound("first")
    await world.pod("second", "gpu")
    message = await world.unschedulable("second")

    await world.phase("first", "Succeeded")

    await world.bound("second")
    assert "0/1 nodes are available: 1 cannot allocate all claims" in message
    assert len(await world.list(CLAIMS)) == 1, "the generated claim of the finished pod is deleted"


async def test_claims_go_with_their_deleted_pod(world):
    await world.gpus(1)
    await world.pod("train", "gpu")
    await world.bound("train")

    await world.remove("train")

    await world.no_claims()


async def test_two_pods_share_a_named_claim_that_is_freed_after_both(world):
    await world.gpus(1)
    await world.create(CLAIMS, "shared", spec=spec_for())
    for name in ("a", "b"):
        await world.pod(name, ("gpu", "shared"))
        await world.bound(name)

    await world.remove("a")

    async def users(count):
        claim = await world.get(CLAIMS, "shared")
        return claim if len(claim.get("status", {}).get("reservedFor", [])) == count else None

    claim = await world.eventually(lambda: users(1))
    assert devices(claim) == ["gpu-0"]
    await world.remove("b")

    async def free():
        claim = await world.get(CLAIMS, "shared")
        return claim if not claim.get("status", {}).get("allocation") and FINALIZER not in str(claim) else None

    assert await world.eventually(free)


async def test_a_broken_selector_is_reported(world):
    await world.gpus(1)
    selector = {"cel": {"expression": 'device.attributes["gpu.nvidia.com"].uuid == "GPU-1"'}}
    await world.create(CLAIMS, "picky", spec=spec_for(selectors=[selector]))

    await world.pod("train", ("gpu", "picky"))

    message = await world.unschedulable("train")
    assert message == "claim default/picky: selector #0: CEL runtime error: no such key: uuid"


async def test_many_pods_share_out_all_gpus(world):
    await world.gpus(16)
    for index in range(20):
        await world.pod(f"pod-{index:02}", "gpu")

    async def running():
        return [p for p in await world.list(PODS) if p["spec"].get("nodeName")]

    async def all_gpus_taken():
        return len(await running()) == 16

    await world.eventually(all_gpus_taken)
    taken = [devices(await world.claim_of(pod))[0] for pod in await running()]
    assert sorted(taken) == sorted(f"gpu-{i}" for i in range(16))


async def test_a_conflict_is_decided_anew(world):
    await world.gpus(1)
    await world.create(CLAIMS, "mine", spec=spec_for())
    refused = []

    def conflict(request):
        if request.verb == "update" and request.resource == "resourceclaims" and len(refused) < 3:
            refused.append(request)
            return Fault(status=409, message="the object has been modified")
        return None

    world.server.fault = conflict
    await world.pod("train", ("gpu", "mine"))

    await world.bound("train")
    assert len(refused) == 3
    assert devices(await world.get(CLAIMS, "mine")) == ["gpu-0"]


async def test_a_failed_binding_gives_the_gpu_back(world):
    await world.gpus(1)
    await world.create(CLAIMS, "mine", spec=spec_for())
    refused = []

    def no_binding(request):
        if request.subresource == "binding" and len(refused) < 2:
            refused.append(request)
            return Fault(status=500, message="try again")
        return None

    world.server.fault = no_binding
    await world.pod("train", ("gpu", "mine"))

    await world.bound("train")
    claim = await world.get(CLAIMS, "mine")
    assert len(refused) == 2
    assert len(claim["status"]["reservedFor"]) == 1


async def test_extended_resources_become_a_special_claim(world):
    await world.gpus(2)
    await world.pod("train", resources={"limits": {"nvidia.com/gpu": "2"}})

    pod = await world.bound("train")

    status = pod["status"]["extendedResourceClaimStatus"]
    claim = await world.get(CLAIMS, status["resourceClaimName"])
    assert status["requestMappings"] == [
        {"containerName": "main", "resourceName": "nvidia.com/gpu", "requestName": "container-0-request-0"}
    ]
    assert claim["metadata"]["annotations"] == {"resource.kubernetes.io/extended-resource-claim": "true"}
    assert devices(claim) == ["gpu-0", "gpu-1"]
    await world.phase("train", "Succeeded")
    await world.no_claims()


async def test_a_noexecute_taint_evicts_the_pod(world):
    await world.gpus(1)
    await world.pod("train", "gpu")
    await world.bound("train")

    await world.taint(0, LOST)

    async def evicted():
        pod = await world.get(PODS, "train")
        return pod if pod and pod["metadata"].get("deletionTimestamp") else None

    pod = await world.eventually(evicted)
    condition = next(c for c in pod["status"]["conditions"] if c["type"] == "DisruptionTarget")
    assert (condition["status"], condition["reason"]) == ("True", "DeletionByDeviceTaintManager")
    (event,) = await world.events("DeviceTaintManagerEviction")
    assert (event["message"], event.get("count")) == ("Marking for deletion", 1)


async def test_a_taint_rule_of_an_administrator_evicts_too(world):
    await world.gpus(1)
    await world.pod("train", "gpu")
    await world.bound("train")

    await world.create(RULES, "gone", spec={"deviceSelector": {"device": "gpu-0"}, "taint": LOST})

    async def evicted():
        return (await world.get(PODS, "train"))["metadata"].get("deletionTimestamp")

    assert await world.eventually(evicted)


async def test_a_tolerated_taint_that_is_removed_in_time_evicts_nobody(world):
    await world.gpus(1)
    tolerate = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    await world.create(CLAIMS, "mine", spec=spec_for(tolerations=[tolerate]))
    await world.pod("train", ("gpu", "mine"))
    await world.bound("train")

    await world.taint(0, LOST)
    await world.taint(0, None)

    # A second pod shows that the controllers have seen both changes.
    await world.pod("other")
    await world.bound("other")
    assert "deletionTimestamp" not in (await world.get(PODS, "train"))["metadata"]


async def test_a_job_runs_again_after_an_eviction(world):
    await world.gpus(2)
    template = {
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "x", "resources": {"claims": [{"name": "gpu"}]}}],
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one"}],
        }
    }
    await world.create(JOBS, "train", spec={"template": template})

    async def running():
        return [
            pod
            for pod in await world.list(PODS)
            if pod["spec"].get("nodeName")
            and "deletionTimestamp" not in pod["metadata"]
            and pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")
        ]

    (first,) = await world.eventually(running)
    await world.taint(0, LOST)

    async def evicted():
        pod = await world.get(PODS, first["metadata"]["name"])
        return pod and pod["metadata"].get("deletionTimestamp")

    await world.eventually(evicted)
    await world.phase(first["metadata"]["name"], "Failed")
    await world.remove(first["metadata"]["name"])
    (second,) = await world.eventually(running)
    assert devices(await world.claim_of(second)) == ["gpu-1"]
    await world.phase(second["metadata"]["name"], "Succeeded")

    async def complete():
        job = await world.get(JOBS, "train")
        return job["status"] if job["status"].get("completionTime") else None

    status = await world.eventually(complete)
    assert status["succeeded"] == 1


async def test_a_job_gives_up_after_its_backoff_limit(world):
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "x"}]}}
    await world.create(JOBS, "train", spec={"template": template, "backoffLimit": 1})

    async def fail_pods():
        for pod in await world.list(PODS):
            if pod["spec"].get("nodeName") and pod.get("status", {}).get("phase") != "Failed":
                await world.phase(pod["metadata"]["name"], "Failed")
        job = await world.get(JOBS, "train")
        return [c for c in job.get("status", {}).get("conditions", []) if c["type"] == "Failed"]

    assert await world.eventually(fail_pods)


async def test_work_goes_on_after_the_api_server_was_away(world):
    await world.gpus(1)
    await world.pod("before")
    await world.bound("before")

    await world.server.stop()
    await world.server.start()
    await world.pod("after", "gpu")

    await world.bound("after")


async def test_other_schedulers_pods_are_left_alone(world):
    await world.pod("foreign", schedulerName="other")
    await world.pod("ours")

    await world.bound("ours")

    assert not (await world.get(PODS, "foreign"))["spec"].get("nodeName")


async def test_a_defect_surfaces(world):
    async def defect():
        raise RuntimeError("defect")

    world.plane.cluster.synced = defect

    other = asyncio.create_task(world.plane.run())

    with pytest.raises(ExceptionGroup) as failure:
        await other
    assert failure.group_contains(RuntimeError, match="defect")


async def test_an_invalid_selector_is_refused_at_creation(world):
    with pytest.raises(ApiError) as refusal:
        await world.create(CLAIMS, "bad", spec=spec_for(selectors=[{"cel": {"expression": "nonsense"}}]))

    assert refusal.value.status == 422
