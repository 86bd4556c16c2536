"""A node whose driver can be made to die or fail at a chosen point, and the kubelet's patience with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from driver.hardware.backend import Backend
from driver.hardware.host.places import OWN
from driver.hardware.open import open_backend, read_boot_id
from driver.kube.client import MERGE_PATCH, Api
from driver.sim.apiserver import ApiServer
from driver.wire import dra_v1_pb2 as dra
from tests.eventually import PATIENCE, eventually
from tests.faults.points import Plan
from tests.harness import DRIVER, NODE, Claims, Kubelet, NodeDirectories
from tests.nvml.standin import World
from tests.short import short_directory

REPOSITORY = Path(__file__).parents[2]
# What this driver does is no effect in the sense of these tests: reading changes nothing.
# Statuses are written some time after the answer, so no step can tell at which of its points.
EFFECTS = r"^(?!read |scandir |listdir |connect )(?!.*resourceslices)(?!.*resourceclaims/.*/status)"
# Not state of claims: sockets, locks, logs, what is being written, names and conditions of devices.
PASSING = (".sock", ".lock", ".log", ".tmp", "device-names.json", "conditions.json", "gpu-time.json")
GPUS = """\
gpus:
- match: {name: gpu-7}
  partitioning: none
"""

_IDS = re.compile(r'MIG-[-0-9a-f]{36}|("minor": \d+, "path": "/dev/nvidia-caps/)?nvidia-cap\d+|"gi": \d+')
_HARDWARE = ("hardware.json", "machine")

Answer = dict[str, Any]


class DeadError(Exception):
    """The driver's process has ended."""


