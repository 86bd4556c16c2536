"""The publisher against an API server: what is written, and above all what is not."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from driver.inventory.catalogue import catalogue
from driver.inventory.lead import Lead
from driver.inventory.options import DeviceOptions, Options, Partitioning
from driver.inventory.publisher import SLICES, SLICES_AT_ONCE, Pool, Publisher
from driver.inventory.slices import build_slices
from driver.kube.client import Api, ApiError
from driver.observe.metrics import Metrics
from driver.sim.apiserver import ApiServer
from driver.sim.apiserver.faults import Fault, Request
from tests.eventually import PATIENCE, always, eventually
from tests.unit.inventory.mig_facts import MODELS, node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

DRIVER = "gpu.nvidia.com"
NODE = "node-1"
TAINT = {"key": f"{DRIVER}/xid", "value": "79", "effect": "NoExecute", "timeAdded": "2026-01-02T03:04:05Z"}


def device(name: str, *, memory: str = "80Gi", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "attributes": {"type": {"string": "gpu"}},
        "capacity": {"memory": {"value": memory}},
        **more,
    }


def pool(*slices: list[dict[str, Any]]) -> Pool:
    return Pool(name=NODE, slices=tuple({"devices": devices} for devices in slices))


class Bench:
    """One publisher at work, and what the server has."""

    def __init__(self, server: ApiServer, api: Api, **more: Any) -> None:
        self.server = server
        self.api = api
        self.metrics = Metrics(driver_name=DRIVER)
        self.events: list[tuple[str, str]] = []
        self.publisher = Publisher(
            api=api,
            driver_name=DRIVER,
            node_name=NODE,
            metrics=self.metrics,
            warn=lambda reason, message: self.events.append((reason, message)),
            **more,
        )
        self._task: asyncio.Task[None] | None = None

    async def publish(self, wanted: Pool) -> list[dict[str, Any]]:
        """Desire a pool and return the slices once they are there."""
        self.publisher.desire(wanted)
        if self._task is None:
            self._task = asyncio.create_task(self.publisher.run())
        names = [[d["name"] for d in spec.get("devices", [])] for spec in wanted.slices]
        return await self.until(
            lambda items: [[d["name"] for d in item["spec"].get("devices", [])] for item in items] == names
        )

    async def until(self, condition: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """The slices as soon as they meet a condition and the publisher is content with them."""

        async def look() -> list[dict[str, Any]] | None:
            items = (await self.api.get(SLICES))["items"]
            return items if condition(items) and self.publisher.published else None

        return sorted(await eventually(look) or [], key=lambda item: item["metadata"]["name"])

    def writes(self, verb: str) -> float:
        return self.metrics.registry.get_sample_value("gpu_dra_slice_writes_total", {"verb": verb}) or 0

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with ApiServer() as server:
        kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")
        async with await Api.connect(kubeconfig) as api:
            await api.request(
                "POST", "/api/v1/nodes", body={"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
            )
            bench = Bench(server, api)
            yield bench
            await bench.stop()


async def test_a_slice_belongs_to_its_node_and_has_its_index_in_front(bench: Bench) -> None:
    [published] = await bench.publish(pool([device("gpu-0")]))

    node = await bench.api.get(f"/api/v1/nodes/{NODE}")
    assert published["metadata"]["name"] == f"00000-{DRIVER}-{NODE}"
    assert published["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": node["metadata"]["uid"], "controller": True}
    ]
    assert published["spec"]["nodeName"] == NODE
    assert published["spec"]["pool"] == {"name": NODE, "generation": 1, "resourceSliceCount": 1}


async def test_a_restart_writes_nothing(bench: Bench) -> None:
    wanted = pool([device("gpu-0", memory="81920Mi", taints=[TAINT])])
    before = await bench.publish(wanted)
    await bench.stop()
    restarted = Bench(bench.server, bench.api)

    after = await restarted.publish(wanted)

    await restarted.stop()
    assert after == before
    assert restarted.writes("update") + restarted.writes("create") == 0


async def test_slices_are_listed_as_no_more_than_a_node_may_have(bench: Bench) -> None:
    asked: list[Mapping[str, str]] = []

    def note(request: Request) -> None:
        if request.verb == "list" and "fieldSelector" in request.query:
            asked.append(request.query)

    bench.server.fault = note

    await bench.publish(pool([device("gpu-0")]))

    assert [query.get("limit") for query in asked] == [str(SLICES_AT_ONCE)]


@pytest.mark.parametrize("model", MODELS)
def test_the_slices_of_sixteen_gpus_are_in_one_answer(model: str) -> None:
    inventory = node(model, 16)
    dynamic = Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC))

    slices = build_slices(inventory, {}, driver_name=DRIVER, devices=catalogue(inventory, dynamic))

    assert len(slices) <= SLICES_AT_ONCE


async def test_a_taint_is_one_write_and_keeps_the_generation(bench: Bench) -> None:
    await bench.publish(pool([device("gpu-0")], [device("gpu-1")]))

    bench.publisher.desire(pool([device("gpu-0")], [device("gpu-1", taints=[TAINT])]))
    slices = await bench.until(lambda items: any("taints" in d for i in items for d in i["spec"]["devices"]))

    assert bench.writes("update") == 1
    assert [s["spec"]["pool"]["generation"] for s in slices] == [1, 1]


async def test_two_changed_slices_get_a_new_generation_together(bench: Bench) -> None:
    await bench.publish(pool([device("gpu-0")], [device("gpu-1")]))

    bench.publisher.desire(pool([device("gpu-0", taints=[TAINT])], [device("gpu-1", taints=[TAINT])]))
    slices = await bench.until(lambda items: all("taints" in d for i in items for d in i["spec"]["devices"]))

    assert [s["spec"]["pool"]["generation"] for s in slices] == [2, 2]


async def test_more_slices_mean_a_new_generation_for_all(bench: Bench) -> None:
    await bench.publish(pool([device("gpu-0")]))

    slices = await bench.publish(pool([device("gpu-0")], [device("gpu-1")]))

    assert [s["spec"]["pool"] for s in slices] == [{"name": NODE, "generation": 2, "resourceSliceCount": 2}] * 2


async def test_fewer_slices_delete_what_is_left_over(bench: Bench) -> None:
    await bench.publish(pool([device("gpu-0")], [device("gpu-1")]))

    slices = await bench.publish(pool([device("gpu-0")]))

    assert [s["metadata"]["name"] for s in slices] == [f"00000-{DRIVER}-{NODE}"]
    assert bench.writes("delete") == 1


async def test_a_slice_that_somebody_deletes_comes_back(bench: Bench) -> None:
    [published] = await bench.publish(pool([device("gpu-0")]))

    await bench.api.request("DELETE", f"{SLICES}/{published['metadata']['name']}")
    [again] = await bench.until(
        lambda items: len(items) == 1 and items[0]["metadata"]["uid"] != published["metadata"]["uid"]
    )

    assert again["spec"]["devices"] == published["spec"]["devices"]


async def test_a_slice_that_somebody_edits_is_put_right(bench: Bench) -> None:
    [published] = await bench.publish(pool([device("gpu-0")]))
    published["spec"]["devices"][0]["attributes"]["type"] = {"string": "toaster"}

    await bench.api.request("PUT", f"{SLICES}/{published['metadata']['name']}", body=published)

    await bench.until(lambda items: items[0]["spec"]["devices"][0]["attributes"]["type"] == {"string": "gpu"})


async def test_slices_of_ours_with_other_names_are_replaced(bench: Bench) -> None:
    await bench.api.request(
        "POST",
        SLICES,
        body={
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"generateName": f"{NODE}-{DRIVER}-"},
            "spec": {
                "driver": DRIVER,
                "nodeName": NODE,
                "pool": {"name": NODE, "generation": 7, "resourceSliceCount": 1},
                "devices": [device("gpu-old")],
            },
        },
    )

    [published] = await bench.publish(pool([device("gpu-0")]))

    assert published["spec"]["pool"]["generation"] == 8


async def test_slices_of_other_drivers_and_nodes_are_left_alone(bench: Bench) -> None:
    body = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": "foreign"},
        "spec": {
            "driver": "net.example.com",
            "nodeName": NODE,
            "pool": {"name": NODE, "generation": 1, "resourceSliceCount": 1},
            "devices": [device("nic-0")],
        },
    }
    foreign = await bench.api.request("POST", SLICES, body=body)

    bench.publisher.desire(pool([device("gpu-0")]))
    bench._task = asyncio.create_task(bench.publisher.run())
    await bench.until(lambda items: len(items) == 2)

    assert await bench.api.get(f"{SLICES}/foreign") == foreign


async def test_two_instances_with_the_same_content_do_not_write_in_turns(bench: Bench) -> None:
    wanted = pool([device("gpu-0", taints=[TAINT])])
    before = await bench.publish(wanted)
    other = Bench(bench.server, bench.api)

    after = await other.publish(wanted)

    await other.stop()
    assert after == before


async def test_a_taint_keeps_the_time_that_the_server_has(bench: Bench) -> None:
    await bench.publish(pool([device("gpu-0", taints=[TAINT])]))

    bench.publisher.desire(
        pool([device("gpu-0", memory="40Gi", taints=[{**TAINT, "timeAdded": "2027-01-01T00:00:00Z"}])])
    )
    [published] = await bench.until(lambda i: i[0]["spec"]["devices"][0]["capacity"]["memory"]["value"] == "40Gi")

    assert published["spec"]["devices"][0]["taints"][0]["timeAdded"] == TAINT["timeAdded"]


async def test_a_server_that_fails_is_tried_again(bench: Bench) -> None:
    failures = 3

    def stumble(request: Request) -> Fault | None:
        nonlocal failures
        if request.verb != "create" or not failures:
            return None
        failures -= 1
        return Fault(status=503)

    bench.server.fault = stumble
    [published] = await bench.publish(pool([device("gpu-0")]))

    assert published["spec"]["devices"][0]["name"] == "gpu-0"
    assert failures == 0


async def test_an_invalid_slice_is_reported_and_cured_by_a_new_wish(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.publisher.desire(pool([device("Not A Name")]))
    bench._task = asyncio.create_task(bench.publisher.run())
    await eventually(lambda: "refuses our ResourceSlice" in caplog.text)

    [published] = await bench.publish(pool([device("gpu-0")]))

    assert "spec.devices[0].name" in caplog.text
    assert published["spec"]["devices"][0]["name"] == "gpu-0"


async def test_fields_that_the_server_drops_are_reported_and_not_sent_again(tmp_path: Path) -> None:
    async with (
        ApiServer(gates=frozenset()) as server,
        await Api.connect(server.write_kubeconfig(tmp_path / "kubeconfig")) as api,
    ):
        await api.request(
            "POST", "/api/v1/nodes", body={"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        )
        bench = Bench(server, api)
        [published] = await bench.publish(pool([device("gpu-0", taints=[TAINT])]))

        bench.publisher.desire(pool([device("gpu-0", taints=[TAINT])]))
        await bench.publish(pool([device("gpu-0", taints=[TAINT])], [device("gpu-1")]))
        await bench.stop()

    dropped = bench.metrics.registry.get_sample_value(
        "gpu_dra_slice_dropped_fields", {"feature_gate": "DRADeviceTaints"}
    )
    assert "taints" not in published["spec"]["devices"][0]
    assert dropped == 1
    assert bench.writes("create") == 2
    assert [reason for reason, _ in bench.events] == ["ResourceSliceFieldsDropped"]
    assert "DRADeviceTaints" in bench.events[0][1]
    assert bench.publisher.dropped == {"DRADeviceTaints"}


async def test_a_pool_whose_counters_are_dropped_is_given_up_before_its_devices_are_there(tmp_path: Path) -> None:
    async with (
        ApiServer(gates=frozenset()) as server,
        await Api.connect(server.write_kubeconfig(tmp_path / "kubeconfig")) as api,
    ):
        await api.request(
            "POST", "/api/v1/nodes", body={"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        )
        told = asyncio.Event()
        bench = Bench(server, api, essential={"DRAPartitionableDevices": told.set})
        counters = {"sharedCounters": [{"name": "gpu-0", "counters": {"slice-0": {"value": "1"}}}]}
        bench.publisher.desire(Pool(name=NODE, slices=(counters, {"devices": [device("gpu-0")]})))
        bench._task = asyncio.create_task(bench.publisher.run())

        await asyncio.wait_for(told.wait(), PATIENCE)

        assert [obj["spec"].get("devices") for obj in (await api.get(SLICES))["items"]] == [None]
        [published] = await bench.publish(pool([device("gpu-0")]))
        await bench.stop()
    assert published["spec"]["devices"][0]["name"] == "gpu-0"


class Instances:
    """Instances of one node, each with something else to publish."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self._bench, self._directory = bench, directory
        self.all: list[Bench] = []

    def new(self) -> Bench:
        self.all.append(Bench(self._bench.server, self._bench.api, lead=Lead(self._directory)))
        return self.all[-1]

    def writes(self) -> float:
        return sum(each.writes(verb) for each in self.all for verb in ("create", "update", "delete"))

    async def slices(self) -> list[dict[str, Any]]:
        return list((await self._bench.api.get(SLICES))["items"])


