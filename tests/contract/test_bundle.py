"""``gpu-dra bundle`` against a driver and an API server, with secrets wherever somebody may have put one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import yaml

from driver.kube.client import MERGE_PATCH, RESOURCE, claim_path
from tests.eventually import PATIENCE, eventually
from tests.forked.process import gpu_dra
from tests.harness import DRIVER, NODE, Claims, Driver, Kubelet, NodeDirectories

if TYPE_CHECKING:
    from pathlib import Path

    from driver.sim.apiserver import ApiServer

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
SECRET = "planted"
"""In every secret of these tests: nothing of an archive may have it."""
JWT = f"eyJhbGciOiJSUzI1NiJ9.{SECRET}eyJpc3MiOiJr.{SECRET}c2lnbmF0dXJl"


class Bundle:
    """An archive, by the name of a file below its directory."""

    def __init__(self, content: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            members = archive.getmembers()
            self.top = members[0].name.partition("/")[0]
            self.files = {
                member.name.removeprefix(f"{self.top}/"): archive.extractfile(member).read().decode()  # type: ignore[union-attr]
                for member in members
            }

    def json(self, name: str) -> Any:
        return json.loads(self.files[name])


async def made(node: NodeDirectories, *flags: str, **environment: str) -> Bundle:
    """Run the command as a process that writes to standard output."""
    outcome = await asyncio.to_thread(
        subprocess.run,
        [
            *gpu_dra("bundle", "-o", "-"),
            f"--kubelet-plugins-dir={node.plugins}",
            f"--kubelet-registry-dir={node.registry}",
            f"--cdi-root={node.cdi}",
            f"--node-name={NODE}",
            "--devices=fake:h100x8",
            *flags,
        ],
        capture_output=True,
        check=False,
        env={**ENVIRONMENT, **environment},
        timeout=PATIENCE,
    )
    assert outcome.returncode == 0, outcome.stderr.decode()
    return Bundle(outcome.stdout)


async def test_it_has_what_whoever_reads_a_bug_report_asks_for(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories, server: ApiServer
) -> None:
    claim = await claims.allocated("claim", "gpu-0")
    uid = claim["metadata"]["uid"]
    await kubelet.notify(registered=True)
    await kubelet.prepare(claim)
    await eventually(driver.ready)
    admin = server.write_kubeconfig(node.root / "bundle.kubeconfig")

    seen = await made(node, "--scope=both", f"--kubeconfig={admin}", f"--http-port={driver.http_port}")

    assert seen.top.startswith(f"gpu-dra-bundle-{NODE}-20")
    assert seen.json("versions.json")["gpu-dra-driver"]
    assert seen.json("versions.json")["libraries"]["aiohttp"]
    assert seen.json("settings.json")["cdi_root"] == str(node.cdi)
    assert seen.json("status.json")["preparedClaims"] == 1
    assert "\ngpu_dra_" in seen.files["metrics.txt"]
    assert seen.json("hardware.json")["driver_version"]
    assert seen.json("offered.json")["slices"][0]["spec"]["devices"][0]["name"] == "gpu-0"
    assert seen.json(f"records/{uid}.json")["devices"][0]["device"] == "gpu-0"
    [spec] = [name for name in seen.files if name.startswith("cdi/")]
    assert seen.json(spec)["devices"][0]["containerEdits"]
    assert f"{DRIVER}/claims/{uid}.json\n" in seen.files["files.txt"]
    assert "registered and has published" in seen.files["doctor-node.txt"]
    assert "node-1 offers 8 devices" in seen.files["doctor-cluster.txt"]
    assert [found["metadata"]["name"] for found in seen.json("cluster/claims.json")] == ["claim"]
    assert seen.json("cluster/slices.json")[0]["spec"]["devices"]
    assert seen.json("cluster/version.json")["apiServer"].startswith("v1.")
    [log] = [text for name, text in seen.files.items() if name.startswith("logs/")]
    assert "prepared" in log


async def test_with_the_drivers_own_credentials_its_claims_are_read_one_by_one_and_what_is_missing_is_said(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories, kubeconfig: Path
) -> None:
    await kubelet.prepare(await claims.allocated("held", "gpu-0"))
    await claims.allocated("elsewhere", "gpu-1")

    seen = await made(node, "--scope=both", f"--kubeconfig={kubeconfig}", f"--http-port={driver.http_port}")

    assert [found["metadata"]["name"] for found in seen.json("cluster/claims.json")] == ["held"]
    assert "cluster/pods: these credentials may not" in seen.files["missing.txt"]


async def test_a_node_on_which_nothing_can_be_read(node: NodeDirectories) -> None:
    node.cdi.rmdir()

    seen = await made(node, "--scope=both", "--kubeconfig=/nowhere", "--devices=nvml", "--driver-root=/nowhere")

    assert seen.json("versions.json")
    for what in ("cdi", "cluster", "hardware.json", "logs", "status.json and metrics.txt"):
        assert f"\n{what}" in f"\n{seen.files['missing.txt']}"


async def test_a_driver_that_hangs_costs_its_pages_only(driver: Driver, node: NodeDirectories) -> None:
    driver.signal(signal.SIGSTOP)

    seen = await made(node, f"--http-port={driver.http_port}")

    driver.signal(signal.SIGCONT)
    assert "status.json" not in seen.files
    assert "does not answer" in " ".join(seen.files["doctor-node.txt"].split())
    assert any(name.startswith("logs/") for name in seen.files)


async def test_nothing_secret_is_in_it_wherever_it_was_put(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories, server: ApiServer
) -> None:
    claim = await claims.allocated("claim", "gpu-0")
    await kubelet.prepare(claim)
    admin = server.write_kubeconfig(node.root / "bundle.kubeconfig")
    token = await plant(node, claims, claim, admin, driver)

    seen = await made(
        node,
        "--scope=both",
        f"--kubeconfig={admin}",
        f"--http-port={driver.http_port}",
        AWS_SECRET_ACCESS_KEY=f"{SECRET}-in-the-environment",
        SOME_VARIABLE=f"{SECRET}-in-another-variable",
    )

    assert {"cluster/claims.json", "cluster/pods.json", f"records/{claim['metadata']['uid']}.json"} <= set(seen.files)
    assert [text for name, text in seen.files.items() if name.startswith("logs/") and "log-is-here" in text]
    assert seen.files["missing.txt"].count("records: 1 cannot be read") == 1
    for name, text in seen.files.items():
        assert SECRET not in text, name
        assert token not in text, name


async def plant(node: NodeDirectories, claims: Claims, claim: dict[str, Any], admin: Path, driver: Driver) -> str:
    """Put a secret wherever somebody may have; returns the token of the kubeconfig."""
    api, metadata = claims.api, claim["metadata"]
    annotations = {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"env": [{"name": "A", "value": SECRET}]}),
        "example.com/note": SECRET,
    }
    path = claim_path(metadata["namespace"], metadata["name"])
    labels = {"example.com/label": SECRET}
    patch = {"metadata": {"annotations": annotations, "labels": labels}}
    await api.request("PATCH", path, body=patch, content_type=MERGE_PATCH)
    odd = await api.request(
        "POST",
        f"{RESOURCE}/namespaces/default/resourceclaims",
        body={
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": "odd", "namespace": "default"},
            "spec": {"devices": {"requests": [{"name": "req-0", "exactly": {"deviceClassName": DRIVER}}]}},
        },
    )
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "password": SECRET}
    config = [
        {"source": "FromClaim", "opaque": {"driver": name, "parameters": value}}
        for name, value in ((DRIVER, parameters), ("other.example.com", {"key": SECRET}))
    ]
    result = {"request": "req-0", "driver": DRIVER, "pool": NODE, "device": "gpu-1"}
    await claims.allocate(odd, [result], config)
    pod = await api.request(
        "POST",
        "/api/v1/namespaces/default/pods",
        body={
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "user", "namespace": "default", "annotations": annotations, "labels": labels},
            "spec": {
                "nodeName": NODE,
                "containers": [
                    {
                        "name": "main",
                        "image": "program",
                        "command": ["program", f"--password={SECRET}"],
                        "args": [SECRET],
                        "env": [{"name": "DATABASE", "value": SECRET}],
                    }
                ],
                "resourceClaims": [{"name": "gpu", "resourceClaimName": metadata["name"]}],
            },
        },
    )
    current = await api.get(path)
    current["status"]["reservedFor"] = [{"resource": "pods", "name": "user", "uid": pod["metadata"]["uid"]}]
    await api.request("PUT", f"{path}/status", body=current)

    access = yaml.safe_load(admin.read_text(encoding="utf-8"))
    user = access["users"][0]["user"]
    token = str(user["token"])
    access["users"].append({"name": "other", "user": {"username": "u", "password": f"{SECRET}-password"}})
    admin.write_text(yaml.safe_dump(access), encoding="utf-8")

    [record] = (node.state / "claims").glob("*.json")
    document = json.loads(record.read_text())
    document["fromTheFuture"] = {"env": SECRET}
    document["devices"][0]["fromTheFuture"] = SECRET
    record.write_text(json.dumps(document))
    (node.state / "claims" / "0-0.json").write_text(json.dumps({"claim": {"uid": SECRET}, "schema": [SECRET]}))
    [spec] = node.cdi.glob("k8s.*.json")
    document = json.loads(spec.read_text())
    document["devices"][0]["containerEdits"].setdefault("env", []).append(f"HOME={SECRET}")
    document["annotations"] = {"note": SECRET}
    spec.write_text(json.dumps(document))
    (node.state / "notes.txt").write_text(SECRET)

    pem = base64.b64encode(SECRET.encode() * 9).decode()
    with driver.log_path.open("a") as log:
        log.write(
            "log-is-here\n"
            f"Authorization: Bearer {JWT}\n"
            f'{{"message": "refused", "headers": "Authorization: bearer {SECRET}abc", "token": "{SECRET}"}}\n'
            f"{{'password': '{SECRET}'}} AWS_SECRET_ACCESS_KEY={SECRET} password={SECRET} --token {SECRET}\n"
            f"the token is {token} and {JWT}\n"
            f"https://user:{SECRET}@proxy.example.com/\n"
            f"-----BEGIN RSA PRIVATE KEY-----\n{pem}\n{SECRET}\n-----END RSA PRIVATE KEY-----\n"
            f"{SECRET}-in-the-environment {SECRET}-password\n"
        )
    return token
