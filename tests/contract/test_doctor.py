"""``gpu-dra doctor`` against a driver and an API server, whole and broken."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from driver.sim import identity
from driver.sim.apiserver import ApiServer
from tests.contract.test_coexistence import device_plugin
from tests.eventually import PATIENCE, eventually
from tests.forked.process import gpu_dra
from tests.harness import DRIVER, NODE, Claims, Driver, Kubelet, NodeDirectories

if TYPE_CHECKING:
    from pathlib import Path

    from driver.kube.client import Api

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/" + identity.username().rpartition(":")[2]
CLASSES = (
    {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": DRIVER},
        "spec": {"selectors": [{"cel": {"expression": f"device.driver == '{DRIVER}'"}}]},
    },
)


class Doctor:
    """The command as a process; its JSON."""

    def __init__(self, node: NodeDirectories, *flags: str) -> None:
        self._command = [
            *gpu_dra("doctor"),
            f"--kubelet-plugins-dir={node.plugins}",
            f"--kubelet-registry-dir={node.registry}",
            f"--cdi-root={node.cdi}",
            "--devices=fake:h100x8",
            "--output=json",
            *flags,
        ]

    def without(self, package: str) -> None:
        """As where a package is not installed."""
        program = f"import sys; sys.modules[{package!r}] = None; from driver.cli.main import main; main()"
        self._command[: len(gpu_dra())] = [sys.executable, "-c", program]

    async def examine(self, *flags: str) -> Diagnosis:
        outcome = await asyncio.to_thread(
            subprocess.run,
            [*self._command, *flags],
            capture_output=True,
            text=True,
            check=False,
            env=ENVIRONMENT,
            timeout=PATIENCE,
        )
        assert outcome.stdout, outcome.stderr
        return Diagnosis(json.loads(outcome.stdout), outcome.returncode)


class Diagnosis:
    def __init__(self, report: dict[str, Any], status: int) -> None:
        assert report["status"] == status
        self.status = status
        self.findings = report["findings"]

    def wrong(self) -> list[tuple[str, str]]:
        """Check and level of everything that is not well."""
        return [(f["check"], f["level"]) for f in self.findings if f["level"] in {"warning", "problem"}]

    def says(self, check: str) -> str:
        return " | ".join(f"{f['level']}: {f['sentence']}" for f in self.findings if f["check"] == check)


def written(node: NodeDirectories) -> dict[Path, int]:
    """When each file of the node was written."""
    files = (path for path in node.root.rglob("*") if path.is_file() and path.suffix != ".log")
    return {path: path.stat().st_mtime_ns for path in files}


async def ready(driver: Driver, api: Api) -> None:
    for document in CLASSES:
        await api.request("POST", "/apis/resource.k8s.io/v1/deviceclasses", body=document)
    await Kubelet(driver.registrar).notify(registered=True)
    await eventually(driver.ready)


async def test_a_node_and_a_cluster_that_are_well(
    driver: Driver, api: Api, node: NodeDirectories, server: ApiServer
) -> None:
    await ready(driver, api)
    admin = server.write_kubeconfig(node.root / "doctor.kubeconfig")

    seen = await Doctor(
        node, "--scope=both", f"--kubeconfig={admin}", f"--node-name={NODE}", f"--http-port={driver.http_port}"
    ).examine()

    assert seen.wrong() == []
    assert seen.status == 0
    assert "registered and has published" in seen.says("readiness")
    assert "8 GPUs" in seen.says("hardware")
    assert "node-1 offers 8 devices" in seen.says("slices")
    assert "gpu.nvidia.com (8)" in seen.says("device-classes")
    assert "DRADeviceTaints" in seen.says("feature-gates")


async def test_a_rule_by_which_an_administrator_has_tainted_a_gpu(
    driver: Driver, api: Api, node: NodeDirectories, server: ApiServer, kubeconfig: Path
) -> None:
    await ready(driver, api)
    taint = {"key": "example.com/drain", "effect": "NoSchedule"}
    body = {
        "apiVersion": "resource.k8s.io/v1beta2",
        "kind": "DeviceTaintRule",
        "metadata": {"name": "drain-gpu-0"},
        "spec": {"deviceSelector": {"driver": DRIVER, "pool": NODE, "device": "gpu-0"}, "taint": taint},
    }
    await api.request("POST", "/apis/resource.k8s.io/v1beta2/devicetaintrules", body=body)

    # The driver's own credentials: as in its pod.
    seen = await Doctor(node, "--scope=cluster", f"--kubeconfig={kubeconfig}", f"--node-name={NODE}").examine()

    assert "warning: node-1: gpu-0 tainted by DeviceTaintRule drain-gpu-0 (example.com/drain:No" in seen.says("taints")
    assert "problem: the scheduler of Kubernetes v1.36.2 heeds no DeviceTaintRule" in seen.says("rules")


async def test_looking_changes_nothing(driver: Driver, api: Api, node: NodeDirectories, kubeconfig: Path) -> None:
    await ready(driver, api)
    slices = await api.get("/apis/resource.k8s.io/v1/resourceslices")
    before = written(node)

    await Doctor(node, "--scope=both", f"--kubeconfig={kubeconfig}", f"--node-name={NODE}").examine()

    assert written(node) == before
    assert (await api.get("/apis/resource.k8s.io/v1/resourceslices"))["items"] == slices["items"]


async def test_a_driver_that_was_killed(driver: Driver, node: NodeDirectories) -> None:
    await driver.kill()

    seen = await Doctor(node, "--scope=node").examine()

    assert seen.status == 2
    assert seen.wrong() == [("registration", "warning"), ("registration", "problem")]
    assert "left behind by an instance that was killed" in seen.says("registration")
    assert "no instance of gpu.nvidia.com serves this node" in seen.says("registration")


async def test_a_driver_that_hangs(driver: Driver, node: NodeDirectories) -> None:
    driver.signal(signal.SIGSTOP)

    seen = await Doctor(node, "--scope=node", "--http-port=0").examine()

    driver.signal(signal.SIGCONT)
    assert seen.wrong() == [("registration", "problem")]
    assert "does not answer" in seen.says("registration")


async def test_a_driver_that_no_kubelet_registered(driver: Driver, node: NodeDirectories) -> None:
    seen = await Doctor(node, "--scope=node", f"--http-port={driver.http_port}").examine()

    assert ("readiness", "problem") in seen.wrong()
    assert "kubelet: not registered" in seen.says("readiness")


async def test_a_cdi_directory_that_is_missing(driver: Driver, node: NodeDirectories) -> None:
    seen = await Doctor(node, "--scope=node").examine(f"--cdi-root={node.root}/missing")

    assert seen.wrong() == [("directories", "problem")]
    assert f"{node.root}/missing does not exist" in seen.says("directories")


async def test_a_cdi_spec_that_was_deleted(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories
) -> None:
    claim = await claims.allocated("claim", "gpu-0")
    await kubelet.prepare(claim)
    (node.cdi / f"k8s.{DRIVER}-claim_{claim['metadata']['uid']}.json").unlink()

    seen = await Doctor(node, "--scope=node").examine()

    assert seen.status == 1
    assert "default/claim is prepared, and its CDI spec is gone" in seen.says("records")


async def test_a_device_plugin_in_the_way(run: Any, api: Api, node: NodeDirectories) -> None:
    with device_plugin(node):
        await run()

        seen = await Doctor(node, "--scope=node").examine()

    assert ("other-drivers", "problem") in seen.wrong()


async def test_hardware_that_cannot_be_opened(node: NodeDirectories) -> None:
    seen = await Doctor(node, "--scope=node").examine("--devices=nvml", f"--driver-root={node.root}")

    assert ("hardware", "problem") in seen.wrong()


async def test_an_api_server_that_does_not_answer(server: ApiServer, node: NodeDirectories, kubeconfig: Path) -> None:
    await server.stop()

    seen = await Doctor(node, "--scope=cluster", f"--kubeconfig={kubeconfig}").examine()

    assert seen.wrong() == [("version", "problem")]
    assert "no answer from" in seen.says("version")


async def test_a_machine_that_is_neither_node_nor_has_credentials(node: NodeDirectories) -> None:
    outcome = await asyncio.to_thread(
        subprocess.run,
        [*gpu_dra("doctor"), f"--kubelet-plugins-dir={node.root}/nowhere"],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=PATIENCE,
    )

    assert outcome.returncode == 2
    assert "nothing to look at" in outcome.stderr


async def test_a_kubeconfig_on_a_desk_means_the_cluster_even_where_the_desk_is_a_node(
    driver: Driver, node: NodeDirectories, kubeconfig: Path
) -> None:
    seen = await Doctor(node, f"--kubeconfig={kubeconfig}").examine()

    assert {finding["section"] for finding in seen.findings} == {"The cluster"}


async def test_where_the_package_for_cel_is_missing_as_in_the_image_it_says_so(
    api: Api, node: NodeDirectories, server: ApiServer
) -> None:
    await api.request("POST", "/apis/resource.k8s.io/v1/deviceclasses", body=CLASSES[0])
    admin = server.write_kubeconfig(node.root / "doctor.kubeconfig")
    doctor = Doctor(node, "--scope=cluster", f"--kubeconfig={admin}")
    doctor.without("cel_expr_python")

    seen = await doctor.examine()

    assert f"unknown: what these DeviceClasses select was not tried: {DRIVER} (CEL cannot" in seen.says(
        "device-classes"
    )


async def test_gates_that_are_off_are_found_by_a_dry_run(node: NodeDirectories) -> None:
    async with ApiServer(gates=frozenset({"DRADeviceTaints"})) as server:
        admin = server.write_kubeconfig(node.root / "gates.kubeconfig")

        seen = await Doctor(node, "--scope=cluster", f"--kubeconfig={admin}").examine(
            "--partitioning=dynamic", "--shares=4"
        )

    assert "DRAPartitionableDevices is off" in seen.says("feature-gates")
    assert "DRAConsumableCapacity is off" in seen.says("feature-gates")
    assert "DRADeviceTaints is off" not in seen.says("feature-gates")


async def without_rule(api: Api, resource: str) -> None:
    """Take the driver's permission for one resource away."""
    role = await api.get(ROLE)
    role["rules"] = [rule for rule in role["rules"] if resource not in rule["resources"]]
    await api.request("PUT", ROLE, body=role)


