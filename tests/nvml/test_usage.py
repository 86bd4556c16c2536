"""Who uses how much of real GPUs, from the library to the page: processes, control groups, a library that hangs."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from driver.kube.client import claim_path
from tests.contract.test_usage import scrape
from tests.eventually import eventually
from tests.nvml.test_node import SMALL, Site, node, site

if TYPE_CHECKING:
    from tests.nvml.standin import World

__all__ = ["node", "site"]
GIB = 1 << 30
UIDS = {"a": str(uuid.UUID(int=1)), "b": str(uuid.UUID(int=2))}


def run(machine: World, pid: int, pod: str) -> None:
    """A process of a pod runs, as containerd with systemd makes its control group; on a node whose processes we see."""
    slices = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UIDS[pod].replace('-', '_')}.slice"
    for number, name, text in ((2, "comm", "kthreadd\n"), (pid, "cgroup", f"0::/{slices}/cri-containerd-x.scope\n")):
        (machine.proc / str(number)).mkdir(exist_ok=True)
        (machine.proc / str(number) / name).write_text(text)


async def reserved(site: Site, name: str, device: str, *pods: str, **more: Any) -> dict[str, Any]:
    claim = await site.claims.allocated(name, device, **more)
    claim["status"]["reservedFor"] = [{"resource": "pods", "name": pod, "uid": UIDS[pod]} for pod in pods]
    return await site.api.request("PUT", f"{claim_path('default', name)}/status", body=claim)


async def by_pod(site: Site, what: str) -> dict[str, float]:
    return {labels["pod"]: value for labels, value in await scrape(site.driver, f"gpu_dra_pod_device_{what}")}


async def test_pods_that_share_a_gpu_are_told_apart(site: Site) -> None:
    site.machine.add(processes=f"17:{3 * GIB} 23:{5 * GIB} 99:{GIB}", used=9 * GIB, utilisation=90)
    now = 4_000_000_000_000_000
    site.machine.set({"gpu.0.samples": f"17:{now}:60 23:{now}:20"})
    run(site.machine, 17, "a")
    run(site.machine, 23, "b")
    kubelet = await site.start("none", "--shares=4")
    shares = [{"shareID": str(uuid.UUID(int=number)), "consumedCapacity": {"shares": "1"}} for number in (7, 8)]
    claims = [
        await reserved(site, name, "gpu-0", pod, **share)
        for name, pod, share in zip(("first", "second"), ("a", "b"), shares, strict=True)
    ]

    answers = await kubelet.prepare(*claims)

    assert not any(answer.error for answer in answers.values())
    await eventually(lambda: _is(by_pod(site, "memory_used_bytes"), {"a": 3 * GIB, "b": 5 * GIB}))
    assert await by_pod(site, "utilisation_ratio") == {"a": 0.6, "b": 0.2}
    used = await scrape(site.driver, "gpu_dra_claim_device_memory_used_bytes")
    assert {labels["claim"]: value for labels, value in used} == {"first": 3 * GIB, "second": 5 * GIB}
    [(_, all_of_it)] = await scrape(site.driver, "gpu_dra_gpu_memory_used_bytes")
    assert all_of_it == 9 * GIB


async def test_a_partition_that_was_made_for_a_claim_is_measured(site: Site) -> None:
    site.machine.add(has_gpm=1)
    kubelet = await site.start("dynamic")
    claim = await reserved(site, "part", SMALL, "a")
    await kubelet.prepare(claim)
    instance = next(key.split(".")[3] for key in site.machine.instances() if ".gi." in key)

    site.machine.set({f"gpu.0.used.{instance}": 4 * GIB})

    await eventually(lambda: _is(by_pod(site, "memory_used_bytes"), {"a": 4 * GIB}))
    [labels] = [labels for labels, _ in await scrape(site.driver, "gpu_dra_claim_device_info")]
    assert labels["uuid"].startswith("MIG-")
    assert labels["parent_uuid"] == site.machine.uuids()[0]


async def test_a_library_that_hangs_stops_neither_prepares_nor_scrapes(site: Site) -> None:
    site.machine.add()
    site.machine.add()
    site.machine.set({"delay.nvmlDeviceGetEnforcedPowerLimit": 60_000})
    kubelet = await site.start()
    site.machine.wait_for_delay()
    claim = await reserved(site, "claim", "gpu-1", "a")

    answers = await kubelet.prepare(claim, timeout=20)

    assert not any(answer.error for answer in answers.values())
    assert [labels["pod"] for labels, _ in await scrape(site.driver, "gpu_dra_claim_device_info")] == ["a"]
    assert await scrape(site.driver, "gpu_dra_gpu_memory_used_bytes") == []


async def _is(found: Any, wanted: object) -> bool:
    return bool(await found == wanted)
