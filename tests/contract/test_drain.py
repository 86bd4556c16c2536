"""``gpu-dra drain-check``: by hand, and as the hook before an instance stops."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.kube.client import RESOURCE
from tests.eventually import PATIENCE, eventually
from tests.forked.process import gpu_dra
from tests.harness import Claims, Driver, Kubelet, NodeDirectories

if TYPE_CHECKING:
    from pathlib import Path

    from driver.kube.client import Api

NO_CLUSTER = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}


@dataclass
class Outcome:
    status: int
    said: str


class DrainCheck:
    """The command as a process of its own, as a kubelet starts it in the container."""

    def __init__(self, node: NodeDirectories) -> None:
        self._directories = (f"--kubelet-plugins-dir={node.plugins}", f"--kubelet-registry-dir={node.registry}")

    async def start(self, *flags: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *gpu_dra("drain-check"),
            *self._directories,
            *flags,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=NO_CLUSTER,
        )

    async def run(self, *flags: str) -> Outcome:
        return await self.ended(await self.start(*flags))

    @staticmethod
    async def ended(process: asyncio.subprocess.Process) -> Outcome:
        async with asyncio.timeout(PATIENCE):
            said, _ = await process.communicate()
        return Outcome(process.returncode or 0, said.decode())


async def prepared(kubelet: Kubelet, claims: Claims, name: str = "claim", device: str = "gpu-0") -> dict[str, Any]:
    claim = await claims.allocated(name, device)
    answer = await kubelet.prepare(claim)
    assert answer[claim["metadata"]["uid"]].error == ""
    return claim


async def test_a_node_without_claims_is_drained_at_once(driver: Driver, node: NodeDirectories) -> None:
    outcome = await DrainCheck(node).run("--timeout=30")

    assert outcome == Outcome(0, "no claim is prepared on this node\n")


async def test_a_node_where_no_driver_ever_was_is_drained(node: NodeDirectories) -> None:
    assert (await DrainCheck(node).run("--timeout=30")).status == 0


async def test_when_time_is_up_it_says_who_holds_what(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories
) -> None:
    await prepared(kubelet, claims)

    outcome = await DrainCheck(node).run("--timeout=0")

    assert outcome.status == 1
    assert "default/claim holds gpu-0" in outcome.said
    assert "1 claim is still prepared after 0 s" in outcome.said


async def test_pods_are_named_where_the_api_server_can_be_asked(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories, api: Api, kubeconfig: Path
) -> None:
    claim = await prepared(kubelet, claims)
    current = await claims.read(claim)
    current["status"]["reservedFor"] = [{"resource": "pods", "name": "trainer", "uid": "pod-uid"}]
    await api.request("PUT", f"{RESOURCE}/namespaces/default/resourceclaims/claim/status", body=current)

    outcome = await DrainCheck(node).run("--timeout=0", f"--kubeconfig={kubeconfig}")

    assert "default/claim holds gpu-0, for pod trainer" in outcome.said


async def test_it_ends_when_the_last_claim_does(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories
) -> None:
    first, second = await prepared(kubelet, claims), await prepared(kubelet, claims, "other", "gpu-1")
    check = await DrainCheck(node).start("--timeout=60")
    assert check.stdout is not None
    await check.stdout.readline()  # it waits

    await kubelet.unprepare(first)
    await kubelet.unprepare(second)

    outcome = await DrainCheck.ended(check)
    assert outcome.status == 0
    assert outcome.said.endswith("no claim is prepared on this node\n")


async def test_the_hook_of_the_only_instance_waits(run: Any, api: Api, claims: Claims, node: NodeDirectories) -> None:
    driver = await run(pod_uid="only")
    kubelet = Kubelet(driver.registrar)
    await prepared(kubelet, claims)

    outcome = await DrainCheck(node).run("--pod-uid=only", "--timeout=1")

    await kubelet.close()
    assert outcome.status == 1


async def test_the_hook_of_an_instance_that_has_a_successor_ends(
    run: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    old, _new = await run(pod_uid="old"), await run(pod_uid="new")
    kubelet = Kubelet(old.registrar)
    await prepared(kubelet, claims)

    outcome = await DrainCheck(node).run("--pod-uid=old", "--timeout=60")

    await kubelet.close()
    assert outcome.status == 0
    assert "another instance serves the node" in outcome.said
    assert "new-reg.sock" in outcome.said


async def test_the_hook_finds_the_successor_where_only_short_names_of_sockets_fit(
    run: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    old_uid, new_uid = (f"0c6f0f61-4a5b-4f7f-9d5e-{number:012}" for number in (1, 2))
    node.plugins, node.registry = (node.root / ("a" * 40) / name for name in ("plugins", "plugins_registry"))
    old, new = await run(pod_uid=old_uid), await run(pod_uid=new_uid)
    kubelet = Kubelet(old.registrar)
    await prepared(kubelet, claims)

    outcome = await DrainCheck(node).run(f"--pod-uid={old_uid}", "--timeout=60")

    await kubelet.close()
    assert old_uid not in old.registrar.name
    assert outcome.status == 0
    assert f"{new.registrar}" in outcome.said


async def test_two_instances_that_are_deleted_together_both_wait(
    run: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    old, _new = await run(pod_uid="old"), await run(pod_uid="new")
    kubelet = Kubelet(old.registrar)
    claim = await prepared(kubelet, claims)
    checks = [await DrainCheck(node).start(f"--pod-uid={uid}", "--timeout=60") for uid in ("old", "new")]
    await asyncio.sleep(5)  # longer than one that has a successor takes

    still_waiting = [check.returncode for check in checks]
    await kubelet.unprepare(claim)

    outcomes = [await DrainCheck.ended(check) for check in checks]
    await kubelet.close()
    assert still_waiting == [None, None]
    assert [outcome.status for outcome in outcomes] == [0, 0]
    assert not list(node.state.glob(".leaving-*"))


async def test_an_operator_may_insist_on_the_whole_node(
    run: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    old, _new = await run(pod_uid="old"), await run(pod_uid="new")
    kubelet = Kubelet(old.registrar)
    await prepared(kubelet, claims)

    outcome = await DrainCheck(node).run("--pod-uid=old", "--timeout=0", "--whole-node")

    await kubelet.close()
    assert outcome.status == 1


async def test_the_hook_does_not_keep_an_instance_that_hangs_from_its_restart(
    run: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    driver = await run(pod_uid="only")
    kubelet = Kubelet(driver.registrar)
    await prepared(kubelet, claims)
    driver.signal(signal.SIGSTOP)

    outcome = await DrainCheck(node).run("--pod-uid=only", "--timeout=60")

    driver.signal(signal.SIGCONT)
    await kubelet.close()
    assert outcome.status == 0
    assert "does not answer the kubelet" in outcome.said


async def test_a_successor_that_comes_while_the_hook_waits_ends_it(
    run: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    old = await run(pod_uid="old")
    kubelet = Kubelet(old.registrar)
    await prepared(kubelet, claims)
    check = await DrainCheck(node).start("--pod-uid=old", "--timeout=60")
    assert check.stdout is not None
    await check.stdout.readline()

    await run(pod_uid="new")

    outcome = await DrainCheck.ended(check)
    await kubelet.close()
    assert "another instance serves the node" in outcome.said


async def test_a_record_that_cannot_be_read_counts_as_in_use(node: NodeDirectories) -> None:
    (node.state / "claims").mkdir(parents=True)
    (node.state / "claims" / "some-uid.json").write_text("{")

    outcome = await DrainCheck(node).run("--timeout=0")

    assert outcome.status == 1
    assert "claim with UID some-uid, whose record is damaged" in outcome.said


async def test_records_of_an_earlier_boot_hold_nothing(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories
) -> None:
    await prepared(kubelet, claims)
    await driver.stop()
    [record] = (node.state / "claims").glob("*.json")
    record.write_text(record.read_text().replace('"bootID": "', '"bootID": "earlier-'))

    assert (await DrainCheck(node).run("--timeout=0")).status == 0


async def test_after_a_stop_nothing_of_the_check_is_left(driver: Driver, node: NodeDirectories) -> None:
    check = await DrainCheck(node).start("--pod-uid=only", "--timeout=60")
    await DrainCheck.ended(check)

    await eventually(lambda: not list(node.state.glob(".leaving-*")))
