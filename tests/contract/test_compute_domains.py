"""NVIDIA's driver of ComputeDomains (multi-node NVLink) on the same node: no rival, and nothing of it is touched."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import RESOURCE
from driver.sim.apiserver import ApiServer
from tests.contract.test_cleanup import cleanup, files
from tests.contract.test_coexistence import published, warnings
from tests.contract.test_doctor import Doctor, ready
from tests.eventually import eventually
from tests.harness import DRIVER, NODE, Claims, Driver, Kubelet, NodeDirectories
from tests.unit.sim_kubelet.fakes import Cluster, FakePlugin, pod

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from driver.kube.client import Api
    from tests.contract.conftest import NodeKubelet

THEIRS = "compute-domain.nvidia.com"
CLASSES = {"compute-domain-daemon.nvidia.com": "daemon", "compute-domain-default-channel.nvidia.com": "channel"}
CHANNEL = {"request": "channel", "driver": THEIRS, "pool": NODE, "device": "channel-0"}


@pytest.fixture
async def theirs(node: NodeDirectories) -> AsyncIterator[FakePlugin]:
    """Their plugin, and the files that it keeps beside ours, under the names of its version 0.5.0."""
    state = node.plugins / THEIRS
    (state / "domains" / "5d2b").mkdir(parents=True)
    (state / "domains" / "5d2b" / "imexd.cfg.tmpl").write_text("IMEX_CMD_ENABLED=1\n")
    for name in ("checkpoint.json", "pu.lock", "nvidia-cdi-hook"):
        (state / name).write_text("{}")
    for kind, identifier in (("device", "base"), ("claim", "5d2b")):
        spec = {"cdiVersion": "0.5.0", "kind": f"k8s.{THEIRS}/{kind}", "devices": [{"name": "all"}]}
        (node.cdi / f"k8s.{THEIRS}-{kind}_{identifier}.yaml").write_text(json.dumps(spec))
    plugin = FakePlugin(node.root, driver=THEIRS)
    plugin.registrar = node.registry / f"{THEIRS}-reg.sock"
    plugin.endpoint = state / "dra.sock"
    plugin.info.endpoint = str(plugin.endpoint)
    await plugin.start()
    yield plugin
    await plugin.stop()


async def offer(api: Api) -> None:
    """Their DeviceClasses, and their slice of this node."""
    attributes = {"type": {"string": "channel"}, "id": {"int": 0}}
    slice_ = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{NODE}-{THEIRS}-x7k2p"},
        "spec": {
            "driver": THEIRS,
            "nodeName": NODE,
            "pool": {"name": NODE, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "channel-0", "attributes": attributes}],
        },
    }
    await api.request("POST", f"{RESOURCE}/resourceslices", body=slice_)
    for name, kind in CLASSES.items():
        expression = f"device.driver == '{THEIRS}' && device.attributes['{THEIRS}'].type == '{kind}'"
        body = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": name},
            "spec": {"selectors": [{"cel": {"expression": expression}}]},
        }
        await api.request("POST", f"{RESOURCE}/deviceclasses", body=body)


async def of_both(claims: Claims) -> dict[str, Any]:
    """One claim with a GPU of ours and a channel of theirs, with a configuration for each."""
    claim = await claims.allocated("both", "gpu-0")
    [gpu] = claim["status"]["allocation"]["devices"]["results"]
    await claims.deallocate(claim)
    channel = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "ComputeDomainChannelConfig", "domainID": "5d2b"}
    config = {"source": "FromClaim", "requests": ["channel"], "opaque": {"driver": THEIRS, "parameters": channel}}
    return await claims.allocate(await claims.read(claim), [gpu, CHANNEL], [config])


async def test_beside_it_we_register_and_publish_and_see_no_rival(run: Any, api: Api, theirs: FakePlugin) -> None:
    await offer(api)
    driver: Driver = await run()
    await Kubelet(driver.registrar).notify(registered=True)
    await eventually(driver.ready)
    _, metrics = await driver.get("/metrics")

    assert {obj["spec"]["driver"] for obj in await published(api)} == {DRIVER, THEIRS}
    assert await warnings(api) == []
    assert 'gpu_dra_other_drivers{kind="dra-driver"} 0.0' in metrics


async def test_a_pod_gets_a_gpu_of_ours_and_a_channel_of_theirs_by_one_claim(
    run: Any, theirs: FakePlugin, node_kubelet: NodeKubelet, cluster: Cluster, claims: Claims, node: NodeDirectories
) -> None:
    driver: Driver = await run("--device-status")
    claim = await of_both(claims)
    await cluster.create_pod(pod("pod", claims={"both": "both"}))

    await cluster.phase("Running", "pod")
    await eventually(lambda: "GPU_DRA_GPU_0=" in (log := node_kubelet.now.read_log("default", "pod")) and log)
    assert "CLAIM_both=yes" in node_kubelet.now.read_log("default", "pod")
    assert node.records() == [f"{claim['metadata']['uid']}.json"]
    assert [line["devices"] for line in driver.messages("prepared claim")] == [["gpu-0"]]


async def test_cleanup_leaves_all_that_is_theirs(
    theirs: FakePlugin, run: Any, api: Api, node: NodeDirectories, kubeconfig: Path
) -> None:
    await offer(api)
    before = files(node)
    driver: Driver = await run()
    await Kubelet(driver.registrar).notify(registered=True)
    await eventually(driver.ready)
    await driver.kill()

    cluster = ("--cluster", f"--node-name={NODE}", f"--kubeconfig={kubeconfig}", "--force")
    dry = await asyncio.to_thread(cleanup, node, "--dry-run", *cluster)
    wet = await asyncio.to_thread(cleanup, node, *cluster)

    assert THEIRS not in dry.stdout + dry.stderr
    assert wet.returncode == 0, wet.stderr
    assert files(node) == before
    assert [obj["spec"]["driver"] for obj in await published(api)] == [THEIRS]


async def test_the_doctor_says_that_it_is_there_and_finds_nothing_wrong(
    driver: Driver, theirs: FakePlugin, api: Api, node: NodeDirectories, server: ApiServer
) -> None:
    await offer(api)
    await ready(driver, api)
    admin = server.write_kubeconfig(node.root / "doctor.kubeconfig")

    seen = await Doctor(
        node, "--scope=both", f"--kubeconfig={admin}", f"--node-name={NODE}", f"--http-port={driver.http_port}"
    ).examine()

    assert seen.wrong() == []
    assert f"ok: NVIDIA's driver of ComputeDomains is registered too, on {theirs.registrar}" in seen.says(
        "other-drivers"
    )
    assert f"DeviceClasses for these devices: {DRIVER} (8)" in seen.says("device-classes")
    assert "node-1 offers 8 devices" in seen.says("slices")
