"""Device health, from the hardware through the stream into the status of the pods that use the device."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from driver.wire import dra_health_v1_pb2, dra_health_v1_pb2_grpc, dra_health_v1alpha1_pb2, dra_health_v1alpha1_pb2_grpc
from tests.eventually import eventually
from tests.forked.process import gpu_dra
from tests.harness import DRIVER, NODE, Driver, Kubelet
from tests.unit.sim_kubelet.fakes import Cluster, pod

if TYPE_CHECKING:
    from driver.kube.client import Api
    from tests.contract.conftest import NodeKubelet
    from tests.harness import Claims, NodeDirectories

V1 = (dra_health_v1_pb2_grpc.DRAResourceHealthStub, dra_health_v1_pb2)
V1ALPHA1 = (dra_health_v1alpha1_pb2_grpc.DRAResourceHealthStub, dra_health_v1alpha1_pb2)


async def fault(node: NodeDirectories, *arguments: str) -> None:
    """What a user does to a fake device while the driver runs."""
    command = [*gpu_dra("fault"), *arguments, f"--kubelet-plugins-dir={node.plugins}"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0


async def health(cluster: Cluster, name: str = "pod") -> dict[str, Any]:
    """The health of a pod's one device, as its status has it; {} while there is none."""
    status = (await cluster.pod(name) or {}).get("status", {})
    for container in status.get("containerStatuses") or []:
        for claim in container.get("allocatedResourcesStatus") or []:
            [resource] = claim["resources"]
            return {"name": claim["name"], **resource}
    return {}


async def becomes(cluster: Cluster, wanted: str, name: str = "pod") -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        found = await health(cluster, name)
        return found if found.get("health") == wanted else None

    return await eventually(there, what=f"pod {name} has a device that is {wanted}")


@pytest.fixture
async def running_pod(driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster) -> dict[str, Any]:
    """A pod that uses gpu-0; the claim."""
    claim = await claims.allocated("claim", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}))
    await cluster.phase("Running", "pod")
    await becomes(cluster, "Healthy")
    return claim


async def test_the_status_of_a_pod_names_its_device_by_its_cdi_id(
    running_pod: dict[str, Any], cluster: Cluster
) -> None:
    found = await health(cluster)

    uid = running_pod["metadata"]["uid"]
    assert found == {
        "name": "claim:gpu",
        "resourceID": f"k8s.gpu.nvidia.com/claim={uid}-gpu-0",
        "health": "Healthy",
    }


async def test_a_fault_makes_a_device_unhealthy_with_a_message_and_its_repair_healthy_again(
    running_pod: dict[str, Any], cluster: Cluster, node: NodeDirectories
) -> None:
    await fault(node, "--device=gpu-0", "--xid=79")
    broken = await becomes(cluster, "Unhealthy")

    await fault(node, "--device=gpu-0", "--clear")

    assert "79" in broken["message"]
    assert "message" not in await becomes(cluster, "Healthy")


async def test_the_fault_of_another_device_does_not_concern_a_pod(
    running_pod: dict[str, Any], cluster: Cluster, claims: Claims, node: NodeDirectories
) -> None:
    await claims.allocated("second", "gpu-1")
    await cluster.create_pod(pod("second", claims={"gpu": "second"}))
    await becomes(cluster, "Healthy", "second")

    await fault(node, "--device=gpu-1", "--xid=79")

    await becomes(cluster, "Unhealthy", "second")
    assert (await health(cluster))["health"] == "Healthy"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_health_is_unknown_when_the_driver_has_ended_and_recovers_with_the_next_one(
    running_pod: dict[str, Any], driver: Driver, cluster: Cluster, run: Any, end: signal.Signals
) -> None:
    driver.signal(end)
    await driver.ended()
    assert "message" not in await refreshed(cluster, "Unknown")

    await run()

    await becomes(cluster, "Healthy")


async def refreshed(cluster: Cluster, wanted: str) -> dict[str, Any]:
    """The end of a stream is not a reason for a kubelet to write a pod's status; a change of the pod is."""
    body = await cluster.pod("pod") or {}
    labels = {**body["metadata"].get("labels", {}), "poked": str(time.monotonic_ns())}
    await cluster.api.request(
        "PATCH",
        "/api/v1/namespaces/default/pods/pod",
        body={"metadata": {"labels": labels}},
        content_type="application/merge-patch+json",
    )
    return await becomes(cluster, wanted)


async def test_an_unhealthy_device_is_still_unhealthy_after_the_driver_restarted(
    running_pod: dict[str, Any], driver: Driver, cluster: Cluster, run: Any, node: NodeDirectories
) -> None:
    await fault(node, "--device=gpu-0", "--xid=79")
    before = await becomes(cluster, "Unhealthy")
    await driver.kill()
    await refreshed(cluster, "Unknown")

    await run()

    assert await becomes(cluster, "Unhealthy") == before


async def test_health_is_known_again_after_the_kubelet_restarted(
    running_pod: dict[str, Any], node_kubelet: NodeKubelet, cluster: Cluster, node: NodeDirectories
) -> None:
    await node_kubelet.restart()

    await fault(node, "--device=gpu-0", "--xid=79")

    await becomes(cluster, "Unhealthy")