@pytest.fixture
async def instances(bench: Bench, tmp_path: Path) -> AsyncIterator[Instances]:
    instances = Instances(bench, tmp_path / "instances")
    yield instances
    for each in instances.all:
        await each.stop()


OLD = pool([device("gpu-0", memory="40Gi")], [device("gpu-1", memory="40Gi")])
NEW = pool([device("gpu-0", memory="80Gi")], [device("gpu-1", memory="80Gi")], [device("gpu-2")])


async def test_of_two_instances_with_different_content_the_one_that_came_last_publishes(instances: Instances) -> None:
    old, new = instances.new(), instances.new()
    await old.publish(OLD)

    published = await new.publish(NEW)

    await eventually(lambda: old.publisher.quiet)

    async def same() -> bool:
        return await instances.slices() == published

    await always(same, during=1.5)
    assert instances.writes() <= len(OLD.slices) + 2 * len(NEW.slices)
    assert old.publisher.published


async def test_the_older_publishes_again_when_the_newer_has_gone(instances: Instances) -> None:
    old, new = instances.new(), instances.new()
    before = await old.publish(OLD)
    await new.publish(NEW)
    await eventually(lambda: old.publisher.quiet)

    await new.stop()

    after = await old.until(lambda items: len(items) == len(OLD.slices))
    assert [obj["spec"]["devices"] for obj in after] == [obj["spec"]["devices"] for obj in before]


