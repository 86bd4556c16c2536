"""From the hardware to a CUDA program in a container: what is published, prepared, injected, seen and used.

The same tests run on a stand-in and on real GPUs; `make test-gpu` runs the latter and writes down what was seen.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from driver.sim.kubelet.cdi import Injection
from tests.gpu import container
from tests.gpu.conftest import PrepareError
from tests.gpu.machine import HERE

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from tests.gpu.conftest import Node
    from tests.gpu.report import Findings

PROBE = container.python(HERE / "probe.py")
SMI = ["nvidia-smi", "-L"]


def text(value: dict[str, Any]) -> str:
    """An attribute's value."""
    return str(next(iter(value.values())))


def whole_gpus(devices: list[dict[str, Any]]) -> dict[str, str]:
    """UUIDs by device name."""
    attributes = {device["name"]: device["attributes"] for device in devices}
    return {name: text(found["uuid"]) for name, found in attributes.items() if text(found["type"]) == "gpu"}


def seen(result: CompletedProcess[str]) -> dict[str, Any]:
    assert result.stdout, f"the program ended with {result.returncode}: {result.stderr}"
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def nodes(injection: Injection) -> list[str]:
    return sorted(node.path for node in injection.device_nodes if node.path.startswith("/dev/nvidia"))


def described(name: str, smi: CompletedProcess[str], found: dict[str, Any]) -> str:
    return f"$ nvidia-smi -L          # in a container with {name} only\n{smi.stdout}{smi.stderr}\n" + json.dumps(
        found, indent=1
    )


async def test_every_gpu_of_the_machine_is_published(start: Any, findings: Findings):
    node: Node = await start()

    devices = await node.devices()

    assert sorted(whole_gpus(devices).values()) == sorted(node.machine.uuids)
    if node.machine.real:
        first = devices[0]["attributes"]
        findings.facts |= {
            key: text(first[name])
            for key, name in (("GPU", "productName"), ("Driver", "driverVersion"), ("CUDA", "cudaDriverVersion"))
            if name in first
        }
        findings.add("Published", json.dumps(devices, indent=1))


async def test_without_edits_there_is_no_cuda_in_the_container(start: Any):
    """Or what the other tests see would prove nothing."""
    await start()

    found = seen(container.run(Injection(), PROBE))

    assert found["nodes"] == []
    assert "libcuda.so.1" in found["error"]


async def test_a_container_sees_its_gpu_and_no_other_and_copies_memory(start: Any, findings: Findings):
    node: Node = await start()

    for name, uuid in whole_gpus(await node.devices()).items():
        claim, injection = await node.prepare(f"one-{name}", name)
        smi, found = container.run(injection, SMI), seen(container.run(injection, PROBE))
        if node.machine.real:
            findings.add(f"One GPU: {name}", described(name, smi, found))

        assert "error" not in found, found
        assert [gpu["uuid"] for gpu in found["gpus"]] == [uuid.removeprefix("GPU-")]
        assert found["nodes"] == nodes(injection)
        assert found["visible_devices"] == "void"
        assert smi.returncode == 0, smi.stderr
        assert re.findall(r"UUID: (\S+)\)", smi.stdout) == [uuid]
        assert await node.unprepare(claim) == ""
        assert node.directories.specs() == []


async def test_a_claim_of_all_gpus_sees_all(start: Any):
    node: Node = await start()
    gpus = whole_gpus(await node.devices())

    claim, injection = await node.prepare("all", *gpus)
    found = seen(container.run(injection, PROBE))

    assert sorted(gpu["uuid"] for gpu in found["gpus"]) == sorted(uuid.removeprefix("GPU-") for uuid in gpus.values())
    assert await node.unprepare(claim) == ""


async def test_a_partition_is_made_used_and_destroyed(start: Any, findings: Findings):
    node: Node = await start("--partitioning=dynamic")
    devices = await node.devices()
    partitions = [device for device in devices if text(device["attributes"]["type"]) == "mig"]
    if not partitions:
        pytest.skip("no GPU of this machine can be partitioned")
    smallest = min(partitions, key=lambda device: (text(device["attributes"]["profile"]), device["name"]))

    try:
        claim, injection = await node.prepare("part", smallest["name"])
    except PrepareError as error:
        if not node.machine.real:
            raise
        findings.add(f"One partition: {smallest['name']}", f"refused: {error}")
        pytest.skip(f"this machine does not let us: {error}")
    smi, found = container.run(injection, SMI), seen(container.run(injection, PROBE))
    undone = await node.unprepare(claim)
    if node.machine.real:
        ended = undone or "destroyed again"
        findings.add(f"One partition: {smallest['name']}", described(smallest["name"], smi, found) + f"\n\n{ended}")

    assert undone == ""
    assert "error" not in found, found
    assert len(found["gpus"]) == 1
    assert found["nodes"] == nodes(injection)
    assert len([path for path in found["nodes"] if "nvidia-cap" in path]) == 2
