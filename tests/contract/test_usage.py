"""What a running driver tells of who uses its GPUs: from prepare to unprepare, across restarts and upgrades."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from driver.hardware import load, read_boot_id
from driver.kube.client import claim_path
from tests.eventually import eventually
from tests.harness import Kubelet

if TYPE_CHECKING:
    from driver.kube.client import Api
    from tests.harness import Claims, Driver, NodeDirectories

PARTITION = "gpu-0-mig-1g10gb-19-6"


async def scrape(driver: Driver, name: str) -> list[tuple[dict[str, str], float]]:
    """Samples of one name."""
    status, text = await driver.get("/metrics")
    assert status == 200
    families = text_string_to_metric_families(text)
    return [(one.labels, one.value) for family in families for one in family.samples if one.name == name]


async def info(driver: Driver) -> list[dict[str, str]]:
    return [labels for labels, value in await scrape(driver, "gpu_dra_claim_device_info") if value == 1]


async def seconds(driver: Driver, kind: str = "device") -> float:
    return sum(value for _, value in await scrape(driver, f"gpu_dra_{kind}_seconds_total"))


async def reserve(api: Api, claim: dict[str, Any], *pods: str) -> None:
    path = claim_path("default", claim["metadata"]["name"])
    found = await api.get(path)
    found["status"]["reservedFor"] = [{"resource": "pods", "name": pod, "uid": f"uid-of-{pod}"} for pod in pods]
    await api.request("PUT", f"{path}/status", body=found)


async def test_a_claim_is_told_of_from_prepare_to_unprepare(
    run: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    driver = await run("--partitioning=dynamic")
    kubelet = Kubelet(driver.registrar)
    claim = await claims.allocated("a", "gpu-1", PARTITION)
    await reserve(api, claim, "trainer", "helper")

    await kubelet.prepare(claim)

    told = await info(driver)
    assert {(one["device"], one["pod"]) for one in told} == {
        (device, pod) for device in ("gpu-1", PARTITION) for pod in ("trainer", "helper")
    }
    part = next(one for one in told if one["device"] == PARTITION and one["pod"] == "trainer")
    assert part["uuid"].startswith("MIG-")
    assert part["parent_uuid"].startswith("GPU-")
    assert {key: part[key] for key in ("namespace", "claim", "claim_uid", "pod_uid", "request")} == {
        "namespace": "default",
        "claim": "a",
        "claim_uid": claim["metadata"]["uid"],
        "pod_uid": "uid-of-trainer",
        "request": "req-1",
    }
    assert (part["profile"], part["type"], part["share_id"]) == ("1g.10gb", "mig", "")

    await kubelet.unprepare(claim)

    assert await info(driver) == []
    await kubelet.close()


async def test_time_and_use_are_told_on_after_a_kill(
    driver: Driver, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    kubelet = Kubelet(driver.registrar)
    ended, held = await claims.allocated("ended", "gpu-1"), await claims.allocated("held", "gpu-2")
    await reserve(api, held, "trainer")
    await kubelet.prepare(ended, held)
    await kubelet.unprepare(ended)
    told = await info(driver)
    load(node.state, boot_id=read_boot_id(), device="gpu-2", utilisation=80, memory="40Gi")

    async def counted() -> bool:
        return await seconds(driver) > 0

    await eventually(counted)
    before = await seconds(driver)

    await kubelet.close()
    await driver.kill()
    await driver.start()
    await driver.serving()

    assert await info(driver) == told

    async def goes_on() -> bool:
        return await seconds(driver) >= before and bool(await scrape(driver, "gpu_dra_pod_device_utilisation_ratio"))

    await eventually(goes_on)
    [(labels, utilisation)] = await scrape(driver, "gpu_dra_pod_device_utilisation_ratio")
    assert (labels["pod"], labels["namespace"], labels["device"], utilisation) == ("trainer", "default", "gpu-2", 0.8)
    [(_, memory)] = await scrape(driver, "gpu_dra_claim_device_memory_used_bytes")
    assert memory == 40 << 30


async def test_of_two_instances_one_tells_and_the_time_goes_on(
    run: Any, node_kubelet: Any, claims: Claims, api: Api
) -> None:
    old = await run(pod_uid="old")
    await eventually(old.ready)
    ended, held = await claims.allocated("ended", "gpu-1"), await claims.allocated("held", "gpu-2")
    kubelet = Kubelet(old.registrar)
    await kubelet.prepare(ended, held)
    await kubelet.unprepare(ended)

    async def counted() -> bool:
        return await seconds(old) > 0

    await eventually(counted)
    before = await seconds(old)
    await kubelet.close()

    new = await run(pod_uid="new")

    async def taken_over() -> bool:
        return len(await info(new)) == 1 and await info(old) == []

    await eventually(taken_over)
    assert await seconds(old) == 0

    async def goes_on() -> bool:
        return await seconds(new) >= before

    await eventually(goes_on)
    await new.kill()

    async def back() -> bool:
        return len(await info(old)) == 1 and await seconds(old) >= before

    await eventually(back)
