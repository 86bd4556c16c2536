"""Every file of deploy/examples does what its comment says."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from driver.sim.demo.workloads import load_examples
from tests.e2e.conftest import ON_1_37
from tests.e2e.site import LackingError
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from tests.e2e.conftest import Stage
from tests.e2e.site import Site

EXAMPLES = {example.name: example for example in load_examples()}
Gpus = dict[str, dict[str, dict[str, str]]]
"""What was printed: pod -> container -> device name -> UUID."""

H100S = "fake:h100x8"
A100S = "fake:a100x8"
"""Two and two of them on one PCIe root."""

on_the_stage = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def site(stage: Stage, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A namespace for the test, on a node with the devices that its parameter names."""
    found = await stage.site(getattr(request, "param", H100S))
    async with found.fresh_namespace():
        yield found


async def one_each(site: Site, printed: Gpus) -> None:
    assert all(len(gpus) == 1 for pod in printed.values() for gpus in pod.values())


async def the_same_one(site: Site, printed: Gpus) -> None:
    await one_each(site, printed)
    assert len({uuid for pod in printed.values() for gpus in pod.values() for uuid in gpus.values()}) == 1


async def two_on_one_numa_node(site: Site, printed: Gpus) -> None:
    await one_each(site, printed)
    await two_with_the_same(site, printed, "resource.kubernetes.io/numaNode")


async def two_on_one_pcie_root(site: Site, printed: Gpus) -> None:
    await two_with_the_same(site, printed, "resource.kubernetes.io/pcieRoot")


async def two_over_nvlink(site: Site, printed: Gpus) -> None:
    await two_with_the_same(site, printed, "nvlinkGroup")


async def two_with_the_same(site: Site, printed: Gpus, attribute: str) -> None:
    names = devices_of(printed)
    devices = await site.devices()
    assert len(names) == len(set(names)) == 2
    assert len({str(devices[name]["attributes"][attribute]) for name in names}) == 1


async def all_of_the_node(site: Site, printed: Gpus) -> None:
    assert set(devices_of(printed)) == set(await site.whole_gpus())


async def one_partition(site: Site, printed: Gpus) -> None:
    await one_each(site, printed)
    assert all("-mig-" in name for name in devices_of(printed))


async def half_a_gpu(site: Site, printed: Gpus) -> None:
    await one_partition(site, printed)
    [name] = devices_of(printed)
    half = {n for n, d in (await site.devices()).items() if profile(d).startswith(("3g.", "4g."))}
    assert name in half or not half


async def partitions_of_one_gpu(site: Site, printed: Gpus) -> None:
    await one_partition(site, printed)
    names = devices_of(printed)
    assert len(set(names)) == len(names)
    assert len({name.partition("-mig-")[0] for name in names}) == 1


async def out_of_service_but_for_one(site: Site, printed: Gpus) -> None:
    await one_each(site, printed)
    assert list(printed["maintenance-check"]["main"]) == ["gpu-0"]
    assert list(printed["maintenance-user"]["main"]) != ["gpu-0"]


async def guaranteed(site: Site, printed: Gpus) -> None:
    await one_each(site, printed)
    pod = await site.pod("guaranteed-cpus")
    assert pod["status"]["qosClass"] == "Guaranteed"
    assert "Cpus_allowed_list:" in await site.log(pod, "main")


async def through_mps(site: Site, printed: Gpus) -> None:
    await the_same_one(site, printed)
    for name, containers in printed.items():
        pod = await site.pod(name)
        for container in containers:
            assert "CUDA_MPS_PIPE_DIRECTORY=/" in await site.log(pod, container)


async def one_share(site: Site, printed: Gpus) -> None:
    await one_each(site, printed)
    devices = await site.devices()
    assert all(shared(devices[name]) for name in devices_of(printed))


async def one_share_through_mps(site: Site, printed: Gpus) -> None:
    await one_share(site, printed)
    await through_mps(site, printed)


async def the_smallest_partition(site: Site, printed: Gpus) -> None:
    await one_partition(site, printed)
    devices = await site.devices()
    assert {profile(devices[name]) for name in devices_of(printed)} == {"1g.10gb"}


