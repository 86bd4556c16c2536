"""``gpu-dra top`` on a desk: what it reads with which permissions, and what it says of what it may not read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from driver.sim.apiserver import ApiServer
from tests.eventually import PATIENCE, eventually
from tests.forked.process import gpu_dra
from tests.signals import HEARS
from tests.unit.cluster.world import claim, pod, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RBAC = {"apiVersion": "rbac.authorization.k8s.io/v1"}
KINDS = {"driver": ("resource.k8s.io/v1", "ResourceSlice"), "resourceClaims": ("v1", "Pod")}
PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
READS = ["get", "list", "watch"]


def put(server: ApiServer, *objects: dict[str, Any]) -> None:
    """The objects are there, with what a scheduler and a kubelet have written into them."""
    for obj in objects:
        spec, metadata = obj.get("spec", {}), obj["metadata"]
        version, kind = next((KINDS[key] for key in KINDS if key in spec), ("resource.k8s.io/v1", "ResourceClaim"))
        metadata.pop("resourceVersion", None)
        server.engine.store.put(
            f"{kind.lower()}s",
            (metadata.get("namespace", ""), metadata["name"]),
            {"apiVersion": version, "kind": kind, **obj},
        )


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        put(server, *slices(), claim("train", "gpu-0", pods=("train-0",)), pod("train-0"))
        yield server


class Desk:
    """The command as a person runs it, with a kubeconfig or without."""

    def __init__(self, home: Path) -> None:
        self.command = gpu_dra("top")
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(home), "COLUMNS": "80"}

    async def start(
        self, *arguments: str, on: int = asyncio.subprocess.PIPE, **environment: str
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *HEARS,
            *self.command,
            *arguments,
            env={**self._environment, **environment},
            stdout=on,
            stderr=asyncio.subprocess.PIPE,
        )

    async def top(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit status, and what it says: on its output if all is well, as one line of an error if not."""
        process = await self.start(*arguments, **environment)
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
        assert not (out and err), err.decode()
        return process.returncode or 0, (out or err).decode()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Path:
    return server.write_kubeconfig(tmp_path / "admin")


def person(server: ApiServer, path: Path, *, everywhere: list[str], inside: list[str]) -> Path:
    """The kubeconfig of somebody who may read these resources, everywhere and in team-a."""

    def role(kind: str, resources: list[str], **metadata: str) -> None:
        rules = [{"apiGroups": ["", "resource.k8s.io"], "resources": resources, "verbs": READS}]
        name = {"name": "person", **metadata}
        server.add({**RBAC, "kind": kind, "metadata": name, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": "person", "namespace": "team-a"}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "person"}
        server.add({**RBAC, "kind": f"{kind}Binding", "metadata": name, "subjects": [subject], "roleRef": reference})

    server.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}})
    server.add({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "person", "namespace": "team-a"}})
    role("ClusterRole", everywhere)
    role("Role", inside, namespace="team-a")
    return server.write_kubeconfig(path, token=server.service_account_token("team-a", "person"))


async def test_it_says_who_holds_what(desk: Desk, kubeconfig: Path) -> None:
    status, said = await desk.top(f"--kubeconfig={kubeconfig}")

    lines = said.splitlines()
    assert (status, lines[0]) == (0, "node-1  2 x H100-SXM5-80GB: 1 held")
    assert lines[1].startswith("  gpu-0  [aaaaaaaa]  a gpu ")
    assert lines[1].endswith(" team-a/train-0")
    assert lines[2] == "  gpu-1  [........]  free"