async def test_one_that_has_nothing_to_publish_yet_leaves_the_lead_to_the_older(instances: Instances) -> None:
    old, starting = instances.new(), instances.new()
    await old.publish(OLD)
    task = asyncio.create_task(starting.publisher.run())
    await asyncio.wait_for(starting.publisher._mirror.synced.wait(), PATIENCE)

    await old.publish(NEW)

    assert not old.publisher.quiet
    task.cancel()


async def test_what_changes_while_another_publishes_is_written_when_it_has_gone(instances: Instances) -> None:
    old, new = instances.new(), instances.new()
    await old.publish(OLD)
    await new.publish(NEW)
    await eventually(lambda: old.publisher.quiet)
    old.publisher.desire(pool([device("gpu-0", taints=[TAINT])]))

    await new.stop()

    await old.until(lambda items: len(items) == 1 and "taints" in items[0]["spec"]["devices"][0])


class OddOnce(Lead):
    """A place among instances that cannot be told once, for a reason that nobody foresaw."""

    odd = True
    left = 0

    def later(self) -> str | None:
        if self.odd:
            self.odd = False
            raise LookupError("nobody foresaw this")
        return super().later()

    def leave(self) -> None:
        self.left += 1
        super().leave()


async def test_what_nobody_foresaw_ends_a_run_but_not_the_lead(bench: Bench, tmp_path: Path) -> None:
    lead = OddOnce(tmp_path / "instances")
    one = Bench(bench.server, bench.api, lead=lead)
    one.publisher.desire(OLD)
    with pytest.raises(ExceptionGroup):
        await one.publisher.run()
    assert lead.left == 0

    await one.publish(OLD)
    await one.stop()

    assert lead.left == 1


async def test_a_missing_permission_is_named(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.server.fault = lambda request: (
        Fault(status=403, message="resourceslices.resource.k8s.io is forbidden") if request.verb == "create" else None
    )

    bench.publisher.desire(pool([device("gpu-0")]))
    bench._task = asyncio.create_task(bench.publisher.run())
    await eventually(lambda: "forbidden" in caplog.text)

    assert "lacks a permission" in caplog.text


async def test_nothing_is_written_before_something_is_desired(bench: Bench) -> None:
    task = asyncio.create_task(bench.publisher.run())
    async with asyncio.timeout(PATIENCE):
        await bench.publisher._mirror.synced.wait()

    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    with pytest.raises(ApiError):
        await bench.api.get(f"{SLICES}/00000-{DRIVER}-{NODE}")
