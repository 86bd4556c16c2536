"""Resource quotas: what counts, what is refused, and what the status says."""

import pytest

from tests.unit.sim_apiserver.cluster import CLAIMS, CONFIGMAPS, CORE, PODS, Cluster, pod, refused

QUOTAS = f"{CORE}/namespaces/default/resourcequotas"
DEVICES = "gpu.example.com.deviceclass.resource.k8s.io/devices"
CLASS = "gpu.example.com"


async def limit(cluster: Cluster, **hard: str) -> None:
    await cluster.create(QUOTAS, {"metadata": {"name": "quota"}, "spec": {"hard": hard}})


async def used(cluster: Cluster) -> dict[str, str]:
    return (await cluster.get(f"{QUOTAS}/quota"))["status"]["used"]


def claim(name: str, count: int = 1, **request) -> dict:
    exactly = {"deviceClassName": CLASS, **(request or {"count": count})}
    return {"metadata": {"name": name}, "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}}


def choice(name: str, *counts: int) -> dict:
    subrequests = [{"name": f"s{i}", "deviceClassName": CLASS, "count": count} for i, count in enumerate(counts)]
    return {
        "metadata": {"name": name},
        "spec": {"devices": {"requests": [{"name": "r", "firstAvailable": subrequests}]}},
    }


async def test_devices_of_a_class_are_counted(cluster) -> None:
    await limit(cluster, **{DEVICES: "3"})
    await cluster.create(CLAIMS, claim("a", 2))
    assert await used(cluster) == {DEVICES: "2"}
    async with refused(403) as refusal:
        await cluster.create(CLAIMS, claim("b", 2))
    assert refusal.message == (
        'resourceclaims.resource.k8s.io "b" is forbidden: exceeded quota: quota, '
        f"requested: {DEVICES}=2, used: {DEVICES}=2, limited: {DEVICES}=3"
    )
    await cluster.delete(f"{CLAIMS}/a")
    assert await used(cluster) == {DEVICES: "0"}
    await cluster.create(CLAIMS, claim("b", 2))


async def test_a_dry_run_is_refused_and_not_charged(cluster) -> None:
    await limit(cluster, **{DEVICES: "1"})
    await cluster.create(CLAIMS, claim("a"), dryRun="All")
    assert await used(cluster) == {DEVICES: "0"}
    async with refused(403):
        await cluster.create(CLAIMS, claim("a", 2), dryRun="All")


@pytest.mark.parametrize(
    ("body", "amount"),
    [
        (claim("a", allocationMode="All"), "32"),
        (choice("a", 4, 1, 2), "4"),
        (claim("a", deviceClassName="other"), "0"),
    ],
)
async def test_the_worst_case_counts(cluster, body, amount) -> None:
    await limit(cluster, **{DEVICES: "40"})
    await cluster.create(CLAIMS, body)
    assert await used(cluster) == {DEVICES: amount}


async def test_objects_are_counted(cluster) -> None:
    await limit(cluster, **{"count/resourceclaims.resource.k8s.io": "1", "count/configmaps": "1", "count/pods": "1"})
    for path, body in ((CLAIMS, claim("a")), (CONFIGMAPS, {"metadata": {"name": "a"}}), (PODS, pod("a"))):
        await cluster.create(path, body)
        async with refused(403) as refusal:
            await cluster.create(path, body | {"metadata": {"name": "b"}})
        assert "exceeded quota: quota, requested: " in refusal.message


async def test_pods_that_have_ended_give_their_share_back(cluster) -> None:
    await limit(cluster, pods="1")
    await cluster.create(PODS, pod("a"))
    assert await used(cluster) == {"pods": "1"}
    await cluster.merge(f"{PODS}/a/status", {"status": {"phase": "Succeeded"}})
    assert await used(cluster) == {"pods": "0"}


async def test_a_new_limit_holds_for_what_comes_after(cluster) -> None:
    await cluster.create(CLAIMS, claim("a", 2))
    await limit(cluster, **{DEVICES: "1"})
    assert await used(cluster) == {DEVICES: "2"}
    async with refused(403):
        await cluster.create(CLAIMS, claim("b"))
    await cluster.merge(f"{CLAIMS}/a", {"metadata": {"labels": {"a": "b"}}})
    await cluster.merge(f"{QUOTAS}/quota", {"spec": {"hard": {DEVICES: "3"}}})
    await cluster.create(CLAIMS, claim("b"))


@pytest.mark.parametrize(
    ("hard", "message"),
    [
        ({"pods": "-1"}, "must not be negative"),
    ],
)
async def test_quotas_are_checked(cluster, hard, message) -> None:
    async with refused(422) as refusal:
        await limit(cluster, **hard)
    assert message in refusal.message