async def test_as_the_driver_it_knows_its_own_permissions(
    driver: Driver, api: Api, node: NodeDirectories, kubeconfig: Path
) -> None:
    await ready(driver, api)

    seen = await Doctor(node, f"--kubeconfig={kubeconfig}", f"--node-name={NODE}", "--device-status").examine()

    assert seen.wrong() == []
    assert f"{identity.username()} may do what these settings need" in seen.says("permissions")
    assert "these credentials may not" in seen.says("pods")
    assert "ok: the feature gates that these settings need are on: DRADeviceTaints" in seen.says("feature-gates")


async def test_a_permission_that_is_missing_is_named(
    driver: Driver, api: Api, node: NodeDirectories, kubeconfig: Path
) -> None:
    await ready(driver, api)
    await without_rule(api, "nodes")

    seen = await Doctor(node, "--scope=cluster", f"--kubeconfig={kubeconfig}", f"--node-name={NODE}").examine()

    assert ("permissions", "problem") in seen.wrong()
    assert "may not get nodes node-1" in seen.says("permissions")


async def test_nobody_is_told_of_a_node_that_was_not_named(
    driver: Driver, api: Api, node: NodeDirectories, kubeconfig: Path
) -> None:
    await ready(driver, api)
    await without_rule(api, "nodes")

    seen = await Doctor(node, f"--kubeconfig={kubeconfig}").examine()

    assert "may not get nodes: the Node owns the ResourceSlices" in seen.says("permissions")
    assert "no-node" not in json.dumps(seen.findings)


