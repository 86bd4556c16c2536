"""Bad input and bad luck on the real sockets: always an answer for each UID, never a file that is not ours."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from driver.wire import dra_v1_pb2 as dra
from driver.wire import dra_v1_pb2_grpc
from tests.eventually import PATIENCE, eventually
from tests.harness import DRIVER, NODE, Claims, Driver, Kubelet, NodeDirectories, read_spec
from tests.needs import NO_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from driver.kube.client import Api
    from driver.sim.apiserver import ApiServer

NOBODY = "0c6f0f61-4a5b-4f7f-9d5e-1f8f1f1f1f1f"


def reference(*, namespace: str = "default", name: str = "claim", uid: str = NOBODY) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "name": name, "uid": uid}}


def files(node: NodeDirectories) -> set[str]:
    """All files of the node, but for the logs and what is written down of the devices as such."""
    devices = ("fake-hardware", "device-names")
    found = (path for path in node.root.rglob("*") if path.suffix != ".log")
    return {str(path) for path in found if not any(name in path.name for name in devices)}


async def prepare_error(kubelet: Kubelet, claim: dict[str, Any]) -> str:
    return str((await kubelet.prepare(claim))[claim["metadata"]["uid"]].error)


async def test_a_claim_that_does_not_exist(driver: Driver, kubelet: Kubelet) -> None:
    assert await prepare_error(kubelet, reference()) == "claim default/claim does not exist (any more)"


async def test_a_claim_that_was_replaced(driver: Driver, kubelet: Kubelet, claims: Claims) -> None:
    old = await claims.allocated("claim", "gpu-0")
    await claims.delete(old)
    new = await claims.allocated("claim", "gpu-0")

    error = await prepare_error(kubelet, old)

    assert error.startswith("claim default/claim has been replaced")
    assert old["metadata"]["uid"] in error
    assert new["metadata"]["uid"] in error


async def test_a_claim_that_is_not_allocated(driver: Driver, kubelet: Kubelet, claims: Claims) -> None:
    claim = await claims.deallocate(await claims.allocated("claim", "gpu-0"))

    assert "default/claim is not allocated" in await prepare_error(kubelet, claim)


async def test_a_claim_of_another_driver(driver: Driver, kubelet: Kubelet, claims: Claims) -> None:
    claim = await claims.allocated("claim", "gpu-0", driver="other.example.com")

    assert f"has no device of driver {DRIVER}" in await prepare_error(kubelet, claim)


@pytest.mark.parametrize(("device", "pool"), [("gpu-99", NODE), ("gpu-0", "elsewhere")])
async def test_a_device_that_this_node_does_not_have(
    driver: Driver, kubelet: Kubelet, claims: Claims, device: str, pool: str
) -> None:
    claim = await claims.allocated("claim", device, pool=pool)

    error = await prepare_error(kubelet, claim)

    assert f"'{device}'" in error
    assert f"'{pool}'" in error
    assert "gpu-7" in error  # what there is


BAD_UIDS = ["../../../../tmp/evil", "a/b", "..", ".", "", "a\x00b", "a b", "ü", "x" * 10_240, "-", f"{NOBODY}\n"]
BAD_NAMES = ["../../nodes/node-1", "a/b", "..", "", "x" * 10_240, "a?b", "a%2fb", "A", "a\x00b"]


async def test_a_uid_that_is_not_one_is_refused_and_touches_no_file(
    driver: Driver, kubelet: Kubelet, node: NodeDirectories
) -> None:
    before = files(node)
    bad = [reference(uid=uid) for uid in BAD_UIDS]

    prepared = await kubelet.prepare(*bad)
    unprepared = await kubelet.unprepare(*bad)

    for answers in (prepared, unprepared):
        assert set(answers) == set(BAD_UIDS)
        assert all("claim UID" in answer.error and len(answer.error) < 300 for answer in answers.values())
    assert files(node) == before


@pytest.mark.parametrize("where", ["namespace", "name"])
async def test_a_name_that_is_not_one_is_refused_and_never_becomes_a_path(
    driver: Driver, kubelet: Kubelet, where: str, server: ApiServer
) -> None:
    bad = [reference(**{where: value, "uid": str(uuid.uuid4())}) for value in BAD_NAMES]

    answers = await kubelet.prepare(*bad)

    assert len(answers) == len(BAD_NAMES)
    assert all(f"claim {where}" in answer.error and len(answer.error) < 300 for answer in answers.values())
    assert ("get", "resourceclaims") not in server.requests


async def test_a_thousand_claims_in_one_request_each_get_an_answer(
    driver: Driver, kubelet: Kubelet, claims: Claims
) -> None:
    good = await claims.allocated("good", "gpu-0")
    missing = [reference(name=f"missing-{n}", uid=str(uuid.uuid4())) for n in range(997)]
    bad = [reference(uid="../evil"), reference(uid="x" * 10_240)]

    answers = await kubelet.prepare(*missing[:500], good, *bad, *missing[500:])

    assert len(answers) == 1000
    assert [uid for uid, answer in answers.items() if not answer.error] == [good["metadata"]["uid"]]
    assert all("does not exist" in answers[claim["metadata"]["uid"]].error for claim in missing)
    assert await driver.answers()


async def test_a_thousand_claims_that_were_never_prepared_are_unprepared(driver: Driver, kubelet: Kubelet) -> None:
    unknown = [reference(name=f"claim-{n}", uid=str(uuid.uuid4())) for n in range(1000)]

    answers = await kubelet.unprepare(*unknown)

    assert {uid: answer.error for uid, answer in answers.items()} == {c["metadata"]["uid"]: "" for c in unknown}


async def test_the_same_claim_many_times_in_one_request_is_prepared_once(
    driver: Driver, kubelet: Kubelet, claims: Claims
) -> None:
    claim = await claims.allocated("claim", "gpu-0")

    answers = await kubelet.prepare(*[claim] * 50)

    assert [answer.error for answer in answers.values()] == [""]
    assert len(driver.messages("prepared claim")) == 1


async def test_an_empty_request_has_an_empty_answer(driver: Driver, kubelet: Kubelet) -> None:
    assert (await kubelet.prepare(), await kubelet.unprepare()) == ({}, {})


async def test_bytes_that_are_no_message_are_refused_and_the_driver_serves_on(
    driver: Driver, kubelet: Kubelet, claims: Claims
) -> None:
    import grpc.aio

    channel = await kubelet.connect()
    path = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources"
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary(path)(b"\xff\xff\xff\xff garbage", timeout=PATIENCE)

    assert await prepare_error(kubelet, await claims.allocated("claim", "gpu-0")) == ""


async def test_fields_of_a_newer_kubelet_are_ignored(driver: Driver, kubelet: Kubelet, claims: Claims) -> None:
    claim = await claims.allocated("claim", "gpu-0")
    metadata = claim["metadata"]
    message = dra.Claim(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])
    newer = message.SerializeToString() + b"\xaa\x06\x03new"  # field 101
    request = dra.NodePrepareResourcesRequest(claims=[dra.Claim.FromString(newer)])
    stub = dra_v1_pb2_grpc.DRAPluginStub(await kubelet.connect())

    answer = await stub.NodePrepareResources(request, timeout=PATIENCE)

    assert answer.claims[metadata["uid"]].error == ""


@pytest.fixture
def small_cdi_root(node: NodeDirectories) -> Iterator[Path]:
    """The CDI directory as a file system of its own of 64 KiB."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip(NO_ROOT)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(node.cdi)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(NO_ROOT)
    try:
        yield node.cdi
    finally:
        subprocess.run(["umount", "-l", str(node.cdi)], check=True)


