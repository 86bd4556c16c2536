"""Old and new on one node, and other settings while claims run: nobody fights, nothing that is held changes."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from driver.kube.client import RESOURCE
from tests.eventually import always, eventually
from tests.harness import DRIVER, Driver, Kubelet

if TYPE_CHECKING:
    from driver.kube.client import Api
    from tests.harness import Claims, NodeDirectories

SLICES = f"{RESOURCE}/resourceslices"
OLD, NEW = "--partitioning=none", "--partitioning=dynamic"
SMALL = "gpu-0-mig-1g10gb-19-6"
TAINT = {"key": f"{DRIVER}/reshape-pending", "effect": "NoSchedule"}


async def slices(api: Api) -> list[dict[str, Any]]:
    return sorted((await api.get(SLICES))["items"], key=lambda obj: obj["metadata"]["name"])


async def offered(api: Api) -> dict[str, dict[str, Any]]:
    return {device["name"]: device for obj in await slices(api) for device in obj["spec"].get("devices", ())}


async def writes(driver: Driver) -> int:
    _, text = await driver.get("/metrics")
    lines = (line for line in text.splitlines() if line.startswith("gpu_dra_slice_writes_total"))
    return sum(int(float(line.split()[-1])) for line in lines)


async def status(driver: Driver) -> dict[str, Any]:
    return dict(json.loads((await driver.get("/status"))[1]))


def taints(device: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in taint.items() if key != "timeAdded"} for taint in device.get("taints", ())]


async def test_two_versions_with_different_slices_do_not_fight(run: Any, node_kubelet: Any, api: Api) -> None:
    old = await run(OLD, pod_uid="old")
    await eventually(old.ready)
    new = await run(NEW, pod_uid="new")
    await eventually(new.ready)
    published = await slices(api)

    async def same() -> bool:
        return await slices(api) == published

    await always(same, during=3)
    assert SMALL in await offered(api)
    assert await writes(old) + await writes(new) <= 1 + 2 * len(published)
    assert await old.ready()
    assert not (await status(old))["publishes"]


async def test_the_old_publishes_again_when_the_new_has_crashed(run: Any, node_kubelet: Any, api: Api) -> None:
    old = await run(OLD, pod_uid="old")
    await eventually(old.ready)
    before = await offered(api)
    new = await run(NEW, pod_uid="new")
    await eventually(new.ready)

    await new.kill()

    async def back() -> bool:
        return await offered(api) == before

    await eventually(back)
    assert (await status(old))["publishes"]


async def test_a_new_version_that_ends_at_its_start_changes_nothing(run: Any, node_kubelet: Any, api: Api) -> None:
    old = await run(OLD, pod_uid="old")
    await eventually(old.ready)
    before = await slices(api)

    new = await run("--devices=fake:no-such-profile", pod_uid="new", wait=False)
    assert await new.ended() == 2

    assert await slices(api) == before
    assert not taints((await offered(api))["gpu-0"])
    assert (await status(old))["publishes"]


async def test_a_downgrade_is_as_quiet_as_an_upgrade(run: Any, node_kubelet: Any, api: Api) -> None:
    new = await run(NEW, pod_uid="new")
    await eventually(new.ready)
    old = await run(OLD, pod_uid="old")
    await eventually(old.ready)
    await new.stop()
    published = await slices(api)

    async def same() -> bool:
        return await slices(api) == published

    await always(same, during=2)
    assert SMALL not in await offered(api)


async def test_a_partition_that_is_held_outlives_a_change_of_partitioning_and_then_goes(
    run: Any, node_kubelet: Any, api: Api, claims: Claims
) -> None:
    driver = await run(NEW)
    await eventually(driver.ready)
    claim = await claims.allocated("train", SMALL)
    kubelet = Kubelet(driver.registrar)
    assert not (await kubelet.prepare(claim))[claim["metadata"]["uid"]].error
    before = await offered(api)
    await kubelet.close()
    await driver.stop()

    driver = await run(OLD)
    await eventually(driver.ready)

    after = await offered(api)
    assert {**after[SMALL], "taints": None} == {**before[SMALL], "taints": None}
    assert taints(after[SMALL]) == taints(after["gpu-0"]) == [TAINT]
    assert [name for name in after if not taints(after[name])] == [f"gpu-{number}" for number in range(1, 8)]
    assert SMALL in next(iter((await status(driver))["pendingChange"].values()))

    kubelet = Kubelet(driver.registrar)
    assert not (await kubelet.unprepare(claim))[claim["metadata"]["uid"]].error
    await kubelet.close()

    async def converged() -> bool:
        found = await offered(api)
        return list(found) == [f"gpu-{number}" for number in range(8)] and not any(map(taints, found.values()))

    await eventually(converged)


async def test_a_whole_gpu_that_is_held_is_cut_only_afterwards(
    run: Any, node_kubelet: Any, api: Api, claims: Claims
) -> None:
    driver = await run(OLD)
    await eventually(driver.ready)
    claim = await claims.allocated("train", "gpu-0")
    kubelet = Kubelet(driver.registrar)
    await kubelet.prepare(claim)
    await kubelet.close()
    await driver.stop()

    driver = await run(NEW)
    await eventually(driver.ready)

    found = await offered(api)
    assert [name for name in found if name.startswith("gpu-0")] == ["gpu-0"]
    assert "consumesCounters" not in found["gpu-0"]
    assert taints(found["gpu-0"]) == [TAINT]
    kubelet = Kubelet(driver.registrar)
    await kubelet.unprepare(claim)
    await kubelet.close()

    async def converged() -> bool:
        return SMALL in (now := await offered(api)) and not taints(now["gpu-0"])

    await eventually(converged)


async def test_a_claim_that_was_allocated_just_before_the_change_is_prepared(
    run: Any, node_kubelet: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    driver = await run(OLD)
    await eventually(driver.ready)
    claim = await claims.allocated("train", SMALL)
    kubelet = Kubelet(driver.registrar)

    answer = (await kubelet.prepare(claim))[claim["metadata"]["uid"]]

    await kubelet.close()
    assert not answer.error

    async def held() -> bool:
        found = await offered(api)
        return SMALL in found and taints(found["gpu-0"]) == [TAINT]

    await eventually(held)


async def test_what_is_not_offered_is_an_event_a_metric_and_on_the_status_page(
    run: Any, node_kubelet: Any, api: Api, node: NodeDirectories
) -> None:
    config = node.root / "config.yaml"
    config.write_text("gpus:\n- match: {name: gpu-9}\n  partitioning: dynamic\n")

    driver = await run(f"--config={config}")

    async def told() -> list[str]:
        events = (await api.get("/api/v1/namespaces/default/events"))["items"]
        return [event["message"] for event in events if event["reason"] == "ConfigMatchesNoGpu"]

    [message] = await eventually(told)
    assert "gpu-9" in message
    assert 'gpu_dra_not_offered_as_asked{subject="gpus[0]"} 1.0' in (await driver.get("/metrics"))[1]
    assert "gpu-9" in (await status(driver))["notOfferedAsAsked"]["gpus[0]"]


async def test_the_device_of_a_damaged_record_stays_taken_and_the_event_says_what_to_do(
    run: Any, node_kubelet: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    driver = await run(NEW)
    await eventually(driver.ready)
    claim, other = await claims.allocated("train", SMALL), await claims.allocated("other", "gpu-0")
    kubelet = Kubelet(driver.registrar)
    await kubelet.prepare(claim)
    await kubelet.close()
    await driver.kill()
    [name] = node.records()
    (node.state / "claims" / name).write_text("oops")
    os.utime(node.state / "claims" / name, (1000, 1000))  # long before the boot: no clock is believed

    driver = await run(NEW)
    await eventually(driver.ready)
    kubelet = Kubelet(driver.registrar)
    refused = (await kubelet.prepare(other, timeout=5))[other["metadata"]["uid"]]
    ended = (await kubelet.unprepare(claim))[claim["metadata"]["uid"]]
    prepared = (await kubelet.prepare(other))[other["metadata"]["uid"]]

    await kubelet.close()
    [damaged] = (node.state / "quarantine").iterdir()
    assert str(damaged) in refused.error
    assert not ended.error
    assert not prepared.error

    async def told() -> list[str]:
        events = (await api.get("/api/v1/namespaces/default/events"))["items"]
        return [event["message"] for event in events if event["reason"] == "DamagedClaimRecord"]

    [message] = await eventually(told)
    assert str(damaged) in message
    assert "delete the file" in message
