"""The whole driver on a machine with NVML: what others see of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import RESOURCE, Api
from driver.sim.apiserver import ApiServer
from tests.eventually import eventually
from tests.forked.process import ForkedDriver
from tests.harness import DRIVER, NODE, Claims, Driver, Kubelet, NodeDirectories, node_directories
from tests.nvml.standin import RECOVERY_ACTION, XID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.nvml.standin import World

SMALL = "gpu-0-mig-1g10gb-19-6"
UNREAD = ("unpreparable", "unread", "NoSchedule")


class Site:
    """A node with a machine's GPUs, its driver, and what the cluster sees."""

    def __init__(self, node: NodeDirectories, machine: World, api: Api, kubeconfig: Path) -> None:
        self.node, self.machine, self.api, self._kubeconfig = node, machine, api, kubeconfig
        self.claims = Claims(api)
        self.driver: Driver

    async def start(self, partitioning: str = "none", *more: str, wait: bool = True) -> Kubelet:
        flags = ("--devices=nvml", *self.machine.options(), f"--partitioning={partitioning}", *more)
        self.driver = ForkedDriver(self.node, self._kubeconfig, *flags)
        await self.driver.start()
        await self.driver.serving()
        kubelet = Kubelet(self.driver.registrar)
        await kubelet.notify(registered=True)
        if wait:
            await eventually(self.driver.ready)
        return kubelet

    async def devices(self) -> dict[str, dict[str, Any]]:
        slices = (await self.api.get(f"{RESOURCE}/resourceslices"))["items"]
        return {device["name"]: device for item in slices for device in item["spec"].get("devices") or ()}

    async def events(self) -> set[str]:
        return {event["reason"] for event in (await self.api.get("/api/v1/namespaces/default/events"))["items"]}

    async def taints(self, device: str) -> set[tuple[str, str, str]]:
        found = (await self.devices()).get(device, {}).get("taints") or ()
        return {(t["key"].removeprefix(f"{DRIVER}/"), t.get("value", ""), t["effect"]) for t in found}


@pytest.fixture
def node() -> Iterator[NodeDirectories]:
    with node_directories() as directories:
        yield directories


@pytest.fixture
async def site(node: NodeDirectories, machine: World) -> AsyncIterator[Site]:
    async with ApiServer() as server:
        kubeconfig = server.write_kubeconfig(node.root / "kubeconfig")
        async with await Api.connect(kubeconfig) as api:
            body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
            await api.request("POST", "/api/v1/nodes", body=body)
            site = Site(node, machine, api, kubeconfig)
            yield site
            await site.driver.kill()


async def test_the_others_are_published_and_the_odd_one_with_what_is_known(site: Site) -> None:
    for _ in range(4):
        site.machine.add()
    site.machine.set({"gpu.0.memory": None, "gpu.2.lost": 1})
    site.machine.fail("nvmlDeviceGetArchitecture", 999, gpu=1)

    await site.start()

    devices = await site.devices()
    assert list(devices) == ["gpu-0", "gpu-1", "gpu-2", "gpu-3"]
    assert "memory" not in devices["gpu-0"].get("capacity", {})
    assert "architecture" not in devices["gpu-1"]["attributes"]
    assert await site.taints("gpu-0") == set()
    assert await site.taints("gpu-1") == {("incomplete", "no-architecture", "None")}
    assert await site.taints("gpu-2") == {("gpu-lost", "", "NoExecute")}
    assert await site.taints("gpu-3") == set()


async def test_what_goes_wrong_becomes_a_taint_and_goes(site: Site) -> None:
    site.machine.add()
    site.machine.add()
    await site.start()

    site.machine.set({f"gpu.0.field.{RECOVERY_ACTION}": 1})
    site.machine.happen(0, XID, 48)
    wanted = {("xid", "48", "NoExecute"), ("repair", "gpu-reset", "NoSchedule")}
    await eventually(lambda: _is(site.taints("gpu-0"), wanted))
    assert await site.taints("gpu-1") == set()


async def _is(found: Any, wanted: object) -> bool:
    return bool(await found == wanted)


async def _has(found: Any, wanted: object) -> bool:
    return wanted in await found