async def the_best_product(site: Site, printed: Gpus) -> None:
    await one_each(site, printed)
    products = {
        name: device["attributes"]["productName"]["string"] for name, device in (await site.whole_gpus()).items()
    }
    best = next(wish for wish in ("H200", "H100", "") if any(wish in product for product in products.values()))
    assert all(best in products[name] for name in devices_of(printed))


OUTCOMES: dict[str, Callable[[Site, Gpus], Awaitable[None]]] = {
    "01-single-gpu": one_each,
    "02-two-containers-one-gpu": the_same_one,
    "03-two-pods-one-claim": the_same_one,
    "04-two-gpus-one-numa-node": two_on_one_numa_node,
    "05-select-by-memory": one_each,
    "06-prioritised-list": one_each,
    "07-extended-resource": one_each,
    "08-admin-access": all_of_the_node,
    "11-one-big-partition": one_partition,
    "12-mixed-partitions": partitions_of_one_gpu,
    "13-partition-by-priority": half_a_gpu,
    "15-mps": through_mps,
    "16-time-slicing": the_same_one,
    "17-same-pcie-root": two_on_one_pcie_root,
    "18-all-gpus": all_of_the_node,
    "19-maintenance": out_of_service_but_for_one,
    "23-guaranteed-cpus": guaranteed,
    "27-mig-resource": the_smallest_partition,
    "28-shared-resource": one_share,
    "29-mps-resource": one_share_through_mps,
    "30-best-product": the_best_product,
    "32-two-gpus-over-nvlink": two_over_nvlink,
}
CLASSES = "00-deviceclasses"
PRIORITISED = "06-prioritised-list"
SICK_JOB = "09-job-survives-a-sick-gpu"
SEVEN = "10-seven-small-partitions"
SHARES = "14-shares-of-memory"
QUOTA = "20-quota"
BATCH = "21-batch-job"
RESIZE = "22-resize"
SCALE = "24-scale-on-utilisation"
"""Needs Deployments, Prometheus and prometheus-adapter; tests/deploy has what can be tried without."""
BUDGET = "25-gpu-hours"
"""Needs the accountant: test_budgets.py."""
CHANNEL = "26-compute-domain"
"""Needs a second driver: test_compute_domains.py."""
GROUP = "31-pod-group"
"""Needs PodGroups, which are off in every version: held against the schema, in tests/deploy."""
NIC = "33-gpu-and-nic"
"""Needs a second driver: tests/unit/inventory/test_topology.py."""
STABLE = ("07-extended-resource", "19-maintenance", "27-mig-resource", "30-best-product")
"""What is stable in 1.37 and was not in 1.36, or has other versions there."""
PARAMETERS = [
    *((A100S if name == "17-same-pcie-root" else H100S, name) for name in OUTCOMES),
    *((H100S + ON_1_37, name) for name in STABLE),
]
IDS = [name + (ON_1_37 if site.endswith(ON_1_37) else "") for site, name in PARAMETERS]


def test_each_example_has_an_expected_outcome() -> None:
    elsewhere = {CLASSES, SICK_JOB, SEVEN, SHARES, QUOTA, BATCH, RESIZE, SCALE, BUDGET, CHANNEL, GROUP, NIC}
    assert OUTCOMES.keys() | elsewhere == EXAMPLES.keys()


def test_each_example_says_what_to_expect() -> None:
    assert [example.name for example in EXAMPLES.values() if not example.expect] == []


@pytest.mark.parametrize(("site", "name"), PARAMETERS, ids=IDS, indirect=["site"])
@on_the_stage
async def test_the_pods_of_an_example_succeed_and_print_their_gpus(site: Site, name: str) -> None:
    await apply(site, name)

    printed = {}
    for pod in EXAMPLES[name].of_kind("Pod"):
        namespace = pod["metadata"].get("namespace", "")
        ended = await site.phase(pod["metadata"]["name"], "Succeeded", "Failed", namespace=namespace)
        assert ended["status"]["phase"] == "Succeeded", ended["status"]
        printed[pod["metadata"]["name"]] = await site.gpus(ended)
    await OUTCOMES[name](site, printed)
    offered = {device["attributes"]["uuid"]["string"] for device in (await site.whole_gpus()).values()}
    whole = {u for pod in printed.values() for g in pod.values() for name, u in g.items() if "-mig-" not in name}
    assert whole <= offered


