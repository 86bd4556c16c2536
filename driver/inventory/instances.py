"""Who serves this node's kubelet under a driver name: instances of this driver, another driver, or nobody any more.

Every DRA driver has a registration socket; what is behind it is found out as the kubelet does, by asking. An instance
of this driver is told from another driver of the same name by the health service on its sockets, which only we have.
"""

from __future__ import annotations

import asyncio
import enum
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from driver.wire import pluginregistration_pb2, pluginregistration_pb2_grpc

Status = health_pb2.HealthCheckResponse

PROBE_TIMEOUT = 5.0
# As the kubelet dials: no shared connection, so that a socket which has gone is noticed; and no escaped authority.
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", "localhost"))
INFO_TIMEOUT = 2.0
"""Seconds; the kubelet itself gives a plugin one."""


class Kind(enum.StrEnum):
    """What is behind a registration socket."""

    OURS = "ours"
    """An instance of this driver that answers on both of its sockets."""
    OTHER = "other"
    """Another driver."""
    SILENT = "silent"
    """A process listens, and does not answer."""
    DEAD = "dead"
    """A file without a process: somebody was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A registration socket and what is behind it."""

    socket: Path
    kind: Kind
    name: str = ""
    """The driver name that it gives; empty where it does not answer."""
    endpoint: str = ""
    """The socket that it wants to be called on."""
    problem: str = ""
    """Why it counts as silent."""


def registrar_sockets(registry_dir: Path, driver_name: str) -> list[Path]:
    """Registration sockets that belong to a driver by their name; with a pod's UID in it or without."""
    pattern = re.compile(rf"{re.escape(driver_name)}(-[A-Za-z0-9-]+)?-reg\.sock")
    try:
        return sorted(path for path in registry_dir.iterdir() if pattern.fullmatch(path.name) and is_socket(path))
    except OSError:
        return []


def is_socket(path: Path) -> bool:
    """Whether a path is a unix socket, and not a link to one."""
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


def listened_to(path: Path) -> bool:
    """Whether a process listens on a unix socket. What cannot be found out counts as yes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


async def find_instances(registry_dir: Path, driver_name: str) -> list[Instance]:
    """All instances under a driver name, side by side, within ``INFO_TIMEOUT`` + ``PROBE_TIMEOUT`` seconds."""
    return list(await asyncio.gather(*map(identify, registrar_sockets(registry_dir, driver_name))))


async def identify(registrar: Path) -> Instance:
    """Find out what is behind a registration socket. Never raises."""
    if not listened_to(registrar):
        return Instance(socket=registrar, kind=Kind.DEAD)
    try:
        info = await _info(registrar)
    except (grpc.aio.AioRpcError, TimeoutError) as error:
        return Instance(socket=registrar, kind=Kind.SILENT, problem=f"GetInfo: {_describe(error)}")
    endpoint = info.endpoint or str(registrar)
    # In a pod only the directories of our own name are the host's.
    kind, problem = await _health(endpoint if Path(endpoint).parent.is_dir() else str(registrar))
    return Instance(socket=registrar, kind=kind, name=info.name, endpoint=endpoint, problem=problem)


async def _info(registrar: Path) -> pluginregistration_pb2.PluginInfo:
    async with (
        asyncio.timeout(INFO_TIMEOUT),
        grpc.aio.insecure_channel(f"unix:{registrar}", options=CHANNEL_OPTIONS) as channel,
    ):
        stub = pluginregistration_pb2_grpc.RegistrationStub(channel)
        info: pluginregistration_pb2.PluginInfo = await stub.GetInfo(pluginregistration_pb2.InfoRequest())
        return info


async def _health(endpoint: str) -> tuple[Kind, str]:
    request = health_pb2.HealthCheckRequest(service="liveness")
    try:
        async with (
            asyncio.timeout(PROBE_TIMEOUT + 1),  # the answer waits for a probe of its own
            grpc.aio.insecure_channel(f"unix:{endpoint}", options=CHANNEL_OPTIONS) as channel,
        ):
            answer = await health_pb2_grpc.HealthStub(channel).Check(request)
    except grpc.aio.AioRpcError as error:
        if error.code() in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND}:
            return Kind.OTHER, ""
        return Kind.SILENT, f"{endpoint}: {_describe(error)}"
    except TimeoutError as error:
        return Kind.SILENT, f"{endpoint}: {_describe(error)}"
    if answer.status != Status.SERVING:
        return Kind.SILENT, "it says itself that its sockets do not answer"
    return Kind.OURS, ""


def _describe(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or "no answer in time"
