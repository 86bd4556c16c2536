"""XIDs from the hardware to taints: what the GPU asks for, what ends with a program, what an administrator says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.test_health import becomes, fault
from tests.contract.test_process import published
from tests.eventually import eventually
from tests.harness import DRIVER
from tests.unit.sim_kubelet.fakes import Cluster, pod

if TYPE_CHECKING:
    from driver.kube.client import Api
    from tests.contract.conftest import NodeKubelet
    from tests.harness import Claims, Driver, NodeDirectories

FIRST = "--device=gpu-0"


@pytest.fixture
def tainted(api: Api) -> Any:
    """Wait until the taints of gpu-0 are these, as ``xid=79:NoExecute``."""

    async def wait(*wanted: str) -> None:
        async def there() -> bool:
            for slice_ in await published(api):
                for device in slice_["spec"].get("devices") or ():
                    if device["name"] == "gpu-0":
                        found = {f"{t['key']}={t['value']}:{t['effect']}" for t in device.get("taints") or ()}
                        return found == {f"{DRIVER}/{taint}" for taint in wanted}
            return False

        await eventually(there, what=f"gpu-0 has the taints {wanted}")

    return wait


async def test_what_ends_with_a_program_is_over_when_the_gpu_is_quiet_after_its_claim(
    driver: Driver, node_kubelet: NodeKubelet, claims: Claims, cluster: Cluster, node: NodeDirectories, tainted: Any
) -> None:
    await claims.allocated("claim", "gpu-0")
    await cluster.create_pod(pod("pod", claims={"gpu": "claim"}))
    await becomes(cluster, "Healthy")
    await fault(node, FIRST, "--xid=94")
    await becomes(cluster, "Unhealthy")
    await tainted("xid=94:NoSchedule")

    await cluster.delete_pod("pod", grace=0)
    await fault(node, FIRST, "--quiet")

    await tainted()


async def test_what_needs_a_reset_stays_on_a_quiet_gpu_and_over_a_restart_until_the_reset(
    driver: Driver, run: Any, node: NodeDirectories, tainted: Any
) -> None:
    await fault(node, FIRST, "--xid=94", "--quiet")
    await fault(node, FIRST, "--xid=48")
    await fault(node, FIRST, "--quiet")
    await tainted("xid=48:NoSchedule")
    await driver.kill()
    await run()
    await tainted("xid=48:NoSchedule")

    await fault(node, FIRST, "--clear")

    await tainted()


async def test_a_gpu_that_tells_what_it_needs_makes_an_unknown_xid_as_bad_as_that(
    driver: Driver, node: NodeDirectories, tainted: Any
) -> None:
    await fault(node, FIRST, "--recovery=none", "--xid=900")
    await tainted("xid=900:None")

    await fault(node, FIRST, "--recovery=gpu-reset")
    await tainted("xid=900:NoExecute", "repair=gpu-reset:NoSchedule")

    await fault(node, FIRST, "--recovery=none", "--quiet")
    await tainted()


async def test_the_node_config_says_how_bad_an_xid_is_also_one_of_before(
    driver: Driver, run: Any, node: NodeDirectories, tainted: Any
) -> None:
    await fault(node, FIRST, "--xid=79")
    await tainted("xid=79:NoExecute")
    await driver.kill()
    config = node.root / "config.yaml"
    config.write_text("xids: {information: '79, 900', unusable: xids}\n")

    await run(f"--config={config}")

    await tainted("xid=79:None")
    await fault(node, FIRST, "--xid=900")
    await fault(node, FIRST, "--xid=31")
    await tainted("xid=31:NoExecute")