async def test_a_partition_is_made_for_a_claim_and_taken_away(site: Site) -> None:
    site.machine.add()
    kubelet = await site.start("dynamic")
    claim = await site.claims.allocated("a", SMALL)

    (answer,) = (await kubelet.prepare(claim)).values()

    assert not answer.error
    assert site.machine.instances() == {"gpu.0.mig": "1", "gpu.0.gi.1": "19 6", "gpu.0.ci.1.0": "0 1"}
    assert [name.startswith("k8s.") for name in site.node.specs()] == [True]

    (gone,) = (await kubelet.unprepare(claim)).values()
    assert not gone.error
    assert (site.machine.instances(), site.node.records(), site.node.specs()) == ({}, [], [])


async def test_a_claim_that_is_held_follows_its_gpu_when_the_kernel_module_is_loaded_anew(site: Site) -> None:
    site.machine.add()
    site.machine.add()
    kubelet = await site.start()
    (answer,) = (await kubelet.prepare(await site.claims.allocated("a", "gpu-0"))).values()
    assert not answer.error
    (spec,) = site.node.root.rglob(site.node.specs()[0])
    assert "/dev/nvidia0" in spec.read_text()

    site.machine.renumber(1, 0)
    site.machine.set(generation=1)

    await eventually(lambda: "/dev/nvidia1" in spec.read_text() and "/dev/nvidia0" not in spec.read_text())
    assert list(await site.devices()) == ["gpu-0", "gpu-1"]


async def test_a_dead_driver_blocks_no_pod_s_end_and_what_was_made_goes_when_it_is_back(site: Site) -> None:
    site.machine.add()
    kubelet = await site.start("dynamic")
    claim = await site.claims.allocated("a", SMALL)
    await kubelet.prepare(claim)
    site.machine.set(loaded=0)

    (answer,) = (await kubelet.unprepare(claim)).values()

    assert not answer.error
    assert (site.node.specs(), len(site.node.records())) == ([], 1)
    site.machine.set(loaded=1)
    await eventually(lambda: not site.machine.instances() and not site.node.records())


@pytest.mark.long
async def test_a_node_that_starts_without_its_driver_ends_pods_and_tidies_up_later(site: Site) -> None:
    site.machine.add()
    kubelet = await site.start("dynamic")
    claim = await site.claims.allocated("a", SMALL)
    await kubelet.prepare(claim)
    await site.driver.kill()
    site.machine.set(loaded=0)
    kubelet = await site.start("dynamic", wait=False)

    (answer,) = (await kubelet.unprepare(claim)).values()

    assert not answer.error
    assert site.machine.instances()
    site.machine.set(loaded=1)
    await eventually(lambda: not site.machine.instances() and not site.node.records())


@pytest.mark.long
async def test_a_node_without_a_driver_yet_waits_for_it(site: Site) -> None:
    site.machine.add()
    site.machine.set(loaded=0)

    await site.start(wait=False)

    await eventually(lambda: site.driver.said("NVML cannot be used"))
    status, body = await site.driver.get("/readyz")
    assert status != 200
    assert "the kernel driver is not loaded" in body
    site.machine.set(loaded=1)
    await eventually(site.driver.ready)
    said = [line for line in site.driver.lines() if str(line.get("message")).startswith("NVML cannot be used")]
    assert len(said) == 1, said
    assert list(await site.devices()) == ["gpu-0"]


async def test_a_driver_that_is_replaced_under_us_gets_no_claims_until_it_is_whole_again(site: Site) -> None:
    site.machine.add()
    libraries = site.machine.library.parent
    (libraries / "libcuda.so.570.124.06").touch()
    kubelet = await site.start("none", "--unread-patience=0.5")
    claim = await site.claims.allocated("a", "gpu-0")

    (libraries / "libcuda.so.570.124.06").rename(libraries / "libcuda.so.580.65.06")
    site.machine.install("580.65.06")
    site.machine.fail("nvmlInitWithFlags", 18)
    site.machine.set(driver="580.65.06", generation=1, stale=18)

    (answer,) = (await kubelet.prepare(claim)).values()
    assert "which is gone from the node. NVIDIA's driver is being replaced there" in answer.error
    await eventually(lambda: _has(site.taints("gpu-0"), UNREAD))
    status, body = await site.driver.get("/readyz")
    assert status == 503
    assert "node: unread: " in body
    assert "different versions" in body

    site.machine.fail("nvmlInitWithFlags", None)
    await eventually(lambda: _is(site.taints("gpu-0"), set()))
    await eventually(site.driver.ready)
    (answer,) = (await kubelet.prepare(claim)).values()
    assert not answer.error
    assert "libcuda.so.580.65.06" in (site.node.cdi / site.node.specs()[0]).read_text()


