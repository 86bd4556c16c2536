"""Two drivers on one node: what one of them does wrong is not the other's fault, nor its problem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import RESOURCE
from tests.eventually import eventually
from tests.harness import DRIVER, NODE, Driver
from tests.unit.sim_kubelet.fakes import DRIVER as OTHER
from tests.unit.sim_kubelet.fakes import Cluster, FakePlugin, pod

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.contract.conftest import NodeKubelet
    from tests.harness import Claims, NodeDirectories


SLICES = f"{RESOURCE}/resourceslices"


@pytest.fixture
async def other(node: NodeDirectories) -> AsyncIterator[FakePlugin]:
    """Another driver, which does as it is told."""
    plugin = await FakePlugin(node.root).start()
    yield plugin
    await plugin.stop()


@pytest.fixture
async def two_driver_pod(claims: Claims) -> dict[str, Any]:
    """A pod with a claim of each driver."""
    await claims.allocated("ours", "gpu-0")
    await claims.allocated("theirs", "gpu-0", driver=OTHER, pool="pool")
    return pod("pod", claims={"ours": "ours", "theirs": "theirs"})


async def test_a_pod_gets_the_devices_of_both(
    driver: Driver, other: FakePlugin, node_kubelet: NodeKubelet, cluster: Cluster, two_driver_pod: dict[str, Any]
) -> None:
    await cluster.create_pod(two_driver_pod)

    await cluster.phase("Running", "pod")
    await eventually(lambda: "GPU_DRA_GPU_0=" in (log := node_kubelet.now.read_log("default", "pod")) and log)
    assert "CLAIM_theirs=yes" in node_kubelet.now.read_log("default", "pod")


async def test_a_claim_with_devices_of_both_is_prepared_by_each_for_its_own(
    driver: Driver, other: FakePlugin, node_kubelet: NodeKubelet, cluster: Cluster, claims: Claims
) -> None:
    claim = await claims.allocated("both", "gpu-0", "gpu-1")
    results = claim["status"]["allocation"]["devices"]["results"]
    results[1] |= {"driver": OTHER, "pool": "pool", "device": "gpu-0"}
    await claims.deallocate(claim)
    await claims.allocate(await claims.read(claim), results)

    await cluster.create_pod(pod("pod", claims={"both": "both"}))

    await cluster.phase("Running", "pod")
    [line] = driver.messages("prepared claim")
    assert line["devices"] == ["gpu-0"]
    assert other.count("prepare") == 1


async def test_the_failure_of_the_other_keeps_the_pod_pending_until_it_succeeds(
    driver: Driver,
    other: FakePlugin,
    node_kubelet: NodeKubelet,
    cluster: Cluster,
    two_driver_pod: dict[str, Any],
    node: NodeDirectories,
) -> None:
    other.prepare_error["theirs"] = "out of order"
    await cluster.create_pod(two_driver_pod)
    await cluster.event("FailedPrepareDynamicResources", containing="out of order")

    other.prepare_error.clear()

    await cluster.phase("Running", "pod")
    assert len(node.records()) == 1


async def test_the_failure_of_ours_keeps_the_pod_pending_and_the_other_plugin_is_not_disturbed(
    driver: Driver, other: FakePlugin, node_kubelet: NodeKubelet, cluster: Cluster, claims: Claims
) -> None:
    await claims.allocated("ours", "gpu-99")
    await cluster.create_pod(pod("broken", claims={"ours": "ours"}))
    await cluster.event("FailedPrepareDynamicResources", containing="'gpu-99'")

    await claims.allocated("theirs", "gpu-0", driver=OTHER, pool="pool")
    await cluster.create_pod(pod("pod", claims={"theirs": "theirs"}))

    await cluster.phase("Running", "pod")


async def test_a_pod_that_waits_for_the_other_over_a_restart_of_the_kubelet_runs_in_the_end(
    driver: Driver,
    other: FakePlugin,
    node_kubelet: NodeKubelet,
    cluster: Cluster,
    two_driver_pod: dict[str, Any],
    node: NodeDirectories,
) -> None:
    other.hold.clear()
    await cluster.create_pod(two_driver_pod)
    await eventually(lambda: other.count("prepare"))

    await node_kubelet.restart()
    other.hold.set()

    await cluster.phase("Running", "pod")
    assert len(node.records()) == len([name for name in node.specs() if DRIVER in name]) == 1


async def test_a_pod_that_ends_gives_both_their_devices_back_although_one_refuses_at_first(
    driver: Driver,
    other: FakePlugin,
    node_kubelet: NodeKubelet,
    cluster: Cluster,
    two_driver_pod: dict[str, Any],
    node: NodeDirectories,
) -> None:
    await cluster.create_pod(two_driver_pod)
    await cluster.phase("Running", "pod")
    other.unprepare_error["theirs"] = "not yet"
    await cluster.delete_pod("pod", grace=1)
    await eventually(lambda: other.count("unprepare"))

    other.unprepare_error.clear()

    await cluster.gone("pod")
    assert node.records() == []


async def test_the_slices_of_one_outlive_the_other(
    driver: Driver, other: FakePlugin, new_kubelet: Any, cluster: Cluster
) -> None:
    kubelet = await new_kubelet(wiping_delay=1).start()
    await eventually(lambda: kubelet.registered(OTHER))
    await eventually(driver.ready)
    body = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": "theirs"},
        "spec": {
            "driver": OTHER,
            "nodeName": NODE,
            "pool": {"name": "pool", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0"}],
        },
    }
    await cluster.api.request("POST", SLICES, body=body)

    await other.stop()

    async def theirs_are_gone() -> list[str] | None:
        drivers = [obj["spec"]["driver"] for obj in (await cluster.api.get(SLICES))["items"]]
        return None if OTHER in drivers else drivers

    assert await eventually(theirs_are_gone) == [DRIVER]
