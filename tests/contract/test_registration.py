"""Registration: a kubelet and a driver find each other again, whichever of them was away, stuck or wrong."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from tests.eventually import eventually
from tests.harness import DRIVER, Driver, Kubelet
from tests.unit.sim_kubelet.fakes import Cluster, pod

if TYPE_CHECKING:
    import pytest

    from driver.kube.client import Api
    from tests.contract.conftest import NodeKubelet
    from tests.harness import Claims, NodeDirectories


async def test_a_driver_is_registered_and_gives_pods_their_devices(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster
) -> None:
    await claims.allocated("claim", "gpu-3")

    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}, script="env"))

    await cluster.phase("Succeeded", "pod")
    assert "GPU_DRA_GPU_3=" in node_kubelet.now.read_log("default", "pod")


async def test_a_driver_is_registered_again_after_the_kubelet_restarted(
    driver: Driver, node_kubelet: NodeKubelet
) -> None:
    await eventually(lambda: node_kubelet.registered(DRIVER))

    await node_kubelet.restart()

    await eventually(lambda: node_kubelet.registered(DRIVER))
    await eventually(lambda: len(driver.messages("registered with the kubelet")) == 2)


async def test_a_driver_is_registered_again_after_it_restarted(
    driver: Driver, node_kubelet: NodeKubelet, run: Any
) -> None:
    await eventually(lambda: node_kubelet.registered(DRIVER))
    await driver.stop()
    await eventually(lambda: node_kubelet.now.plugins.instances == [])

    successor = await run()

    await eventually(lambda: node_kubelet.registered(DRIVER))
    await eventually(successor.ready)


async def test_a_driver_that_was_killed_is_registered_again_over_its_stale_sockets(
    driver: Driver, node_kubelet: NodeKubelet, run: Any
) -> None:
    await eventually(lambda: node_kubelet.registered(DRIVER))
    await driver.kill()

    successor = await run()

    await eventually(successor.ready)
    await eventually(lambda: node_kubelet.registered(DRIVER))
    assert [plugin.driver for plugin in node_kubelet.now.plugins.instances] == [DRIVER]


async def test_a_frozen_driver_is_registered_once_it_answers(driver: Driver, new_kubelet: Any) -> None:
    driver.signal(signal.SIGSTOP)
    kubelet = await new_kubelet(dial_timeout=0.3, get_info_timeout=0.3).start()
    await eventually(lambda: _sees(kubelet, driver))
    assert not kubelet.registered(DRIVER)

    driver.signal(signal.SIGCONT)

    await eventually(lambda: kubelet.registered(DRIVER))
    await eventually(driver.ready)


async def test_a_driver_that_could_not_be_told_of_its_registration_is_registered_by_the_next_try(
    driver: Driver, new_kubelet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kubelet = await new_kubelet(notify_timeout=-1).start()  # over before it begins
    await eventually(lambda: "failed to send registration status" in caplog.text)
    await kubelet.stop()

    patient = await new_kubelet().start()

    await eventually(lambda: patient.registered(DRIVER))
    await eventually(driver.ready)


async def test_a_driver_that_was_refused_serves_on_and_takes_the_kubelets_next_word(
    driver: Driver, kubelet: Kubelet
) -> None:
    await kubelet.notify(registered=False, error="not today")

    await kubelet.notify(registered=True)

    await eventually(driver.ready)


async def test_a_pod_that_came_while_the_kubelet_was_down_runs_when_it_is_back(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster
) -> None:
    await node_kubelet.stop()
    await claims.allocated("claim", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}, script="env"))

    await node_kubelet.start()

    await cluster.phase("Succeeded", "pod")


async def test_a_pod_that_came_while_the_driver_was_down_runs_when_it_is_back(
    node_kubelet: NodeKubelet, run: Any, claims: Claims, cluster: Cluster
) -> None:
    await claims.allocated("claim", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}, script="env"))
    await cluster.event("FailedPrepareDynamicResources", containing=f"DRA driver {DRIVER} is not registered")

    await run()

    await cluster.phase("Succeeded", "pod")


async def test_two_instances_of_a_rolling_upgrade_are_both_registered_and_the_newer_one_is_called(
    run: Any, api: Api, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, node: NodeDirectories
) -> None:
    old = await run(pod_uid="old")
    await eventually(lambda: node_kubelet.registered(DRIVER))
    new = await run(pod_uid="new")
    await eventually(lambda: [p.connected for p in node_kubelet.now.plugins.instances] == [True, True])
    await claims.allocated("claim", "gpu-0")

    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}, script="env"))

    await cluster.phase("Succeeded", "pod")
    assert new.messages("prepared claim")
    assert not old.messages("prepared claim")


async def test_a_pod_that_the_old_instance_prepared_is_unprepared_by_the_new_one(
    run: Any, api: Api, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, node: NodeDirectories
) -> None:
    old = await run(pod_uid="old")
    await claims.allocated("claim", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}))
    await cluster.phase("Running", "pod")
    new = await run(pod_uid="new")
    await eventually(new.ready)
    await old.stop()

    await cluster.delete_pod("pod", grace=1)

    await cluster.gone("pod")
    assert (node.records(), node.specs()) == ([], [])


def _sees(kubelet: NodeKubelet, driver: Driver) -> bool:
    """Whether the kubelet has found the driver's registration socket."""
    labels = {"socket_path": str(driver.registrar), "state": "desired_state_of_world"}
    return bool(kubelet.now.metrics.registry.get_sample_value("plugin_manager_total_plugins", labels))
