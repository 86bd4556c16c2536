"""Every block of README and docs: a command works as it is pasted, what is no command is listed with what it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from driver.cli.main import cli
from driver.kube.client import MERGE_PATCH, RESOURCE, ApiError
from driver.sim import identity
from driver.sim.cluster import Cluster
from driver.sim.process import DriverProcess, free_port
from tests.deploy.helm import NAMESPACE, RELEASE, program
from tests.docs.blocks import DOCUMENTS, ROOT, Block, blocks
from tests.eventually import PATIENCE, eventually
from tests.forked.process import gpu_dra
from tests.short import short_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SLICES = f"{RESOURCE}/resourceslices"

SHOWN = {
    ("README.md", "demo-node  8 x"): "what top prints",
    ("docs/operations.md", "This node (node-1)"): "what doctor prints",
    ("docs/operations.md", "default/one-gpu holds"): "what drain-check prints",
    ("docs/partitions.md", "partitioning: none"): "a node config file, see test_names",
    ("docs/records.md", "{"): "a record on disk, shortened",
    ("docs/sharing.md", "kind: GpuConfig"): "opaque parameters of a claim, see test_names",
    ("docs/monitoring.md", "sum by"): "a query",
    ("docs/monitoring.md", "DCGM_FI_DEV_GPU_UTIL"): "a query",
    ("docs/monitoring.md", "helm upgrade"): "needs the Prometheus operator's kinds; what it renders is in tests/deploy",
    ("docs/autoscaling.md", "helm install prometheus-adapter"): "needs a chart from elsewhere",
    ("docs/autoscaling.md", "helm install kueue"): "needs a chart from elsewhere",
    ("docs/autoscaling.md", "metadata:"): "annotations of Cluster API's objects",
    ("docs/sharing.md", "resourceclaims.resource"): "what kubectl prints",
    ("docs/compute-domains.md", "helm upgrade"): "needs NVIDIA's chart; the second command is in install.md as well",
    ("docs/budgets.md", "helm upgrade"): "needs Deployments; what it renders is in tests/deploy",
    ("docs/install.md", "docker buildx build"): "needs docker; `make image` runs the same steps, see tests/deploy",
}
"""Blocks that are not run, by document and beginning, and why."""
STANDS_FOR = {
    "make ": "make -n ",  # the target exists; what it does is tested by all the rest, or needs a GPU
    "kubectl -n gpu-dra-driver exec ds/gpu-dra-driver -- ": "in-driver-pod ",  # containers of this cluster are not real
    ".venv/bin/gpu-dra": "gpu-dra",  # wherever the tests' environment is
    '"$(hostname)"': "demo-node",
    "worker-1": "demo-node",
    "--devices nvml": "--devices fake:t4x1",
    "pod NAME": "pod driver",
    "<the image of the driver>": "registry.example.com/gpu-dra-driver:0.1.0",
}
"""What is put into a command for what only its reader has."""
STAYS = "gpu-dra run"
"""The command that serves until it is ended."""
INSTALL = f"helm install {RELEASE} deploy/chart -n {NAMESPACE} --create-namespace --wait"
POD = {
    "spec": {
        "nodeName": "elsewhere",
        "containers": [{"name": "driver", "image": "driver", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}],
    }
}
BEFORE = {
    ("docs/install.md", "sed "): f"helm uninstall {RELEASE} -n {NAMESPACE} && kubectl delete namespace {NAMESPACE}",
    (
        "docs/install.md",
        "helm upgrade",
    ): f"kubectl delete --ignore-not-found -f deploy/manifests/nvml.yaml && {INSTALL}",
    ("docs/install.md", f"kubectl -n {NAMESPACE} patch"): (
        f"kubectl -n {NAMESPACE} run driver --image=driver --overrides={shlex.quote(json.dumps(POD))}"
    ),
    ("docs/budgets.md", "apiVersion: v1"): "kubectl create namespace research-team",
    ("docs/migration.md", "helm install"): "kubectl apply -f deploy/examples/00-deviceclasses.yaml",
    ("docs/operations.md", f"kubectl -n {NAMESPACE} exec"): INSTALL,
    ("docs/monitoring.md", "gpu-dra load"): INSTALL,
}
"""What a reader has done who comes to a block by another way than past the blocks before it."""
DEVICES = ("--devices=fake:h100x8", "--partitioning=dynamic")


def begins(block: Block, key: tuple[str, str]) -> bool:
    return block.document == key[0] and block.text.lstrip().startswith(key[1])


@pytest.mark.parametrize("key", [*SHOWN, *BEFORE], ids=" ".join)
def test_what_is_said_of_a_block_is_said_of_one_that_there_is(key: tuple[str, str]) -> None:
    assert any(begins(block, key) for block in blocks(key[0]))


@pytest.mark.parametrize("here", STANDS_FOR)
def test_what_stands_for_something_stands_in_a_command(here: str) -> None:
    assert any(here in block.text for document in DOCUMENTS for block in commands(document))


def commands(document: str) -> list[Block]:
    """What a document's reader may paste."""
    return [block for block in blocks(document) if not any(begins(block, key) for key in SHOWN)]


WITH_COMMANDS = [document for document in DOCUMENTS if commands(document)]


@pytest.mark.parametrize("document", WITH_COMMANDS)
async def test_every_command_works_as_it_is_pasted(desk: Desk, document: str) -> None:
    before = dict(BEFORE)

    for block in commands(document):
        for key in [key for key in before if begins(block, key)]:
            await desk.paste(before.pop(key))
        text = translated(block.text)
        if text.startswith("apiVersion:"):
            text = f"kubectl apply --dry-run=server -f - <<'END'\n{text}\nEND"
        await (desk.serve(text) if text.startswith(STAYS) else desk.paste(text))


