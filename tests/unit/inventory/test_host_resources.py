"""What a pod needs of its node for a device: by the device's type, and under the names of the server's release."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest

from driver.hardware.fake import profile
from driver.inventory.catalogue import catalogue
from driver.inventory.host_resources import HostNeeds, HostResources, as_served
from driver.inventory.options import DeviceOptions, Options, Partitioning, ShareBy, Shares
from driver.inventory.publisher import SLICES, Pool
from driver.inventory.slices import build_slices
from driver.kube.client import Api
from driver.sim.apiserver import GATES, V1_36, V1_37, ApiServer, Fault, Release
from tests.unit.inventory.test_publisher import NODE, Bench, device
from tests.unit.inventory.test_slices import DRIVER, documents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

WANTED = HostResources(
    gpu=HostNeeds(memory=4 << 30, cpu=1500), partition=HostNeeds(memory=1 << 30), share=HostNeeds(cpu=2000)
)
GATE = "DRANodeAllocatableResources"
OVERHEAD = {"memory": {"overhead": {"perPod": "4Gi"}}}
WHOLE = DeviceOptions(partitioning=Partitioning.DYNAMIC)
SHARED = replace(WHOLE, shares=Shares(mode=ShareBy.COUNT, count=4))


def slices(options: DeviceOptions, wanted: HostResources = WANTED) -> tuple[dict[str, Any], ...]:
    inventory = profile.load_profile("h100x8").inventory()
    offered = catalogue(inventory, Options(default=options))
    return build_slices(inventory, {}, driver_name=DRIVER, devices=offered, host=wanted)


def needs(options: DeviceOptions, kind: str) -> Any:
    """What all devices of a type need."""
    found = [
        d for spec in slices(options) for d in spec.get("devices", ()) if d["attributes"]["type"]["string"] == kind
    ]
    [same] = {str(d.get("nodeAllocatableResources")): d.get("nodeAllocatableResources") for d in found}.values()
    return same


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        (WHOLE, "gpu", {"cpu": {"overhead": {"perPod": "1500m"}}, **OVERHEAD}),
        (WHOLE, "mig", {"memory": {"overhead": {"perPod": "1Gi"}}}),
        (SHARED, "gpu", {"cpu": {"overhead": {"perPod": "2"}}}),
        (SHARED, "mig", {"cpu": {"overhead": {"perPod": "2"}}}),
    ],
    ids=["a GPU", "a partition", "a share of a GPU", "a share of a partition"],
)
def test_each_type_of_device_has_its_own_needs(options: DeviceOptions, kind: str, expected: Any) -> None:
    assert needs(options, kind) == expected


def test_nothing_is_published_where_nothing_is_needed() -> None:
    assert "nodeAllocatable" not in str(slices(WHOLE, HostResources()))


@pytest.mark.parametrize("minor", [35, 36, 37])
def test_what_is_published_fits_the_schema_of_each_release(minor: int) -> None:
    served = tuple(dict(as_served(spec, minor)) for spec in slices(WHOLE))

    for document in documents(served):
        kubernetes_validate.validate(document, f"1.{minor}", strict=True)


@contextlib.asynccontextmanager
async def bench_on(tmp_path: Path, release: Release, gates: frozenset[str]) -> AsyncIterator[Bench]:
    async with (
        ApiServer(release=release, gates=gates) as server,
        await Api.connect(server.write_kubeconfig(tmp_path / "kubeconfig")) as api,
    ):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        await api.request("POST", "/api/v1/nodes", body=node)
        bench = Bench(server, api)
        yield bench
        await bench.stop()


def pool(**more: Any) -> Pool:
    return Pool(name=NODE, slices=({"devices": [device("gpu-0", **more)]},))


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        (V1_36, {"nodeAllocatableResourceMappings": {"memory": {"allocationMultiplier": "4Gi"}}}),
        (V1_37, {"nodeAllocatableResources": OVERHEAD}),
    ],
    ids=["1.36", "1.37"],
)
async def test_the_server_gets_the_field_that_its_release_has(tmp_path: Path, release: Release, expected: Any) -> None:
    async with bench_on(tmp_path, release, GATES | {GATE}) as bench:
        [published] = await bench.publish(pool(nodeAllocatableResources=OVERHEAD))

        [kept] = published["spec"]["devices"]
        assert {key: value for key, value in kept.items() if key.startswith("node")} == expected
        assert bench.events == []


@pytest.mark.parametrize("release", [V1_36, V1_37], ids=["1.36", "1.37"])
async def test_without_the_gate_the_devices_are_there_and_an_event_names_it(tmp_path: Path, release: Release) -> None:
    async with bench_on(tmp_path, release, GATES) as bench:
        [published] = await bench.publish(pool(nodeAllocatableResources=OVERHEAD))

        assert [found["name"] for found in published["spec"]["devices"]] == ["gpu-0"]
        assert bench.publisher.dropped == {GATE}
        [(reason, message)] = bench.events
        assert reason == "ResourceSliceFieldsDropped"
        assert GATE in message


@pytest.mark.parametrize("more", [{}, {"nodeAllocatableResources": OVERHEAD}], ids=["nothing", "something"])
async def test_the_server_is_asked_for_its_release_only_where_it_matters(tmp_path: Path, more: Any) -> None:
    async with bench_on(tmp_path, V1_37, GATES | {GATE}) as bench:
        await bench.publish(pool(**more))
        await bench.publish(Pool(name=NODE, slices=({"devices": [device("gpu-1", **more)]},)))

        assert bench.server.requests.get(("get", ""), 0) == len(more)


async def test_an_answer_without_a_release_is_asked_for_again(tmp_path: Path) -> None:
    async with bench_on(tmp_path, V1_37, GATES | {GATE}) as bench:
        odd = [Fault(status=200, body=b'{"minor": null}'), Fault(status=200, body=b"[]")]
        bench.server.fault = lambda request: odd.pop() if odd and request.path == "/version" else None

        [published] = await bench.publish(pool(nodeAllocatableResources=OVERHEAD))

    assert published["spec"]["devices"][0]["nodeAllocatableResources"] == OVERHEAD
    assert odd == []


async def test_a_restart_writes_nothing_in_either_release(tmp_path: Path) -> None:
    async with bench_on(tmp_path, V1_36, GATES | {GATE}) as bench:
        wanted = pool(nodeAllocatableResources=OVERHEAD)
        before = await bench.publish(wanted)
        await bench.stop()
        restarted = Bench(bench.server, bench.api)

        after = await restarted.publish(wanted)

        await restarted.stop()
        assert after == before == (await bench.api.get(SLICES))["items"]
        assert restarted.writes("update") + restarted.writes("create") == 0