async def test_an_administrator_learns_what_the_drivers_account_lacks(
    driver: Driver, api: Api, node: NodeDirectories, server: ApiServer
) -> None:
    await ready(driver, api)
    namespace, account = identity.username().split(":")[2:]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "driver", "namespace": namespace, "labels": {"app.kubernetes.io/name": "gpu-dra-driver"}},
        "spec": {"serviceAccountName": account, "containers": [{"name": "driver", "image": "driver"}]},
    }
    await api.request("POST", f"/api/v1/namespaces/{namespace}/pods", body=pod)
    await without_rule(api, "resourceclaims")
    admin = server.write_kubeconfig(node.root / "doctor.kubeconfig")

    seen = await Doctor(node, "--scope=cluster", f"--kubeconfig={admin}").examine()

    assert seen.wrong() == [("permissions", "problem")]
    assert f"{identity.username()} may not get resourceclaims" in seen.says("permissions")


async def test_a_token_that_says_no_node_is_a_problem(
    driver: Driver, api: Api, node: NodeDirectories, server: ApiServer
) -> None:
    await ready(driver, api)
    namespace, account = identity.username().split(":")[2:]
    token = server.service_account_token(namespace, account)
    kubeconfig = server.write_kubeconfig(node.root / "unbound.kubeconfig", token=token)

    seen = await Doctor(node, "--scope=cluster", f"--kubeconfig={kubeconfig}", f"--node-name={NODE}").examine()

    assert "does not say which node" in seen.says("permissions")