@pytest.mark.parametrize("wish", ["big", "small", "shared"])
@on_the_stage
async def test_a_prioritised_list_gives_the_best_that_is_free(site: Site, wish: str) -> None:
    gpus, devices = await site.whole_gpus(), await site.devices()
    exclusive = [name for name, gpu in gpus.items() if not shared(gpu)]
    if not exclusive or len(exclusive) == len(gpus) or len(devices) == len(gpus):
        pytest.skip("all three wishes can be had only where some GPUs are shared, and others are not but partitioned")
    await site.apply(EXAMPLES[CLASSES].objects)
    if wish == "small":
        # A GPU of which a partition is in use is not to be had as a whole.
        await hold(site, whole=len(exclusive) - 1, partitions=1)
    elif wish == "shared":
        await hold(site, whole=len(exclusive), partitions=0)

    await apply(site, PRIORITISED)

    [device] = (await site.gpus(await site.phase("prioritised-list", "Succeeded")))["main"]
    assert wish == ("small" if "-mig-" in device else "shared" if shared(devices[device]) else "big")


@on_the_stage
async def test_claims_share_a_gpu_each_with_its_part_of_the_memory(site: Site) -> None:
    await apply(site, SHARES)

    pods = [await printing(site, name) for name in ("big-share", "small-share")]

    await the_same_one(site, {pod["metadata"]["name"]: await site.gpus(pod) for pod in pods})
    taken = {claim["metadata"]["name"]: results(claim) for claim in await site.claims()}
    assert {name: [r["consumedCapacity"]["memory"] for r in rs] for name, rs in taken.items()} == {
        "big-share": ["30Gi"],
        "small-share": ["4Gi"],
    }
    assert len({result["shareID"] for rs in taken.values() for result in rs}) == 2


@on_the_stage
async def test_a_job_goes_on_elsewhere_when_its_gpu_fails(site: Site) -> None:
    if not site.can_fault:
        pytest.skip("needs a way to break a GPU: --fault-command, or fake GPUs of a driver in a pod, and kubectl")
    await apply(site, SICK_JOB)
    first, device = await running(site, other_than="")

    await site.fault(device, "--xid=79")
    try:
        second, other = await running(site, other_than=first)
    finally:
        await site.fault(device, "--clear")

    assert (second, other) != (first, device)
    assert other != device
    await eventually(lambda: without_taint(site, device), within=site.patience)


@on_the_stage
async def test_a_job_goes_on_elsewhere_when_its_gpu_is_taken_out_of_service(site: Site) -> None:
    await apply(site, SICK_JOB)
    first, device = await running(site, other_than="")
    [claim] = await site.claims()
    [result] = results(claim)
    taint = {"key": "example.com/maintenance", "value": "now", "effect": "NoExecute"}
    selector = {key: result[key] for key in ("driver", "pool", "device")}

    await create(
        site,
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceTaintRule",
            "metadata": {"name": site.namespace},
            "spec": {"deviceSelector": selector, "taint": taint},
        },
    )

    assert device == result["device"]
    assert (await running(site, other_than=first))[1] != device


@on_the_stage
async def test_seven_pods_have_seven_partitions_of_one_gpu(site: Site) -> None:
    await apply(site, SEVEN)
    [job] = EXAMPLES[SEVEN].of_kind("Job")

    async def all_run() -> Gpus | None:
        pods = await site.pods(f"batch.kubernetes.io/job-name={job['metadata']['name']}")
        printed = {
            pod["metadata"]["name"]: await site.gpus(pod) for pod in pods if pod["status"].get("phase") == "Running"
        }
        return printed if len(printed) == 7 and all(p["main"] for p in printed.values()) else None

    await partitions_of_one_gpu(site, await eventually(all_run, within=site.patience))


