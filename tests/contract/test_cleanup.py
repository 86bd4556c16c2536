"""``gpu-dra cleanup``: nothing of the driver is left, and nothing else is touched."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from driver.base.files import temporary_name
from driver.kube.client import RESOURCE
from tests.eventually import PATIENCE, eventually
from tests.forked.process import gpu_dra
from tests.harness import DRIVER, NODE, Claims, Driver, Kubelet, NodeDirectories

if TYPE_CHECKING:
    from pathlib import Path

    from driver.kube.client import Api

NO_CLUSTER = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}


def cleanup(node: NodeDirectories, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *gpu_dra("cleanup"),
            f"--kubelet-plugins-dir={node.plugins}",
            f"--kubelet-registry-dir={node.registry}",
            f"--cdi-root={node.cdi}",
            "--devices=fake:h100x8",
            *flags,
        ],
        capture_output=True,
        text=True,
        check=False,
        env=NO_CLUSTER,
        timeout=PATIENCE,
    )


def files(node: NodeDirectories) -> list[str]:
    """Everything in the three directories."""
    directories = (node.plugins, node.registry, node.cdi)
    return sorted(str(path.relative_to(node.root)) for top in directories for path in top.rglob("*"))


async def test_after_a_driver_with_claims_nothing_is_left_once_they_are_gone(
    run: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    driver: Driver = await run("--device-metadata", "--partitioning=dynamic", pod_uid="one")
    kubelet = Kubelet(driver.registrar)
    await kubelet.notify(registered=True)
    await eventually(driver.ready)
    for name in ("first", "second"):
        claim = await claims.allocated(name, "gpu-0")
        await kubelet.prepare(claim)
        await kubelet.unprepare(claim)
    await kubelet.close()
    await driver.kill()

    outcome = cleanup(node)

    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.endswith("nothing of the driver is left on this node\n")
    assert files(node) == []


async def test_a_dry_run_says_the_same_and_does_nothing(driver: Driver, node: NodeDirectories) -> None:
    await driver.kill()
    before = files(node)

    dry, wet = cleanup(node, "--dry-run"), cleanup(node)

    assert dry.returncode == 0
    assert before
    assert dry.stdout.replace("would remove", "removed").splitlines()[:-1] == wet.stdout.splitlines()[:-1]


async def test_a_driver_that_runs_is_left_alone(driver: Driver, node: NodeDirectories) -> None:
    before = files(node)

    outcome = cleanup(node)

    assert outcome.returncode == 1
    assert f"an instance of the driver listens on {driver.registrar}" in outcome.stderr
    assert set(before) <= set(files(node))


async def test_prepared_claims_are_named_and_kept(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories
) -> None:
    await kubelet.prepare(await claims.allocated("claim", "gpu-0"))
    await driver.kill()
    before = files(node)

    outcome = cleanup(node)

    assert outcome.returncode == 1
    assert "in use: default/claim holds gpu-0" in outcome.stderr
    assert files(node) == before


async def test_force_undoes_partitions_before_it_removes_their_records(
    run: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    driver: Driver = await run("--partitioning=dynamic")
    kubelet = Kubelet(driver.registrar)
    await eventually(driver.answers)
    claim = await claims.allocated("claim", "gpu-0-mig-1g10gb-19-0")
    answer = await kubelet.prepare(claim)
    assert answer[claim["metadata"]["uid"]].error == ""
    await kubelet.close()
    await driver.kill()

    # Another name for the fake hardware's file, so that it outlives the cleanup as real hardware does.
    kept = node.root / "kept.json"
    os.link(node.state / "fake-hardware.json", kept)
    outcome = cleanup(node, "--force")

    assert outcome.returncode == 0, outcome.stderr
    assert files(node) == []
    removed = [line for line in outcome.stdout.splitlines() if "fake-hardware.json (" in line]
    assert removed


async def test_a_partition_that_cannot_be_undone_is_named_and_stays_on_record(
    run: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    driver: Driver = await run("--partitioning=dynamic")
    kubelet = Kubelet(driver.registrar)
    claim = await claims.allocated("claim", "gpu-0-mig-1g10gb-19-0")
    await kubelet.prepare(claim)
    await kubelet.close()
    await driver.kill()
    [record] = (node.state / "claims").glob("*.json")
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "state": "undoing"}))

    broken = cleanup(node, "--devices=fake:/nonexistent.yaml")
    records = node.records()
    forced = cleanup(node, "--devices=fake:/nonexistent.yaml", "--force")

    assert broken.returncode == 1
    assert "gpu-0-mig-1g10gb-19-0 (1g.10gb at memory slice 0" in broken.stderr
    assert records == [record.name]
    assert forced.returncode == 1
    assert "not undone" in forced.stderr
    assert files(node) == []


@pytest.mark.parametrize("force", [False, True])
async def test_what_is_not_ours_stays(driver: Driver, node: NodeDirectories, force: bool) -> None:
    await driver.kill()
    elsewhere = node.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.json").write_text("{}")
    foreign = {
        node.plugins / "nic.example.com": "directory",
        node.state / "checkpoint.json": "file",
        node.cdi / "nvidia.yaml": "file",
        node.cdi / f"k8s.{DRIVER}-claim_link.json": "link",
        node.state / "claims" / "link": "link",
        node.state / "dra-device-metadata": "link to directory",
        node.registry / "nic.example.com-reg.sock": "file",
    }
    for path, kind in foreign.items():
        if kind == "directory":
            path.mkdir()
        elif kind == "file":
            path.write_text("not ours")
        else:
            path.symlink_to(elsewhere / "precious.json" if kind == "link" else elsewhere)

    outcome = cleanup(node, *(["--force"] if force else []))

    assert outcome.returncode == 1
    assert {path for path in foreign if path.is_symlink() or path.exists()} == set(foreign)
    assert (elsewhere / "precious.json").read_text() == "{}"
    assert "checkpoint.json: not known as this driver's" in outcome.stderr
    assert "claims/link: a link" in outcome.stderr


async def test_our_names_with_other_content_stay_unless_forced(node: NodeDirectories) -> None:
    spec = node.cdi / f"k8s.{DRIVER}-claim_some-uid.json"
    spec.write_text('{"kind": "vendor.com/gpu"}')

    careful, forced = cleanup(node), cleanup(node, "--force")

    assert careful.returncode == 1
    assert "it has the name of a CDI spec, and not the content" in careful.stderr
    assert forced.returncode == 0
    assert not spec.exists()


async def test_everything_that_killed_instances_and_former_versions_leave_is_ours(node: NodeDirectories) -> None:
    uid = "0f5c1a52-7d0f-4b0c-9a5e-2f3f6f0f7a11"
    claims, quarantine, staging = node.state / "claims", node.state / "quarantine", node.cdi / f".{DRIVER}"
    metadata = node.state / "dra-device-metadata" / uid / "request"
    for directory in (claims, quarantine, staging, metadata):
        directory.mkdir(parents=True)
    left = [
        *(claims / name for name in (temporary_name(f"{uid}.json"), f"{uid}.tmp", f"{uid}.0123abcd.tmp")),
        *(quarantine / f"{uid}{end}" for end in (".0123abcd.json", ".0123abcd.json.odd", ".ended")),
        quarantine / temporary_name(f"{uid}.ended"),
        *(staging / name(f"k8s.{DRIVER}-claim_{uid}.json") for name in (str, temporary_name)),
        *(metadata / name for name in (temporary_name("metadata.json"), "metadata.tmp")),
        *(node.state / temporary_name(f"{name}.json") for name in ("conditions", "device-names", "fake-hardware")),
        *(node.state / name for name in (".conditions.json.1", ".device-names.json.new", ".fake-hardware.json.new")),
    ]
    for path in left:
        path.touch()
    os.mkfifo(quarantine / f"{uid}.4567abcd.json.odd")
    (quarantine / f"{uid}.89ababcd.json.odd").symlink_to(node.root)

    outcome = cleanup(node)

    assert outcome.returncode == 0, outcome.stderr
    assert files(node) == []
    assert node.root.exists()


@pytest.mark.parametrize(
    "content",
    [
        '{"kind": "DeviceMetadata", "apiVersion": "x/v2"}\n{"kind": "DeviceMetadata"}\n',
        '{\n  "kind": "DeviceMetadata"\n}\n',
    ],
    ids=["stream", "former version"],
)
async def test_device_metadata_is_known_by_its_content(node: NodeDirectories, content: str) -> None:
    directory = node.state / "dra-device-metadata" / "0f5c1a52-7d0f-4b0c-9a5e-2f3f6f0f7a11" / "gpu"
    directory.mkdir(parents=True)
    (directory / "metadata.json").write_text(content)

    outcome = cleanup(node)

    assert outcome.returncode == 0, outcome.stderr
    assert files(node) == []


async def test_a_node_that_was_never_used_is_clean(node: NodeDirectories) -> None:
    assert cleanup(node).returncode == 0


async def test_with_cluster_our_slices_go_and_others_stay(
    run: Any, api: Api, node: NodeDirectories, kubeconfig: Path
) -> None:
    driver: Driver = await run()
    await Kubelet(driver.registrar).notify(registered=True)
    await eventually(driver.ready)
    await driver.kill()
    [ours] = (await api.get(f"{RESOURCE}/resourceslices"))["items"]
    other = {**ours, "metadata": {"name": f"00000-{DRIVER}-{NODE}-x7k2p"}}
    await api.request("POST", f"{RESOURCE}/resourceslices", body=other)

    cluster = ("--cluster", f"--node-name={NODE}", f"--kubeconfig={kubeconfig}")
    dry = await asyncio.to_thread(cleanup, node, "--dry-run", *cluster)
    wet = await asyncio.to_thread(cleanup, node, *cluster)

    left = [item["metadata"]["name"] for item in (await api.get(f"{RESOURCE}/resourceslices"))["items"]]
    assert f"would delete ResourceSlice {ours['metadata']['name']}" in dry.stdout
    assert wet.returncode == 0, wet.stderr
    assert left == [other["metadata"]["name"]]


def test_the_cluster_side_needs_a_node(node: NodeDirectories) -> None:
    outcome = cleanup(node, "--cluster")

    assert outcome.returncode == 2
    assert "--node-name" in outcome.stderr