async def test_a_full_cdi_directory_is_an_error_of_the_claim_and_the_next_try_succeeds(
    small_cdi_root: Path, driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories
) -> None:
    claim = await claims.allocated("claim", "gpu-0")
    ballast = small_cdi_root / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()

    error = await prepare_error(kubelet, claim)
    ballast.unlink()

    assert error.startswith("cannot write CDI spec")
    assert os.strerror(errno.ENOSPC) in error
    assert await prepare_error(kubelet, claim) == ""
    assert read_spec(node, claim)["devices"]


async def test_a_read_only_cdi_directory_is_an_error_of_the_claim_and_the_next_try_succeeds(
    small_cdi_root: Path, driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories
) -> None:
    before = await claims.allocated("before", "gpu-1")
    assert await prepare_error(kubelet, before) == ""
    claim = await claims.allocated("claim", "gpu-0")
    remount(small_cdi_root, "ro")

    error = await prepare_error(kubelet, claim)
    again = await prepare_error(kubelet, before)
    ended = (await kubelet.unprepare(before))[before["metadata"]["uid"]].error
    remount(small_cdi_root, "rw")

    assert error.startswith("cannot write CDI spec")
    assert os.strerror(errno.EROFS) in error
    assert again == ""  # nothing has to be written for it
    assert ended == ""  # a pod can always end
    assert await prepare_error(kubelet, claim) == ""
    assert (await kubelet.unprepare(before))[before["metadata"]["uid"]].error == ""


async def test_a_driver_starts_with_a_read_only_cdi_directory_and_works_when_that_has_ended(
    small_cdi_root: Path, run: Any, api: Api, claims: Claims
) -> None:
    remount(small_cdi_root, "ro")
    driver = await run()
    kubelet = Kubelet(driver.registrar)
    claim = await claims.allocated("claim", "gpu-0")
    error = await prepare_error(kubelet, claim)

    remount(small_cdi_root, "rw")

    assert os.strerror(errno.EROFS) in error
    assert await prepare_error(kubelet, claim) == ""
    await kubelet.close()


async def test_a_state_directory_that_is_full_or_broken_is_an_error_of_the_claim(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories
) -> None:
    claim = await claims.allocated("claim", "gpu-0")
    directory = node.state / "claims"
    aside = directory.rename(node.state / "aside")
    directory.write_text("not a directory")

    error = await prepare_error(kubelet, claim)
    directory.unlink()
    aside.rename(directory)

    assert str(directory) in error
    assert node.specs() == []
    assert await prepare_error(kubelet, claim) == ""


async def test_a_damaged_record_is_set_aside_at_start_and_the_claim_prepared_again(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories, run: Any
) -> None:
    claim = await claims.allocated("claim", "gpu-0")
    before = await kubelet.prepare(claim)
    await driver.kill()
    [name] = node.records()
    (node.state / "claims" / name).write_text('{"half a rec')

    successor = await run()

    again = Kubelet(successor.registrar)
    assert await again.prepare(claim) == before
    assert successor.said("a damaged claim record was set aside")
    await again.close()


async def test_the_token_is_not_in_the_log(
    run: Any, api: Api, node: NodeDirectories, kubeconfig: Path, server: ApiServer
) -> None:
    server.write_kubeconfig(kubeconfig, token="not-for-everybody")

    driver = await run("--log-level=debug")

    await eventually(lambda: driver.said("Unauthorized"))
    assert "not-for-everybody" not in driver.log


def remount(path: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(path)], check=True)