@on_the_stage
async def test_a_namespace_with_a_quota_of_one_gpu_uses_one_at_a_time(site: Site) -> None:
    at_once: list[int] = []

    async def complete() -> bool:
        at_once.append(sum(bool(results(claim)) for claim in await site.claims("gpu-team")))
        return await job_complete(site, "quota", "gpu-team")

    await apply(site, QUOTA)
    await eventually(complete, within=site.patience)

    assert max(at_once) == 1
    refused = await site.events("FailedResourceClaimCreation", "gpu-team")
    wanted = "exceeded quota: one-gpu, requested: gpu.nvidia.com.deviceclass.resource.k8s.io/devices=1"
    assert any(wanted in message for message in refused), refused


@on_the_stage
async def test_the_gpus_of_a_finished_job_are_free_while_its_pods_are_still_there(site: Site) -> None:
    await apply(site, BATCH)

    await eventually(lambda: job_complete(site, "batch-job"), within=site.patience)
    await eventually(lambda: none_left(site), within=site.patience)

    phases = Counter(pod["status"]["phase"] for pod in await site.pods("batch.kubernetes.io/job-name=batch-job"))
    assert phases == {"Succeeded": 3}


@on_the_stage
async def test_a_pod_is_resized_and_keeps_its_container_and_its_gpu(site: Site) -> None:
    await apply(site, RESIZE)
    before = await printing(site, "resize")
    [claim] = await site.claims()

    await site.resize(before, cpu="200m", memory="64Mi")

    wanted = {"cpu": "200m", "memory": "64Mi", "nvidia.com/gpu": "1"}

    async def resized() -> dict[str, Any] | None:
        pod = await site.pod("resize")
        [status] = pod["status"]["containerStatuses"]
        limits = (status.get("resources") or {}).get("limits")
        under_way = [c for c in pod["status"]["conditions"] if c["type"].startswith("PodResize")]
        return pod if limits == wanted and not under_way else None

    [was], [now] = (
        pod["status"]["containerStatuses"] for pod in (before, await eventually(resized, within=site.patience))
    )
    assert now["allocatedResources"] == wanted
    assert (now["containerID"], now["restartCount"]) == (was["containerID"], 0)
    [after] = await site.claims()
    assert (after["metadata"]["uid"], after["status"]["allocation"]) == (
        claim["metadata"]["uid"],
        claim["status"]["allocation"],
    )


async def apply(site: Site, name: str) -> None:
    """Apply an example, or skip the test and say what is missing."""
    example = EXAMPLES[name]
    devices = await site.devices()
    gpus = await site.whole_gpus()
    if example.needs_partitions and len(devices) == len(gpus):
        pytest.skip("needs partitions, which the driver of this node does not offer (--partitioning)")
    if example.needs_shares and not any(map(shared, devices.values())):
        pytest.skip(
            "needs devices that claims share, which this node does not offer: --shares, and in the cluster the "
            "feature gate DRAConsumableCapacity (on since Kubernetes 1.36)"
        )
    if example.needs_exclusive and all(map(shared, gpus.values())):
        pytest.skip("needs a GPU that claims do not share, which the driver of this node does not offer (--shares)")
    together = Counter(str(gpu["attributes"].get(example.together)) for gpu in gpus.values())
    if example.needs_gpus > (max(together.values(), default=0) if example.together else len(gpus)):
        where = f" with the same {example.together}" if example.together else ""
        pytest.skip(f"needs {example.needs_gpus} GPUs{where}; this node's: {', '.join(sorted(gpus))}")
    classes = [*EXAMPLES[CLASSES].objects, *example.of_kind("DeviceClass")]
    await create(site, *classes)
    asked = {resource for pod in example.of_kind("Pod") for resource in limits(pod)}
    for wanted in classes:
        resource = wanted["spec"].get("extendedResourceName")
        if resource in asked and not await extended(site, wanted["metadata"]["name"], resource):
            pytest.skip(
                "needs the feature gate DRAExtendedResource (on since Kubernetes 1.36): the DeviceClass "
                f"{wanted['metadata']['name']} of this cluster has not spec.extendedResourceName={resource}"
            )
    await create(site, *(obj for obj in example.objects if obj["kind"] != "DeviceClass"))


