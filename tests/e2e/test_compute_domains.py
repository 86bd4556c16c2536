"""A GPU of ours and a channel of NVIDIA's ComputeDomains in one pod; in place of their driver is a stand-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import RESOURCE
from tests.e2e.test_examples import CLASSES, EXAMPLES
from tests.eventually import eventually
from tests.unit.sim_kubelet.fakes import FakePlugin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.conftest import EmbeddedSite

EXAMPLE = "26-compute-domain"
THEIRS = "compute-domain.nvidia.com"
CHANNEL_CLASS = "compute-domain-default-channel.nvidia.com"
ATTRIBUTES = f"device.attributes['{THEIRS}']"
SELECTOR = f"device.driver == '{THEIRS}' && {ATTRIBUTES}.type == 'channel' && {ATTRIBUTES}.id == 0"
DEVICE_CLASS = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "DeviceClass",
    "metadata": {"name": CHANNEL_CLASS},
    "spec": {"selectors": [{"cel": {"expression": SELECTOR}}]},
}


@pytest.fixture
async def theirs(embedded: EmbeddedSite) -> AsyncIterator[FakePlugin]:
    """Registered with the kubelet, with one channel to give away."""
    plugin = await FakePlugin(embedded.cluster.root, driver=THEIRS).start()
    await eventually(lambda: plugin.registered)
    node = embedded.node
    slice_ = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{node}-{THEIRS}-x7k2p"},
        "spec": {
            "driver": THEIRS,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [
                {"name": "channel-0", "attributes": {"type": {"string": "channel"}, "id": {"int": 0}}},
                {"name": "daemon-0", "attributes": {"type": {"string": "daemon"}, "id": {"int": 0}}},
            ],
        },
    }
    await embedded.api.request("POST", f"{RESOURCE}/resourceslices", body=slice_)
    await embedded.apply([*EXAMPLES[CLASSES].objects, DEVICE_CLASS])
    yield plugin
    await plugin.stop()


def parameters(request: str) -> list[dict[str, Any]]:
    """What NVIDIA's controller writes into the claims of a ComputeDomain."""
    channel = {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "ComputeDomainChannelConfig",
        "domainID": "8f1d7a52-5c55-4d0c-8a4f-5f1a0e2b9f60",
        "allocationMode": "Single",
    }
    return [{"requests": [request], "opaque": {"driver": THEIRS, "parameters": channel}}]


def template(name: str, requests: dict[str, str]) -> dict[str, Any]:
    """A ResourceClaimTemplate; ``requests`` is name -> class."""
    devices = {
        "requests": [{"name": key, "exactly": {"deviceClassName": value}} for key, value in requests.items()],
        "config": parameters("channel"),
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": {"devices": devices}},
    }


async def test_the_example_has_two_claims_one_of_each_driver(embedded: EmbeddedSite, theirs: FakePlugin) -> None:
    [domain] = EXAMPLES[EXAMPLE].of_kind("ComputeDomain")
    made = domain["spec"]["channel"]["resourceClaimTemplate"]["name"]
    await embedded.apply([template(made, {"channel": CHANNEL_CLASS})])

    await embedded.apply(obj for obj in EXAMPLES[EXAMPLE].objects if obj is not domain)

    pod = await embedded.phase("compute-domain", "Succeeded", "Failed")
    assert len((await embedded.gpus(pod))["main"]) == 1
    assert theirs.count("prepare") == 1


async def test_one_claim_may_have_both(embedded: EmbeddedSite, theirs: FakePlugin) -> None:
    both = template("both", {"gpu": "gpu.nvidia.com", "channel": CHANNEL_CLASS})
    pod = embedded.sleeper("pod", template="both", seconds=600)
    pod["spec"]["containers"][0]["command"][-1] = "env | grep -E '^(GPU_DRA|CLAIM)_'; sleep 600 & wait"
    await embedded.apply([both, pod])

    running = await embedded.phase("pod", "Running")

    await eventually(lambda: embedded.log(running, "main"))
    [claim] = await embedded.claims()
    results = claim["status"]["allocation"]["devices"]["results"]
    assert {(one["driver"], one["request"]) for one in results} == {("gpu.nvidia.com", "gpu"), (THEIRS, "channel")}
    log = await embedded.log(running, "main")
    assert "GPU_DRA_GPU_" in log
    assert "CLAIM_" in log