async def test_a_node_whose_pods_get_no_cuda_says_so_and_gives_its_gpus_out(site: Site) -> None:
    site.machine.add()

    await site.start()

    defects = json.loads((await site.driver.get("/status"))[1])["nodeDefects"]
    assert set(defects) == {"no-libcuda", "no-uvm"}
    assert "modprobe nvidia-uvm" in defects["no-uvm"]
    metrics = (await site.driver.get("/metrics"))[1]
    assert 'gpu_dra_node_defects{defect="no-uvm"} 1.0' in metrics
    assert 'gpu_dra_node_defects{defect="unread"} 0.0' in metrics
    assert await site.taints("gpu-0") == set()
    await eventually(lambda: _has(site.events(), "NodeDefect"))


def test_the_doctor_finds_what_keeps_pods_from_cuda(machine: World, node: NodeDirectories) -> None:
    machine.add()
    directories = [f"--kubelet-plugins-dir={node.plugins}", f"--kubelet-registry-dir={node.registry}"]

    done = subprocess.run(
        [
            *(sys.executable, "-m", "driver", "doctor", "--scope=node", "--http-port=0", f"--node-name={NODE}"),
            *("--devices=nvml", *machine.options(), *directories, f"--cdi-root={node.cdi}"),
        ],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2, done.stderr
    assert "no libcuda.so.570.124.06" in done.stdout
    assert "modprobe nvidia-uvm" in done.stdout


async def test_static_devices_come_and_go_with_the_administrator(site: Site) -> None:
    site.machine.add()
    await site.start("static")
    assert list(await site.devices()) == ["gpu-0"]

    site.machine.cut(0, "1g.10gb", 6, gi=9)
    await eventually(lambda: _is(_names(site), [SMALL]))

    site.machine.cut(0, "3g.40gb", 0, gi=2)
    await eventually(lambda: _is(_names(site), [SMALL, "gpu-0-mig-3g40gb-9-0"]))


async def test_an_xid_of_one_static_device_taints_no_other(site: Site) -> None:
    site.machine.add(**{f"field.{RECOVERY_ACTION}": None})
    site.machine.cut(0, "1g.10gb", 6, gi=9)
    site.machine.cut(0, "3g.40gb", 0, gi=2)
    await site.start("static")

    site.machine.happen(0, XID, 94, gi=2, ci=0)
    await eventually(lambda: _is(site.taints("gpu-0-mig-3g40gb-9-0"), {("xid", "94", "NoSchedule")}))
    assert await site.taints(SMALL) == set()

    site.machine.happen(0, XID, 79)
    await eventually(lambda: _is(site.taints(SMALL), {("xid", "79", "NoExecute")}))


async def test_a_static_device_that_is_destroyed_while_a_claim_has_it_is_tainted(site: Site) -> None:
    site.machine.add()
    site.machine.cut(0, "1g.10gb", 6, gi=9)
    kubelet = await site.start("static")
    (answer,) = (await kubelet.prepare(await site.claims.allocated("a", SMALL))).values()
    assert not answer.error

    site.machine.set({"gpu.0.ci.9.0": None, "gpu.0.gi.9": None})

    gone = {("partition-gone", "", "NoSchedule"), ("reshape-pending", "", "NoSchedule")}
    await eventually(lambda: _is(site.taints(SMALL), gone))
    site.machine.cut(0, "1g.10gb", 6, gi=9)
    await eventually(lambda: _is(site.taints(SMALL), set()))


async def _names(site: Site) -> list[str]:
    return list(await site.devices())


def test_without_a_driver_the_tool_explains_itself_in_one_line() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-m", "driver", "slices", "--devices", "nvml", "--driver-root", empty],
            capture_output=True,
            text=True,
            env=environment,
        )

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("gpu-dra: NVML cannot be used: there is no libnvidia-ml.so.1 below")


def test_the_tool_shows_the_machine_s_gpus(machine: World) -> None:
    machine.add(minor=4)

    done = subprocess.run(
        [sys.executable, "-m", "driver", "slices", "--devices", "nvml", *machine.options(), "--node-name", NODE],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert "name: gpu-4" in done.stdout