async def create(site: Site, *objects: Mapping[str, Any]) -> None:
    if any(obj["kind"] == "DeviceTaintRule" for obj in objects) and (defect := await site.scheduler_defect()):
        pytest.skip(defect)
    try:
        await site.apply(objects)
    except LackingError as error:
        pytest.skip(str(error))


async def extended(site: Site, device_class: str, resource: str) -> bool:
    found = await site.api.get(f"/apis/resource.k8s.io/v1/deviceclasses/{device_class}")
    return found["spec"].get("extendedResourceName") == resource


async def hold(site: Site, *, whole: int, partitions: int) -> None:
    """A pod that has so many GPUs that are not shared, and so many partitions of another one."""
    exclusive, smallest = (
        "!device.allowMultipleAllocations",
        "device.attributes['gpu.nvidia.com'].profile.startsWith('1g.')",
    )
    wanted = [("gpu.nvidia.com", whole, exclusive), ("mig.nvidia.com", partitions, smallest)]
    requests = [
        {
            "name": f"held-{index}",
            "exactly": {
                "deviceClassName": device_class,
                "count": count,
                "selectors": [{"cel": {"expression": expression}}],
            },
        }
        for index, (device_class, count, expression) in enumerate(wanted)
        if count
    ]
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "holder"},
        "spec": {"spec": {"devices": {"requests": requests}}},
    }
    await create(site, template, site.sleeper("holder", template="holder", seconds=3600))
    await site.phase("holder", "Running")


async def printing(site: Site, name: str) -> dict[str, Any]:
    """A pod that runs and has printed its GPUs."""
    pod = await site.phase(name, "Running")

    async def printed() -> bool:
        return all((await site.gpus(pod)).values())

    await eventually(printed, within=site.patience)
    return pod


async def running(site: Site, *, other_than: str) -> tuple[str, str]:
    """The running pod of the Job, and the device that it printed."""

    async def there() -> tuple[str, str] | None:
        for pod in await site.pods("batch.kubernetes.io/job-name=job-survives"):
            name = pod["metadata"]["name"]
            leaving = "deletionTimestamp" in pod["metadata"]
            if name != other_than and not leaving and pod["status"].get("phase") == "Running":
                for gpus in (await site.gpus(pod)).values():
                    for device in gpus:
                        return name, device
        return None

    return await eventually(there, within=site.patience, what="a running pod of the Job")


async def without_taint(site: Site, device: str) -> bool:
    found: dict[str, Any] = (await site.devices())[device]
    return not found.get("taints")


async def job_complete(site: Site, name: str, namespace: str = "") -> bool:
    job = await site.api.get(f"/apis/batch/v1/namespaces/{namespace or site.namespace}/jobs/{name}")
    conditions = job.get("status", {}).get("conditions") or []
    return any(c["type"] == "Complete" and c["status"] == "True" for c in conditions)


async def none_left(site: Site) -> bool:
    return not await site.claims()


def results(claim: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a claim has been given."""
    allocation = (claim.get("status") or {}).get("allocation") or {"devices": {}}
    return list(allocation["devices"].get("results") or [])


def limits(pod: Mapping[str, Any]) -> set[str]:
    """The resources that a pod's containers ask for."""
    return {name for c in pod["spec"]["containers"] for name in (c.get("resources") or {}).get("limits") or {}}


def devices_of(printed: Gpus) -> list[str]:
    return [name for pod in printed.values() for gpus in pod.values() for name in gpus]


def shared(device: Mapping[str, Any]) -> bool:
    return bool(device.get("allowMultipleAllocations"))


def profile(device: Mapping[str, Any]) -> str:
    return str(device["attributes"].get("profile", {}).get("string", ""))
