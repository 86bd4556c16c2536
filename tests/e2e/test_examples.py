"""Every file of deploy/examples does what its comment says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from driver.sim.demo.workloads import load_examples
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.e2e.site import Site

EXAMPLES = {example.name: example for example in load_examples()}
Gpus = dict[str, dict[str, dict[str, str]]]
"""What was printed: pod -> container -> device name -> UUID."""


async def one_each(site: Site, printed: Gpus) -> None:
    assert all(len(gpus) == 1 for pod in printed.values() for gpus in pod.values())


async def the_same_one(site: Site, printed: Gpus) -> None:
    await one_each(site, printed)
    assert len({uuid for pod in printed.values() for gpus in pod.values() for uuid in gpus.values()}) == 1


async def two_on_one_numa_node(site: Site, printed: Gpus) -> None:
    await one_each(site, printed)
    names = {name for pod in printed.values() for gpus in pod.values() for name in gpus}
    devices = await site.devices()
    assert len(names) == 2
    assert len({devices[name]["attributes"]["resource.kubernetes.io/numaNode"]["int"] for name in names}) == 1


async def all_of_the_node(site: Site, printed: Gpus) -> None:
    [pod] = printed.values()
    [gpus] = pod.values()
    assert set(gpus) == set(await site.whole_gpus())


async def one_partition(site: Site, printed: Gpus) -> None:
    await one_each(site, printed)
    assert all("-mig-" in name for pod in printed.values() for gpus in pod.values() for name in gpus)


async def partitions_of_one_gpu(site: Site, printed: Gpus) -> None:
    await one_partition(site, printed)
    names = [name for pod in printed.values() for gpus in pod.values() for name in gpus]
    assert len(set(names)) == len(names)
    assert len({name.partition("-mig-")[0] for name in names}) == 1


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
}
CLASSES = "00-deviceclasses"
SICK_JOB = "09-job-survives-a-sick-gpu"
SEVEN = "10-seven-small-partitions"


def test_each_example_has_an_expected_outcome() -> None:
    assert OUTCOMES.keys() | {CLASSES, SICK_JOB, SEVEN} == EXAMPLES.keys()


@pytest.mark.parametrize("name", OUTCOMES)
async def test_the_pods_of_an_example_succeed_and_print_their_gpus(site: Site, name: str) -> None:
    await apply(site, name)

    printed = {}
    for pod in EXAMPLES[name].of_kind("Pod"):
        namespace = pod["metadata"].get("namespace", "")
        ended = await site.phase(pod["metadata"]["name"], "Succeeded", "Failed", namespace=namespace)
        assert ended["status"]["phase"] == "Succeeded", ended["status"]
        printed[pod["metadata"]["name"]] = await site.gpus(ended)
    await OUTCOMES[name](site, printed)
    if not EXAMPLES[name].needs_partitions:
        offered = {device["attributes"]["uuid"]["string"] for device in (await site.whole_gpus()).values()}
        assert {uuid for pod in printed.values() for gpus in pod.values() for uuid in gpus.values()} <= offered


async def test_a_job_goes_on_elsewhere_when_its_gpu_fails(site: Site) -> None:
    if not site.can_fault:
        pytest.skip("needs --fault-command to break a GPU of this cluster")
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


async def apply(site: Site, name: str) -> None:
    example = EXAMPLES[name]
    devices = await site.devices()
    gpus = await site.whole_gpus()
    if example.needs_partitions and len(devices) == len(gpus):
        pytest.skip("the driver of this node offers no partitions")
    if example.needs_gpus > len(gpus):
        pytest.skip(f"needs {example.needs_gpus} GPUs, this node has {len(gpus)}")
    await site.apply([*EXAMPLES[CLASSES].objects, *example.objects])


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
