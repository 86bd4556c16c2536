"""``gpu-dra top`` beside a cluster in which pods start and GPUs fail."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from driver.sim.process import gpu_dra
from tests.e2e.site import run
from tests.e2e.test_examples import CLASSES, EXAMPLES
from tests.eventually import eventually

if TYPE_CHECKING:
    from tests.e2e.conftest import EmbeddedSite

SELECTOR = 'device.attributes["gpu.nvidia.com"].profile == "3g.40gb"'
TEMPLATE = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceClaimTemplate",
    "metadata": {"name": "half"},
    "spec": {
        "spec": {
            "devices": {
                "requests": [
                    {
                        "name": "gpu",
                        "exactly": {
                            "deviceClassName": "mig.nvidia.com",
                            "selectors": [{"cel": {"expression": SELECTOR}}],
                        },
                    }
                ]
            }
        }
    },
}


async def gpus(site: EmbeddedSite) -> dict[str, Any]:
    """The node's GPUs as ``top`` has them, by name."""
    said = await run(*gpu_dra("top"), f"--kubeconfig={site.cluster.kubeconfig}", "--output=json")
    [node] = json.loads(said)["nodes"]
    return {gpu["name"]: gpu for gpu in node["gpus"]}


async def test_it_shows_the_pod_that_holds_a_partition_and_the_gpu_that_is_sick(embedded: EmbeddedSite) -> None:
    before = await gpus(embedded)
    await embedded.apply([*EXAMPLES[CLASSES].objects, TEMPLATE])
    await embedded.apply([embedded.sleeper("train", template="half", seconds=1000)])
    await embedded.phase("train", "Running")

    after = await gpus(embedded)

    [held] = [gpu for gpu in after.values() if gpu["parts"] != before[gpu["name"]]["parts"]]
    [part] = held["parts"]
    [holder] = part["holders"]
    assert (part["kind"], part["slots"], part["weight"]) == ("3g.40gb", [4, 5, 6, 7], round(3 / 7, 6))
    assert (holder["namespace"], holder["pods"]) == ("default", [{"name": "train", "phase": "Running"}])
    assert (held["room"]["3g.40gb"], held["room"]["gpu"]) == (1, 0)

    await embedded.fault("gpu-1", "--xid", "79")

    async def sick() -> Any:
        return (await gpus(embedded))["gpu-1"]["troubles"]

    [trouble] = await eventually(sick)
    assert (trouble["key"], trouble["value"], trouble["effect"]) == ("gpu.nvidia.com/xid", "79", "NoExecute")
    assert (await gpus(embedded))["gpu-1"]["room"]["gpu"] == 0


async def test_a_gpu_that_an_administrators_rule_taints_is_not_placeable_and_explain_names_the_rule(
    embedded: EmbeddedSite,
) -> None:
    selector = {"driver": "gpu.nvidia.com", "pool": embedded.node, "device": "gpu-0"}
    taint = {"key": "example.com/drain", "value": "planned", "effect": "NoSchedule"}
    rule = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceTaintRule",
        "metadata": {"name": "drain-gpu-0"},
        "spec": {"deviceSelector": selector, "taint": taint},
    }
    await embedded.apply([rule])

    found = await gpus(embedded)
    text = await run(*gpu_dra("top"), f"--kubeconfig={embedded.cluster.kubeconfig}")
    # With the driver's own credentials, as in its pod.
    flags = [flag for flag in embedded.cluster.driver_flags() if "registry" not in flag and "cdi-root" not in flag]
    reasons = await run(*gpu_dra("explain"), "gpu", *flags, "--devices=fake:h100x8", "--partitioning=dynamic")

    assert [gpu["room"]["gpu"] for gpu in found.values()] == [0, 1, 1, 1, 1, 1, 1, 1]
    assert [trouble["rule"] for trouble in found["gpu-0"]["troubles"]] == ["drain-gpu-0"]
    assert found["gpu-0"]["sick"]
    assert "rule drain-gpu-0: example.com/drain=planned:NoSchedule" in text
    assert "could still be placed: 7 x gpu" in text
    assert "gpu-0  tainted by DeviceTaintRule drain-gpu-0 (example.com/drain=planned:NoSchedule)" in reasons
    assert "gpu-1  free" in reasons


async def test_it_follows_what_happens(embedded: EmbeddedSite) -> None:
    await embedded.apply([*EXAMPLES[CLASSES].objects, TEMPLATE])
    watching = await asyncio.create_subprocess_exec(
        *gpu_dra("top"),
        f"--kubeconfig={embedded.cluster.kubeconfig}",
        "--watch",
        "--output=json",
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )

    async def phases() -> list[str]:
        assert watching.stdout is not None
        found = json.loads(await watching.stdout.readline())
        parts = [part for node in found["nodes"] for gpu in node["gpus"] for part in gpu["parts"]]
        return [pod["phase"] for part in parts for holder in part["holders"] for pod in holder["pods"]]

    assert await phases() == []
    await embedded.apply([embedded.sleeper("train", template="half", seconds=1000)])
    await eventually(lambda: _is(phases(), ["Running"]))
    await embedded.api.request("DELETE", "/api/v1/namespaces/default/pods/train")
    await eventually(lambda: _is(phases(), []))
    watching.kill()
    await watching.wait()


async def _is(phases: Any, expected: list[str]) -> bool:
    return await phases == expected
