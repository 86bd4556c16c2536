"""The chart as an operator meets it: helm and kubectl against the embedded API server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.deploy.conftest import manifest, of_kubernetes
from tests.deploy.helm import CHART, FAKE, HELMS, MODES, NAMESPACE, RELEASE
from tests.deploy.manifests import CLASSES, MANIFESTS, VALUES

if TYPE_CHECKING:
    from tests.deploy.conftest import Tool


@pytest.mark.parametrize("mode", MODES)
async def test_the_server_takes_each_object(tool: Tool, mode: str) -> None:
    # What is in a namespace can be tried only where that exists.
    await tool("kubectl", "create", "namespace", NAMESPACE)

    tried = await tool("kubectl", "apply", "--dry-run=server", "-f", "-", stdin=manifest(MODES[mode]))

    assert tried.count("(server dry run)") >= len(of_kubernetes(MODES[mode]))


@pytest.mark.parametrize("name", VALUES)
async def test_a_plain_manifest_can_be_applied_twice_and_deleted(tool: Tool, name: str) -> None:
    path = str(MANIFESTS / f"{name}.yaml")

    await tool("kubectl", "apply", "-f", path)
    again = await tool("kubectl", "apply", "-f", path)
    await tool("kubectl", "delete", "-f", path, "--ignore-not-found", "--wait=false")

    assert "created" not in again
    assert "configured" not in again
    assert RELEASE not in await tool("kubectl", "get", "clusterroles,validatingadmissionpolicies", "-o", "name")


@pytest.mark.parametrize("helm", HELMS)
async def test_helm_installs_upgrades_rolls_back_and_uninstalls(tool: Tool, helm: str) -> None:
    release = (RELEASE, str(CHART), "--namespace", NAMESPACE)
    fake = ("--set", f"devices={FAKE['devices']}")

    await tool(helm, "install", *release, "--create-namespace", *fake)
    await tool(helm, "upgrade", *release, *fake, "--set", "partitioning=dynamic")
    upgraded = await partitioning(tool)
    await tool(helm, "rollback", RELEASE, "1", "--namespace", NAMESPACE)
    rolled_back = await partitioning(tool)
    await tool(helm, "uninstall", RELEASE, "--namespace", NAMESPACE)

    assert (upgraded, rolled_back) == ("dynamic", "none")
    kinds = "daemonsets,serviceaccounts,configmaps,clusterroles,clusterrolebindings,deviceclasses"
    left = await tool("kubectl", "get", kinds, "-A", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name")
    assert "gpu" not in left


@pytest.mark.parametrize("helm", HELMS)
async def test_classes_of_somebody_else_are_refused_and_taken_over_when_told(tool: Tool, helm: str) -> None:
    release = (RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace")
    await tool("kubectl", "apply", "-f", str(CLASSES))

    refusal = await tool(helm, "install", *release, fails=True)
    await tool(helm, "upgrade", "--install", *release, "--take-ownership")

    assert "cannot be imported into the current release" in refusal
    manager = "-l=app.kubernetes.io/managed-by=Helm"
    assert "deviceclass" in await tool("kubectl", "get", "deviceclasses", manager, "-o", "name")


async def partitioning(tool: Tool) -> str:
    daemonset = json.loads(await tool("kubectl", "-n", NAMESPACE, "get", "daemonset", RELEASE, "-o", "json"))
    [container] = daemonset["spec"]["template"]["spec"]["containers"]
    return next(str(item["value"]) for item in container["env"] if item["name"] == "PARTITIONING")