INLINE = re.compile(r"(?<!`)`((?:kubectl get|make|gpu-dra|\.venv/bin/gpu-dra) [^`…]+)`(?!`)")


async def test_every_command_within_a_line_works_as_well(desk: Desk) -> None:
    found = {" ".join(text.split()) for document in DOCUMENTS for text in INLINE.findall((ROOT / document).read_text())}
    within_pod = {text for text in found if text.startswith("gpu-dra ")}

    assert {text.split()[1] for text in within_pod} <= set(cli.commands)
    await desk.paste(INSTALL)
    await desk.paste("\n".join(translated(text).replace("NODE", "demo-node") for text in sorted(found - within_pod)))


def translated(text: str) -> str:
    for there, here in STANDS_FOR.items():
        text = text.replace(there, here)
    return text


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A cluster without a driver; one comes with its DaemonSet."""
    with short_directory() as root:
        async with Cluster(root) as cluster:
            desk = Desk(cluster)
            await desk.paste("kubectl delete -f deploy/manifests/fake.yaml --ignore-not-found --wait=false")
            await eventually(desk.has_no_namespace)
            controller = asyncio.create_task(desk.control_daemonsets())
            try:
                yield desk
            finally:
                controller.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await controller
                if desk.driver is not None:
                    await desk.driver.kill()


class Desk:
    """A shell in a clone, a cluster, and what a real one has beyond it: a controller of DaemonSets."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.driver: DriverProcess | None = None
        programs, config = cluster.root / "bin", cluster.root / ".kube/config"
        for directory in (programs, config.parent):
            directory.mkdir()
        cluster.server.write_kubeconfig(config)
        for name, tool in {"kubectl": "kubectl", "helm": "helm4"}.items():
            (programs / name).symlink_to(program(tool))
        node = dict(flag.removeprefix("--").split("=") for flag in (*cluster.driver_flags(), *DEVICES))
        pod = shlex.join(f"{name.replace('-', '_').upper()}={value}" for name, value in node.items())
        _script(programs / "gpu-dra", f'exec {shlex.join(gpu_dra())} "$@"')
        _script(programs / "in-driver-pod", f'exec env {pod} "$@"')
        self._environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(cluster.root),
            "KUBECONFIG": str(config),
            "HELM_DRIVER": "configmap",  # the embedded server does not decode the Secrets of a helm release
            **{
                name.replace("-", "_").upper(): value
                for name, value in node.items()
                if name in {"kubelet-plugins-dir", "kubelet-registry-dir", "cdi-root"}
            },
        }

    async def paste(self, text: str) -> str:
        """Run it as a whole; every command of it has to work."""
        shell = await self._start(text)
        output, _ = await asyncio.wait_for(shell.communicate(), PATIENCE)
        assert shell.returncode == 0, f"{text}\n{output.decode()}"
        return output.decode()

    async def serve(self, text: str) -> None:
        """Run a driver until it has published and is registered; told to end, it ends well."""
        shell = await self._start(f"exec {text} --http-port {free_port()} --health-port 0 --pod-uid by-hand")
        registry = self._cluster.registry_dir

        async def published() -> bool:
            assert shell.returncode is None
            found = await self._cluster.api.get(SLICES)
            names = {d["name"] for one in found["items"] for d in one["spec"].get("devices", ())}
            return names == {"gpu-0"} and any("by-hand" in path.name for path in registry.iterdir())

        await eventually(published)
        shell.send_signal(signal.SIGTERM)
        await asyncio.wait_for(shell.communicate(), PATIENCE)
        assert shell.returncode == 0

    async def has_no_namespace(self) -> bool:
        """Whether the driver's namespace is gone with all that was in it."""
        found = (await self._cluster.api.get("/api/v1/namespaces"))["items"]
        return NAMESPACE not in {namespace["metadata"]["name"] for namespace in found}

    async def control_daemonsets(self) -> None:
        """Start a driver for a DaemonSet and say that it runs, as soon as there is one."""
        path = "/apis/apps/v1/daemonsets"
        while True:
            found = (await self._cluster.api.get(path))["items"]
            if found and self.driver is None:
                identity.write_kubeconfig(
                    self._cluster.server, self._cluster.driver_kubeconfig, node=self._cluster.node_name
                )
                log = self._cluster.root / "driver.log"
                self.driver = await DriverProcess([*self._cluster.driver_flags(), *DEVICES], log=log).start()
                await eventually(self._ready)
            for daemonset in found:
                meta = daemonset["metadata"]
                status = {"observedGeneration": meta["generation"], "numberMisscheduled": 0}
                status |= dict.fromkeys(_COUNTS, 1)
                if daemonset.get("status") != status:
                    this = f"/apis/apps/v1/namespaces/{meta['namespace']}/daemonsets/{meta['name']}/status"
                    with contextlib.suppress(ApiError):  # somebody else has changed or deleted it meanwhile
                        await self._cluster.api.request(
                            "PATCH", this, body={"status": status}, content_type=MERGE_PATCH
                        )
            await asyncio.sleep(0.2)

    async def _ready(self) -> bool:
        assert self.driver is not None
        assert self.driver.status is None, self.driver.log
        with contextlib.suppress(OSError):
            return (await self.driver.get("/readyz"))[0] == 200
        return False

    async def _start(self, text: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "bash",
            "-euo",
            "pipefail",
            "-c",
            text,
            cwd=ROOT,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


_COUNTS = (
    "currentNumberScheduled",
    "desiredNumberScheduled",
    "numberAvailable",
    "numberReady",
    "updatedNumberScheduled",
)
