"""A real kubectl, where there is one."""

import asyncio
import os
from pathlib import Path

import pytest
import yaml

from driver.sim import identity
from tests.eventually import PATIENCE
from tests.needs import KUBECTL, NO_KUBECTL
from tests.unit.sim_apiserver.cluster import claim, pod, resource_slice

pytestmark = pytest.mark.skipif(KUBECTL is None, reason=NO_KUBECTL)

CLASS = {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "gpu.example.com"}, "spec": {}}
TYPES = {
    "ResourceClaim": ("resource.k8s.io/v1", claim()),
    "ResourceSlice": ("resource.k8s.io/v1", resource_slice(devices=[{"name": "gpu-0"}])),
    "Node": ("v1", {"metadata": {"name": "node-1"}}),
    "Pod": ("v1", pod(nodeName="node-1", terminationGracePeriodSeconds=0)),
}
MANIFEST = yaml.safe_dump_all([CLASS, *({"apiVersion": v, "kind": k, **body} for k, (v, body) in TYPES.items())])


@pytest.fixture
async def kubectl(server, tmp_path):
    config = server.write_kubeconfig(tmp_path / "kubeconfig")

    async def run(*arguments: str, stdin: str = "", code: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            str(KUBECTL),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"KUBECONFIG": str(config), "HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        )
        output, _ = await asyncio.wait_for(process.communicate(stdin.encode()), PATIENCE)
        assert process.returncode == code, output.decode()
        return output.decode()

    return run


async def test_apply_twice_and_delete(kubectl) -> None:
    first = await kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert first.count(" created\n") == 5
    assert "pod/pod unchanged" in await kubectl("apply", "-f", "-", stdin=MANIFEST)
    deleted = await kubectl("delete", "-f", "-", "--timeout=60s", stdin=MANIFEST)
    assert deleted.count(" deleted") == 5


async def test_server_side_apply(kubectl) -> None:
    for _ in range(2):
        applied = await kubectl("apply", "--server-side", "-f", "-", stdin=MANIFEST)
        assert applied.count(" serverside-applied\n") == 5


async def test_get_shows_the_columns_of_a_real_cluster(kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert (await kubectl("get", "resourceclaims")).split("\n")[0].split() == ["NAME", "STATE", "AGE"]
    assert (await kubectl("get", "resourceslices")).split("\n")[1].split()[:4] == [
        "slice",
        "node-1",
        "gpu.example.com",
        "node-1",
    ]
    assert (await kubectl("get", "pods")).split("\n")[1].split()[:4] == ["pod", "0/1", "Pending", "0"]


@pytest.mark.parametrize("what", ["pod/pod", "node/node-1", "resourceclaim/claim", "resourceslice/slice"])
async def test_describe(kubectl, what: str) -> None:
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert f"Name:{' ' * 0}" in await kubectl("describe", what)


async def test_label_patch_and_annotate(kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    await kubectl("label", "pod", "pod", "a=b")
    await kubectl("patch", "resourceclaim", "claim", "--type=merge", "-p", '{"metadata":{"labels":{"a":"b"}}}')
    assert await kubectl("get", "pods,resourceclaims", "-l", "a=b", "-o", "name") == (
        "pod/pod\nresourceclaim.resource.k8s.io/claim\n"
    )


async def test_an_unknown_field_is_refused(kubectl) -> None:
    bad = yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "dta": {}})
    assert 'unknown field "dta"' in await kubectl("apply", "-f", "-", stdin=bad, code=1)


async def test_create_namespace(kubectl) -> None:
    assert await kubectl("create", "namespace", "team") == "namespace/team created\n"


async def test_run_and_wait(kubectl) -> None:
    await kubectl("run", "one", "--image=busybox", "--restart=Never")
    await kubectl("wait", "pod/one", "--for=jsonpath={.status.phase}=Pending", "--timeout=60s")


async def test_the_plain_manifests_are_rehearsed_and_applied(kubectl) -> None:
    manifest = Path(__file__).parents[3] / "deploy" / "manifests" / "fake.yaml"
    await kubectl("create", "namespace", "gpu-dra-driver")
    rehearsed = await kubectl("apply", "--dry-run=server", "--server-side", "-f", str(manifest))
    assert "daemonset.apps/gpu-dra-driver serverside-applied (server dry run)\n" in rehearsed
    assert await kubectl("get", "daemonsets", "-A", "-o", "name") == ""
    applied = await kubectl("apply", "-f", str(manifest))
    assert "validatingadmissionpolicybinding.admissionregistration.k8s.io/gpu-dra-driver-slices created\n" in applied


async def test_can_i(server, kubectl) -> None:
    identity.install(server)
    driver = f"--as={identity.username()}"
    assert await kubectl("auth", "can-i", "get", "resourceclaims.resource.k8s.io", driver) == "yes\n"
    assert await kubectl("auth", "can-i", "list", "resourceclaims.resource.k8s.io", driver, code=1) == "no\n"
    assert identity.username() in await kubectl("auth", "whoami", driver)


async def test_roles(kubectl) -> None:
    await kubectl("create", "role", "reader", "--verb=get", "--resource=pods")
    await kubectl("create", "rolebinding", "reader", "--role=reader", "--user=jane")
    assert await kubectl("auth", "can-i", "get", "pods", "--as=jane") == "yes\n"
    await kubectl("create", "serviceaccount", "driver")
