"""Prepare and unprepare as pods meet them: failures that heal, restarts of either side, pods that are deleted."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest

from driver.sim import identity
from driver.sim.apiserver.faults import Fault
from tests.eventually import eventually
from tests.harness import DRIVER, Driver
from tests.unit.sim_kubelet.fakes import Cluster, pod

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.sim.apiserver import ApiServer
    from driver.sim.apiserver.faults import Request
    from tests.contract.conftest import NodeKubelet
    from tests.harness import Claims, NodeDirectories

PREPARE = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources"
FAILED = "FailedPrepareDynamicResources"


def claim_reads(fault: Fault) -> Callable[[Request], Fault | None]:
    """This happens to the driver's reads of claims, and to nobody else's."""
    return lambda request: (
        fault if request.user.name == identity.username() and request.resource == "resourceclaims" else None
    )


def calls(kubelet: NodeKubelet, code: str, method: str = PREPARE) -> float:
    labels = {"driver_name": DRIVER, "method_name": method, "grpc_status_code": code}
    return kubelet.now.metrics.registry.get_sample_value("dra_grpc_operations_duration_seconds_count", labels) or 0


async def test_a_prepare_that_runs_into_its_deadline_leaves_the_pod_pending_and_then_succeeds(
    driver: Driver, new_kubelet: Any, claims: Claims, cluster: Cluster, server: ApiServer
) -> None:
    kubelet = await new_kubelet(rpc_timeout=4.0).start()
    await claims.allocated("claim", "gpu-0")

    def freeze(request: Request) -> Fault | None:
        if request.user.name == identity.username() and request.resource == "resourceclaims":
            driver.signal(signal.SIGSTOP)
        return None

    server.fault = freeze
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}, script="env"))
    await cluster.event(FAILED, containing="DeadlineExceeded")
    assert (await cluster.pod("pod") or {})["status"]["phase"] == "Pending"

    server.fault = None
    driver.signal(signal.SIGCONT)

    await cluster.phase("Succeeded", "pod")
    assert calls(kubelet, "DeadlineExceeded") >= 1


async def test_while_the_api_server_hangs_the_driver_says_so_before_the_kubelet_gives_up(
    driver: Driver, new_kubelet: Any, claims: Claims, cluster: Cluster, server: ApiServer
) -> None:
    kubelet = await new_kubelet(rpc_timeout=4.0).start()
    await claims.allocated("claim", "gpu-0")
    server.fault = claim_reads(Fault(delay=60))

    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}, script="env"))
    await cluster.event(FAILED, containing="cannot read claim default/claim")
    server.fault = None

    await cluster.phase("Succeeded", "pod")
    assert calls(kubelet, "DeadlineExceeded") == 0


@pytest.mark.parametrize(
    "fault",
    [Fault(status=429, retry_after=1), Fault(status=500), Fault(status=503), Fault(drop=True)],
    ids=["throttled", "broken", "unavailable", "cut off"],
)
async def test_an_api_server_that_stumbles_once_costs_no_failed_prepare(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, server: ApiServer, fault: Fault
) -> None:
    await claims.allocated("claim", "gpu-0")
    stumbles = [fault]
    reads = claim_reads(fault)
    server.fault = lambda request: stumbles.pop() if stumbles and reads(request) else None

    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}, script="env"))

    await cluster.phase("Succeeded", "pod")
    assert stumbles == []
    assert driver.messages("prepare failed") == []


async def test_a_prepare_that_failed_succeeds_when_its_cause_has_gone(
    driver: Driver, new_kubelet: Any, claims: Claims, cluster: Cluster
) -> None:
    await new_kubelet(rpc_timeout=4.0).start()  # the driver waits for the holder as long as the kubelet waits for it
    await claims.allocated("first", "gpu-0")
    await cluster.create_pod(pod("holder", claims={"gpu": "first"}))
    await cluster.phase("Running", "holder")
    await claims.allocated("second", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "second"}, script="env"))
    await cluster.event(FAILED, containing="by claim default/first")

    await cluster.delete_pod("holder", grace=1)

    await cluster.phase("Succeeded", "pod")


async def test_a_failed_prepare_is_tried_again_by_a_restarted_kubelet(
    driver: Driver, new_kubelet: Any, claims: Claims, cluster: Cluster, server: ApiServer
) -> None:
    kubelet = await new_kubelet().start()
    await claims.allocated("claim", "gpu-0")
    server.fault = claim_reads(Fault(status=403))
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}, script="env"))
    await cluster.event(FAILED, containing="needs the verb 'get' on 'resourceclaims'")
    await kubelet.stop()
    server.fault = None

    await kubelet.start()

    await cluster.phase("Succeeded", "pod")


async def test_a_prepare_in_progress_while_the_kubelet_restarts_is_done_once(
    driver: Driver,
    node_kubelet: NodeKubelet,
    claims: Claims,
    cluster: Cluster,
    server: ApiServer,
    node: NodeDirectories,
) -> None:
    await claims.allocated("claim", "gpu-0")
    asked = asyncio.Event()

    def slow(request: Request) -> Fault | None:
        if claim_reads(Fault())(request) is None:
            return None
        asked.set()
        return Fault(delay=1)

    server.fault = slow
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}, script="env; exec sleep 100"))
    await asked.wait()

    await node_kubelet.restart()
    server.fault = None

    await cluster.phase("Running", "pod")
    assert len(node.records()) == len(node.specs()) == 1


async def test_a_pod_ends_although_its_cdi_spec_cannot_be_removed_and_the_spec_goes_later(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, node: NodeDirectories
) -> None:
    await claims.allocated("claim", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}))
    await cluster.phase("Running", "pod")
    obstacle = block_removal(node)

    await cluster.delete_pod("pod", grace=1)
    await cluster.gone("pod")
    await eventually(lambda: driver.said("but for its CDI spec: cannot remove CDI spec"))
    assert len(node.records()) == 1  # what is left to do
    obstacle()

    await eventually(lambda: (node.records(), node.specs()) == ([], []))


@pytest.mark.parametrize("grace", [1, 0], ids=["deleted", "deleted by force"])
async def test_the_claim_of_a_deleted_pod_is_unprepared(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, node: NodeDirectories, grace: int
) -> None:
    await claims.allocated("claim", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}))
    await cluster.phase("Running", "pod")

    await cluster.delete_pod("pod", grace=grace)

    await eventually(lambda: (node.records(), node.specs()) == ([], []))
    await cluster.gone("pod")


@pytest.mark.parametrize("grace", [1, 0], ids=["deleted", "deleted by force"])
async def test_the_claim_of_a_pod_that_was_deleted_while_the_kubelet_was_down_is_unprepared(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, node: NodeDirectories, grace: int
) -> None:
    claim = await claims.allocated("claim", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}))
    await cluster.phase("Running", "pod")
    await node_kubelet.stop()
    await cluster.delete_pod("pod", grace=grace)
    if grace == 0:
        await claims.delete(claim)

    await node_kubelet.start()

    await eventually(lambda: (node.records(), node.specs()) == ([], []))
    await cluster.gone("pod")


async def test_the_claim_of_a_pod_that_was_deleted_while_the_driver_was_down_is_unprepared(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, node: NodeDirectories, run: Any
) -> None:
    await claims.allocated("claim", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}))
    await cluster.phase("Running", "pod")
    await driver.kill()
    await cluster.delete_pod("pod", grace=1)

    await run()

    await cluster.gone("pod")
    assert (node.records(), node.specs()) == ([], [])


async def test_a_claim_is_unprepared_without_the_api_server(
    driver: Driver,
    node_kubelet: NodeKubelet,
    claims: Claims,
    cluster: Cluster,
    node: NodeDirectories,
    server: ApiServer,
) -> None:
    await claims.allocated("claim", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}))
    await cluster.phase("Running", "pod")
    server.fault = lambda request: Fault(drop=True) if request.user.name == identity.username() else None

    await cluster.delete_pod("pod", grace=1)

    await cluster.gone("pod")
    assert (node.records(), node.specs()) == ([], [])


async def test_nothing_is_prepared_for_a_pod_that_is_being_deleted(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster
) -> None:
    await node_kubelet.stop()
    await claims.allocated("claim", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}))
    await cluster.delete_pod("pod", grace=30)

    await node_kubelet.start()

    await cluster.gone("pod")
    assert driver.messages("prepared claim") == []


async def test_a_claim_whose_prepare_never_succeeded_is_unprepared_with_its_pod(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, node: NodeDirectories
) -> None:
    await claims.allocated("claim", "gpu-99")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}))
    await cluster.event(FAILED, containing="'gpu-99'")

    await cluster.delete_pod("pod", grace=1)

    await cluster.gone("pod")
    assert driver.messages("unprepared claim")


async def test_a_driver_that_was_killed_and_restarted_prepares_and_unprepares(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, node: NodeDirectories, run: Any
) -> None:
    await claims.allocated("before", "gpu-0")
    await cluster.create_pod(pod("before", claims={"gpu": "before"}))
    await cluster.phase("Running", "before")
    await driver.kill()
    await eventually((await run()).ready)

    await claims.allocated("after", "gpu-1")
    await cluster.create_pod(pod("after", claims={"gpu": "after"}))
    await cluster.phase("Running", "after")

    for name in ("before", "after"):
        await cluster.delete_pod(name, grace=1)
        await cluster.gone(name)
    assert (node.records(), node.specs()) == ([], [])


async def test_a_claim_that_two_pods_share_is_prepared_once_and_unprepared_with_the_last(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, node: NodeDirectories
) -> None:
    await claims.allocated("claim", "gpu-0")
    for name in ("one", "two"):
        await cluster.create_pod(pod(name, claims={"gpu": "claim"}))
        await cluster.phase("Running", name)

    await cluster.delete_pod("one", grace=1)
    await cluster.gone("one")
    held = node.records()
    await cluster.delete_pod("two", grace=1)
    await cluster.gone("two")

    assert (len(held), node.records()) == (1, [])
    assert len(driver.messages("prepared claim")) == len(driver.messages("unprepared claim")) == 1


async def test_a_lost_cdi_spec_is_there_again_when_the_container_restarts_after_the_driver_did(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, node: NodeDirectories, run: Any
) -> None:
    await claims.allocated("claim", "gpu-0")
    body = pod("pod", claims={"gpu": "claim"}, script=f"test -e {node.root}/go && exec sleep 100; sleep 0.2; exit 1")
    body["spec"]["restartPolicy"] = "OnFailure"
    await cluster.create_pod(body)
    await cluster.phase("Running", "pod")
    [spec] = node.cdi.glob("*.json")
    await driver.kill()
    spec.unlink()
    await cluster.event("Failed", containing="unresolvable CDI devices")

    (node.root / "go").touch()
    await run()

    async def runs() -> bool:
        [status] = (await cluster.pod("pod") or {})["status"]["containerStatuses"]
        return "running" in status["state"] and status["restartCount"] > 0

    await eventually(runs)


async def test_the_kubelets_metrics_tell_of_calls_operations_and_claims_in_use(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster
) -> None:
    await claims.allocated("good", "gpu-0")
    await cluster.create_pod(pod("good", claims={"gpu": "good"}))
    await cluster.phase("Running", "good")
    await claims.allocated("bad", "gpu-99")
    await cluster.create_pod(pod("bad", claims={"gpu": "bad"}))
    await cluster.event(FAILED, containing="'gpu-99'")

    registry = node_kubelet.now.metrics.registry

    def operations(*, is_error: str) -> float:
        labels = {"operation_name": "PrepareResources", "is_error": is_error}
        return registry.get_sample_value("dra_operations_duration_seconds_count", labels) or 0

    assert operations(is_error="false") == 1
    assert operations(is_error="true") >= 1
    assert calls(node_kubelet, "OK") >= 2  # an error of a claim is not one of the call
    assert registry.get_sample_value("dra_resource_claims_in_use", {"driver_name": DRIVER}) == 1


def block_removal(node: NodeDirectories) -> Callable[[], None]:
    """Put a directory in the place of the one CDI spec, so that it cannot be removed. Returns how to undo that."""
    [spec] = node.cdi.glob("*.json")
    spec.unlink()
    spec.mkdir()
    return spec.rmdir