async def test_calls_and_health_share_one_connection(
    running_pod: dict[str, Any], driver: Driver, claims: Claims, cluster: Cluster, node: NodeDirectories
) -> None:
    await claims.allocated("second", "gpu-1")
    await cluster.create_pod(pod("second", claims={"gpu": "second"}))
    await cluster.phase("Running", "second")

    assert connections(node.state / "dra.sock") == 1


async def test_the_connection_is_made_again_after_the_driver_restarted(
    running_pod: dict[str, Any], driver: Driver, cluster: Cluster, run: Any, node: NodeDirectories
) -> None:
    await driver.kill()
    await eventually((await run()).ready)

    await eventually(lambda: connections(node.state / "dra.sock") == 1)
    await refreshed(cluster, "Healthy")


async def test_health_is_reported_while_many_pods_come_and_go(
    running_pod: dict[str, Any], cluster: Cluster, claims: Claims, node: NodeDirectories
) -> None:
    async def come_and_go(index: int) -> None:
        for turn in range(2):
            name = f"pod-{index}-{turn}"
            await claims.allocated(name, f"gpu-{index}")
            await cluster.create_pod(pod(name, claims={"gpu": name}, script="env"))
            await cluster.phase("Succeeded", name)

    async with asyncio.TaskGroup() as group:
        for index in range(1, 7):
            group.create_task(come_and_go(index))
        await fault(node, "--device=gpu-0", "--xid=79")
        await becomes(cluster, "Unhealthy")
        await fault(node, "--device=gpu-0", "--clear")
        await becomes(cluster, "Healthy")


async def test_a_device_that_is_allocated_with_a_share_has_the_health_of_the_device(
    driver: Driver, node_kubelet: NodeKubelet, cluster: Cluster, claims: Claims, node: NodeDirectories
) -> None:
    shares = ["5d8b1f0a-0000-4000-8000-00000000000a", "5d8b1f0a-0000-4000-8000-00000000000b"]
    for name, share in zip(("a", "b"), shares, strict=True):
        await claims.allocated(name, "gpu-0", shareID=share)
        await cluster.create_pod(pod(name, claims={"gpu": name}))
        await becomes(cluster, "Healthy", name)

    await fault(node, "--device=gpu-0", "--xid=79")

    for name, share in zip(("a", "b"), shares, strict=True):
        assert (await becomes(cluster, "Unhealthy", name))["resourceID"].endswith(f"-gpu-0-{share}")


@pytest.mark.parametrize("version", [V1, V1ALPHA1], ids=["v1", "v1alpha1"])
async def test_each_message_of_a_stream_lists_all_devices(
    driver: Driver, kubelet: Kubelet, api: Api, node: NodeDirectories, version: Any
) -> None:
    stub, messages = version
    await eventually(lambda: driver.said("started"))
    stream = stub(await kubelet.connect()).NodeWatchResources(messages.NodeWatchResourcesRequest())

    async def full() -> Any:
        message = await stream.read()
        return message if len(message.devices) == 8 else None

    first = await eventually(full)
    await fault(node, "--device=gpu-2", "--xid=79")
    second = await eventually(full)

    assert [(d.device.pool_name, d.device.device_name) for d in first.devices] == [
        (NODE, f"gpu-{index}") for index in range(8)
    ]
    assert {d.health for d in first.devices} == {messages.HEALTHY}
    assert [d.device.device_name for d in second.devices if d.health == messages.UNHEALTHY] == ["gpu-2"]
    assert all(abs(d.last_updated_time - time.time()) < 60 for d in second.devices)


async def test_a_healthy_stream_is_repeated_well_within_the_timeout_that_it_names(
    driver: Driver, kubelet: Kubelet, api: Api
) -> None:
    await kubelet.notify(registered=True)
    await eventually(driver.ready)  # nothing is going to change any more
    stub = dra_health_v1_pb2_grpc.DRAResourceHealthStub(await kubelet.connect())
    stream = stub.NodeWatchResources(dra_health_v1_pb2.NodeWatchResourcesRequest())
    message = await stream.read()
    started = time.monotonic()

    again = await stream.read()

    assert time.monotonic() - started < message.devices[0].health_check_timeout_seconds / 2
    assert [(d.device, d.health) for d in again.devices] == [(d.device, d.health) for d in message.devices]


async def test_a_device_that_does_not_change_stays_known_beyond_its_timeout(driver: Driver, new_kubelet: Any) -> None:
    ahead = 0.0
    kubelet = await new_kubelet(clock=lambda: time.time() + ahead).start()

    def known() -> bool:
        return bool(kubelet.now.health.get(DRIVER, NODE, "gpu-0").health == "Healthy")

    await eventually(known)

    ahead = 31.0

    assert not known()
    await eventually(known, what="the list of devices is sent again")


def connections(path: Path) -> int:
    """How many connections a unix socket has accepted and not closed (state 03 of /proc/net/unix)."""
    rows = (line.split() for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()[1:])
    return sum(1 for row in rows if row[-1] == str(path) and row[5] == "03")