class FaultyDriver:
    """One process, and the line to it."""

    def __init__(
        self, launcher: Launcher, node: NodeDirectories, kubeconfig: Path, *devices: str, pod_uid: str = ""
    ) -> None:
        self._devices = devices
        self._launcher, self._node, self._kubeconfig, self._pod_uid = launcher, node, kubeconfig, pod_uid
        self.log = node.root / f"driver{pod_uid and '-'}{pod_uid}.log"
        registrar = node.registry / f"{DRIVER}{pod_uid and '-'}{pod_uid}-reg.sock"
        self.kubelet = Kubelet(registrar)
        self.fired = ""
        self.dead = asyncio.Event()
        self.happened = asyncio.Event()
        self._pid = 0
        self._replies: asyncio.Queue[Answer] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self, plan: Plan | None = None, *, wait: bool = True) -> FaultyDriver:
        """Start the process, with a fault from its first instruction on if wanted."""
        self.fired, self.dead, self.happened = "", asyncio.Event(), asyncio.Event()
        self._replies = asyncio.Queue()
        kubelet, self.kubelet = self.kubelet, Kubelet(self.kubelet.registrar)
        await kubelet.close()
        arguments = [
            "run",
            f"--node-name={NODE}",
            f"--kubeconfig={self._kubeconfig}",
            f"--kubelet-plugins-dir={self._node.plugins}",
            f"--kubelet-registry-dir={self._node.registry}",
            f"--cdi-root={self._node.cdi}",
            f"--config={self._node.root / 'node.yaml'}",
            f"--pod-uid={self._pod_uid}",
            *self._devices,
            "--partitioning=dynamic",
            "--health-port=0",
            "--http-port=0",
        ]
        reader, self._writer, self._pid = await self._launcher.fork(
            argv=arguments, log=str(self.log), root=str(self._node.root), plan=asdict(plan) if plan else None
        )
        self._task = asyncio.create_task(self._listen(reader), name="control")
        if wait:
            await self.serving()
        return self

    async def serving(self) -> None:
        """Wait until claims can be prepared. Raises DeadError."""

        async def answers() -> bool:
            if self.dead.is_set():
                raise DeadError(self.fired)
            try:
                await self.kubelet.prepare(timeout=5)
            except grpc.aio.AioRpcError:
                return False
            return True

        await eventually(answers, what=f"the driver serves:\n{self.text()}")

    async def arm(self, plan: Plan) -> None:
        self.fired, self.happened = "", asyncio.Event()
        await self._order(do="arm", plan=asdict(plan))

    async def disarm(self) -> list[str]:
        """End the fault, and tell which points there were."""
        return list((await self._order(do="disarm"))["seen"])

    async def resume(self) -> None:
        await self._order(do="resume")

    async def kill(self) -> None:
        if self._pid and not self.dead.is_set():
            os.kill(self._pid, signal.SIGKILL)
            await self.dead.wait()
        await self.kubelet.close()
        if self._task is not None:
            await self._task

    def text(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    async def _order(self, **order: Any) -> Answer:
        self._writer.write(json.dumps(order).encode() + b"\n")
        reply = asyncio.ensure_future(self._replies.get())
        dead = asyncio.ensure_future(self.dead.wait())
        await asyncio.wait({reply, dead}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
        dead.cancel()
        if reply.done():
            return reply.result()
        reply.cancel()
        raise DeadError(self.fired or f"without a reason:\n{self.text()}")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                message = json.loads(line)
                if "fired" in message:
                    self.fired = message["fired"]
                    self.happened.set()
                else:
                    self._replies.put_nowait(message)
        self._writer.close()
        self.dead.set()


class Launcher:
    """The process that has imported the driver, and forks it."""

    def __init__(self) -> None:
        self._made = contextlib.ExitStack()
        self._directory = self._made.enter_context(short_directory())
        self._waiting: dict[int, asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter, int]]] = {}
        self._count = 0

    async def __aenter__(self) -> Launcher:
        self._control = self._directory / "control.sock"
        self._server = await asyncio.start_unix_server(self._connected, self._control)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.launcher"),
            stdin=asyncio.subprocess.PIPE,
            cwd=REPOSITORY,
            env=environment,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()
        self._server.close()
        self._made.close()

    async def fork(self, **order: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
        self._count += 1
        waiting = self._waiting[self._count] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        line = json.dumps({"id": self._count, "control": str(self._control), **order}) + "\n"
        self._process.stdin.write(line.encode())
        async with asyncio.timeout(PATIENCE):
            return await waiting

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = json.loads(await reader.readline())
        self._waiting.pop(hello["child"]).set_result((reader, writer, hello["pid"]))


@dataclass
class Rig:
    """A node, its API server, and one or two instances of the driver."""

    node: NodeDirectories
    server: ApiServer
    api: Api
    claims: Claims
    instances: list[FaultyDriver]
    hardware: Backend
    machine: World | None = None
    """The GPUs behind NVML, where they are not the fake ones."""

    @property
    def driver(self) -> FaultyDriver:
        """The instance that the kubelet calls at the moment."""
        return self.instances[0]

    def fail_over(self) -> None:
        """Let the kubelet call the other instance from now on."""
        self.instances.append(self.instances.pop(0))

    async def prepare(self, *claims: Answer, timeout: float = 45) -> Answer:
        """One call; what the kubelet hears, by claim name: devices, or an error's text. Raises DeadError."""
        return await self._call(self.driver.kubelet.prepare, claims, timeout)

    async def unprepare(self, *claims: Answer, timeout: float = 45) -> Answer:
        return await self._call(self.driver.kubelet.unprepare, claims, timeout)

    async def _call(self, method: Callable[..., Awaitable[Any]], claims: tuple[Answer, ...], timeout: float) -> Answer:
        driver = self.driver
        call = asyncio.ensure_future(method(*claims, timeout=timeout))
        dead = asyncio.ensure_future(driver.dead.wait())
        try:
            await asyncio.wait({call, dead}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():  # the answer of a process that has died may still be on its way
                await asyncio.wait({call}, timeout=0.2)
            if not call.done():
                raise DeadError(driver.fired or f"without a reason:\n{driver.text()}")
            try:
                answers = call.result()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    await asyncio.wait({dead}, timeout=PATIENCE)
                if driver.dead.is_set():
                    raise DeadError(driver.fired or f"without a reason:\n{driver.text()}") from None
                raise
        finally:
            dead.cancel()
            call.cancel()
        assert set(answers) == {claim["metadata"]["uid"] for claim in claims}, "an answer for each UID"
        return {claim["metadata"]["name"]: _told(answers[claim["metadata"]["uid"]]) for claim in claims}

    def state(self) -> dict[str, str]:
        """Everything that outlives a process, by path; what differs between two equal runs left out."""
        found = {}
        for base in (self.node.state, self.node.cdi):
            for path in base.rglob("*"):
                if (
                    path.is_file()
                    and not path.name.endswith(PASSING)
                    and path.parent.name not in {"instances", "ended"}
                ):
                    found[str(path.relative_to(self.node.root))] = _content(path)
        if self.machine is not None:
            found["machine"] = json.dumps(self.machine.instances(), sort_keys=True)
        return found

    def specs_that_follow(self) -> set[str]:
        """CDI specs of claims that only look at partitions of others: a start brings them to what is there then."""
        found = set()
        for path, content in self.state().items():
            if "/claims/" in path:
                record = json.loads(content)
                if all(device.get("admin") and device.get("partition") for device in record["devices"]):
                    found.add(f"cdi/k8s.{DRIVER}-claim_{record['claim']['uid']}.json")
        return found

    def contradictions(self) -> list[str]:
        """Where records, hardware and CDI specs do not tell the same story, once all calls have been answered."""
        state = self.state()
        made = {part.uuid for gpu in self.hardware.inventory().gpus for part in self.hardware.partitions(gpu.uuid)}
        wrong, told = [], set()
        for path, content in state.items():
            if "/claims/" not in path:
                continue
            record = json.loads(content)
            uid = record["claim"]["uid"]
            if record["state"] != "prepared":
                wrong.append(f"{path} is {record['state']}")
            spec = state.get(f"cdi/k8s.{DRIVER}-claim_{uid}.json", "")
            for device in record["devices"]:
                uuid = (device.get("partition") or {}).get("uuid") or device["gpuUUID"]
                if self.machine is not None:  # real GPUs are named by their device files
                    uuid_in_spec = f"/dev/nvidia{self.machine.uuids().index(device['gpuUUID'])}" in spec
                else:
                    # Who only looks at a partition sees the GPU around it once that is gone.
                    uuid_in_spec = uuid in spec or (device.get("admin", False) and device["gpuUUID"] in spec)
                if record["state"] == "prepared" and not uuid_in_spec:
                    wrong.append(f"the spec of {path} does not name {uuid}")
                if device.get("placement") and not device.get("admin"):
                    told.add(uuid)
        return wrong + ([f"records tell of {told}, there are {made}"] if told != made else [])

    def is_clean(self) -> bool:
        """Whether nothing of any claim is left."""
        state = self.state()
        if self.machine is not None:
            return list(state) == ["machine"] and not self.machine.instances()
        hardware = json.loads(state.pop(f"plugins/{DRIVER}/fake-hardware.json"))
        shared = (hardware.get(part) for part in ("timeSlice", "computeMode", "mps"))
        whole = not any(mig["instances"] or mig["enabled"] for mig in hardware["mig"].values())
        return not state and whole and not any(shared)


def _told(answer: Any) -> Any:
    if answer.error:
        return answer.error
    if isinstance(answer, dra.NodeUnprepareResourceResponse):
        return "done"
    return [
        {
            "requests": list(device.request_names),
            "device": device.device_name,
            "cdi": list(device.cdi_device_ids),
            "share": device.share_id,
        }
        for device in answer.devices
    ]


def _content(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        raw = json.loads(text)
    except ValueError:
        return text
    if isinstance(raw, dict):
        raw.pop("preparedAt", None)
        raw.pop("heldSince", None)
    if path.name == "fake-hardware.json":  # what was cut and is whole again is the same as never cut
        cut = {uuid: mig for uuid, mig in raw["mig"].items() if mig["instances"] or mig["enabled"]}
        raw = {"mig": cut, **{part: raw.get(part) or {} for part in ("timeSlice", "computeMode", "mps")}}
    return json.dumps(raw, sort_keys=True)


def without_ids(state: dict[str, str]) -> dict[str, str]:
    """A state without what depends on which of two partitions was made first."""
    return {path: _IDS.sub("<id>", content) for path, content in state.items() if not path.endswith(_HARDWARE)}


@contextlib.asynccontextmanager
async def rig(
    launcher: Launcher,
    *,
    instances: int = 1,
    new_machine: Callable[[Path], World] | None = None,
    flags: tuple[str, ...] = (),
) -> AsyncIterator[Rig]:
    """A node that serves; with fake GPUs, or with those of a machine that has NVML. ``flags`` are the driver's."""
    drivers: list[FaultyDriver] = []
    with short_directory() as root:
        try:
            node = NodeDirectories(root)
            (root / "node.yaml").write_text(GPUS)
            machine = new_machine(root / "machine") if new_machine else None
            devices = ("--devices=nvml", *machine.options()) if machine else ("--devices=fake:h100x8",)
            async with ApiServer() as server:
                kubeconfig = server.write_kubeconfig(root / "kubeconfig")
                async with await Api.connect(kubeconfig) as api:
                    metadata = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
                    await api.request("POST", "/api/v1/nodes", body=metadata)
                    labels = {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}
                    namespace = "/api/v1/namespaces/default"
                    await api.request("PATCH", namespace, body=labels, content_type=MERGE_PATCH)
                    for number in range(instances):
                        pod_uid = f"pod-{number}" if instances > 1 else ""
                        drivers.append(FaultyDriver(launcher, node, kubeconfig, *devices, *flags, pod_uid=pod_uid))
                        await drivers[-1].start()
                    host = machine.host() if machine else OWN
                    kind = "nvml" if machine else "fake:h100x8"
                    hardware = open_backend(kind, node.state, boot_id=read_boot_id(), host=host)
                    yield Rig(node, server, api, Claims(api), drivers, hardware, machine)
                    hardware.close()
                    for driver in drivers:
                        await driver.kill()
        finally:
            for driver in drivers:
                await driver.kill()