async def test_a_terminal_without_unicode_gets_ascii(server: ApiServer, desk: Desk, kubeconfig: Path) -> None:
    put(server, claim("x" * 60, "gpu-1"))
    desk.command = [sys.executable, "-m", "driver", "top"]  # its encoding is settled when the interpreter starts

    _, said = await desk.top(f"--kubeconfig={kubeconfig}", PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert said.isascii()
    assert "xxx..." in said
    assert max(map(len, said.splitlines())) <= 80


async def test_machines_get_json(desk: Desk, kubeconfig: Path) -> None:
    status, said = await desk.top(f"--kubeconfig={kubeconfig}", "-o", "json", "--node", "node-1")

    found = json.loads(said)
    assert (status, found["namespaces"][0]["namespace"], found["room"]["gpu"]) == (0, "team-a", 1)


async def test_a_node_that_has_none(desk: Desk, kubeconfig: Path) -> None:
    assert await desk.top(f"--kubeconfig={kubeconfig}", "--node=other") == (0, "no GPU of this driver is published\n")


async def test_without_pods_it_says_so_and_shows_the_rest(server: ApiServer, desk: Desk, tmp_path: Path) -> None:
    config = person(server, tmp_path / "person", everywhere=["resourceslices", "resourceclaims"], inside=["secrets"])

    status, said = await desk.top(f"--kubeconfig={config}")

    assert status == 0
    assert said.startswith("pods cannot be read, so it is not shown which pods run")
    assert "team-a/train-0" in said


async def test_who_may_read_one_namespace_sees_that_one(server: ApiServer, desk: Desk, tmp_path: Path) -> None:
    config = person(server, tmp_path / "person", everywhere=["resourceslices"], inside=["resourceclaims", "pods"])

    status, said = await desk.top(f"--kubeconfig={config}", "-n", "team-a")

    assert (status, said.splitlines()[0]) == (0, "claims of team-a only can be read, so others' are not shown")
    assert "could still be placed" not in said
    assert "team-a/train-0" in said


async def test_who_may_read_no_slices_gets_the_servers_own_words(server: ApiServer, desk: Desk, tmp_path: Path) -> None:
    config = person(server, tmp_path / "person", everywhere=["pods"], inside=["pods"])

    status, said = await desk.top(f"--kubeconfig={config}")

    assert (status, said.count("\n")) == (1, 1)
    assert 'cannot list resource "resourceslices"' in said


async def test_without_a_kubeconfig_it_is_the_one_at_home(server: ApiServer, desk: Desk, tmp_path: Path) -> None:
    missing = await desk.top()
    (tmp_path / ".kube").mkdir()
    server.write_kubeconfig(tmp_path / ".kube" / "config")

    status, _ = await desk.top()

    assert missing == (1, f"gpu-dra: kubeconfig {tmp_path}/.kube/config does not exist or is not a file\n")
    assert status == 0


async def test_of_several_kubeconfigs_it_takes_the_first_that_is_there(desk: Desk, kubeconfig: Path) -> None:
    status, _ = await desk.top(KUBECONFIG=f"/nowhere/config:{kubeconfig}")

    assert status == 0


async def test_another_context(desk: Desk, kubeconfig: Path) -> None:
    status, said = await desk.top(f"--kubeconfig={kubeconfig}", "--context=elsewhere")

    assert (status, said.count("\n")) == (1, 1)
    assert "elsewhere" in said


async def test_a_server_that_does_not_answer_is_one_line(server: ApiServer, desk: Desk, kubeconfig: Path) -> None:
    await server.stop()

    status, said = await desk.top(f"--kubeconfig={kubeconfig}")

    assert (status, said.count("\n")) == (1, 1)
    assert "no answer" in said


async def test_it_goes_on_while_the_server_goes_away(server: ApiServer, desk: Desk, kubeconfig: Path) -> None:
    process = await desk.start(f"--kubeconfig={kubeconfig}", "--watch", "-o", "json")

    async def until(holds: Any) -> None:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while not holds(json.loads(await process.stdout.readline())):
                pass

    await until(lambda found: found["room"]["gpu"] == 1)
    put(server, claim("more", "gpu-1"))
    await until(lambda found: found["room"]["gpu"] == 0)
    await server.stop()
    await until(lambda found: found["behind"])
    await server.start()
    await until(lambda found: not found["behind"] and found["room"]["gpu"] == 0)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        _, err = await process.communicate()

    assert (process.returncode, err.decode()) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_what_ends_it_gives_the_terminal_back(desk: Desk, kubeconfig: Path, number: signal.Signals) -> None:
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    shown = bytearray()

    def has(sequence: bytes) -> bool:
        with contextlib.suppress(OSError):  # nothing more for now, or for ever
            shown.extend(os.read(ours, 1 << 16))
        return sequence in shown

    process = await desk.start(f"--kubeconfig={kubeconfig}", "--watch", on=theirs, TERM="xterm")
    os.close(theirs)
    await eventually(lambda: has(b"\x1b[?1049h"), what="the whole screen is taken")

    process.send_signal(number)

    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 0
    assert has(b"\x1b[?1049l")
    os.close(ours)


async def test_kubectl_finds_it_as_a_plugin(desk: Desk, kubeconfig: Path) -> None:
    script = tomllib.loads(PYPROJECT.read_text())["project"]["scripts"]["kubectl-gpu"]
    module, _, function = script.partition(":")
    desk.command = (sys.executable, "-c", f"from {module} import {function}; {function}()")

    _, said = await desk.top(f"--kubeconfig={kubeconfig}")

    assert said.startswith("node-1  2 x H100-SXM5-80GB: 1 held")
