"""The life of ResourceSlices: the kubelet deletes them when it starts and when a driver stays away."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from driver.kube.client import RESOURCE
from tests.eventually import always, eventually
from tests.harness import DRIVER, NODE, Driver

if TYPE_CHECKING:
    from driver.kube.client import Api
    from driver.sim.apiserver import ApiServer
    from tests.contract.conftest import NodeKubelet

SLICES = f"{RESOURCE}/resourceslices"


async def slices(api: Api) -> list[dict[str, Any]]:
    return list((await api.get(SLICES))["items"])


async def test_slices_belong_to_the_node_and_carry_their_index_in_their_name(
    driver: Driver, node_kubelet: NodeKubelet, api: Api
) -> None:
    await eventually(driver.ready)

    found = await slices(api)

    node = await api.get(f"/api/v1/nodes/{NODE}")
    owner = {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": node["metadata"]["uid"], "controller": True}
    assert [obj["metadata"]["name"] for obj in found] == [f"{index:05x}-{DRIVER}-{NODE}" for index in range(len(found))]
    assert all(obj["metadata"]["ownerReferences"] == [owner] for obj in found)
    assert {obj["spec"]["pool"]["resourceSliceCount"] for obj in found} == {len(found)}


async def test_slices_that_a_starting_kubelet_deleted_come_back(
    driver: Driver, node_kubelet: NodeKubelet, api: Api
) -> None:
    await eventually(driver.ready)
    before = await slices(api)

    await node_kubelet.restart()

    after = await eventually(lambda: slices(api))
    assert [obj["metadata"]["uid"] for obj in after] != [obj["metadata"]["uid"] for obj in before]
    assert [obj["spec"]["devices"] for obj in after] == [obj["spec"]["devices"] for obj in before]
    await eventually(driver.ready)


async def test_slices_are_deleted_when_the_driver_stays_away(driver: Driver, new_kubelet: Any, api: Api) -> None:
    await new_kubelet(wiping_delay=0.5).start()
    await eventually(driver.ready)

    await driver.stop()

    async def none() -> bool:
        return await slices(api) == []

    await eventually(none)


async def test_slices_are_deleted_when_the_driver_was_killed_and_come_back_with_it(
    driver: Driver, new_kubelet: Any, api: Api, run: Any
) -> None:
    await new_kubelet(wiping_delay=0.5).start()
    await eventually(driver.ready)
    # A kubelet that starts slowly may still have been wiping when the driver registered.
    before = await eventually(lambda: slices(api))
    await driver.kill()

    async def none() -> bool:
        return await slices(api) == []

    await eventually(none)
    successor = await run()

    await eventually(successor.ready)
    assert [obj["spec"]["devices"] for obj in await slices(api)] == [obj["spec"]["devices"] for obj in before]


async def test_slices_are_byte_identical_after_a_quick_restart(
    driver: Driver, new_kubelet: Any, api: Api, run: Any
) -> None:
    kubelet = await new_kubelet(wiping_delay=5).start()
    await eventually(driver.ready)
    before = await slices(api)
    await driver.kill()
    await eventually(lambda: DRIVER in kubelet.now.plugins.pending_wipes)

    successor = await run()

    await eventually(successor.ready)
    await eventually(lambda: kubelet.now.plugins.pending_wipes == set())

    async def same() -> bool:
        return await slices(api) == before

    await always(same, during=1)


async def test_a_rolling_upgrade_writes_no_slice(driver: Driver, new_kubelet: Any, api: Api, run: Any) -> None:
    await new_kubelet(wiping_delay=1.5).start()
    await eventually(driver.ready)
    before = await slices(api)

    successor = await run(pod_uid="new")
    await eventually(successor.ready)
    await driver.stop()

    async def same() -> bool:
        return await slices(api) == before

    await always(same, during=2.5)


async def test_slices_that_somebody_deleted_or_changed_are_put_right(
    driver: Driver, node_kubelet: NodeKubelet, api: Api
) -> None:
    await eventually(driver.ready)
    [before] = await eventually(lambda: slices(api))
    name = before["metadata"]["name"]

    changed = {**before, "spec": {**before["spec"], "devices": before["spec"]["devices"][:1]}}
    await api.request(
        "PUT", f"{SLICES}/{name}", body={"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice"} | changed
    )

    async def right() -> bool:
        found = await slices(api)
        return [obj["spec"]["devices"] for obj in found] == [before["spec"]["devices"]]

    await eventually(right)
    await api.request("DELETE", f"{SLICES}/{name}")
    await eventually(right)


async def test_a_driver_that_missed_the_deletion_of_its_slices_makes_up_for_it(
    driver: Driver, node_kubelet: NodeKubelet, api: Api, server: ApiServer
) -> None:
    await eventually(driver.ready)
    driver.signal(signal.SIGSTOP)
    await api.request("DELETE", SLICES, params={"fieldSelector": f"spec.nodeName={NODE}"})
    server.expire_watches()

    driver.signal(signal.SIGCONT)

    await eventually(lambda: slices(api))
