"""The last lines of the log of each instance on a node, by what its sockets say of it."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from driver.base.threads import in_daemon_thread
from driver.inventory import Kind, find_instances
from driver.operate.bundle.archive import LARGEST, Found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from driver.inventory import Instance
    from driver.node import Settings

POD_LOGS = Path("/var/log/pods")
"""Where a kubelet has the logs of containers, on the node."""
_CREDENTIALS = struct.Struct("3i")
"""``struct ucred``: process, user and group."""


async def read_logs(settings: Settings, *, pod_logs: Path = POD_LOGS) -> Found:
    """Of an instance in a pod the kubelet's files, of another the file that its standard error is."""
    instances = await find_instances(settings.kubelet_registry_dir, settings.driver_name)
    ours = [instance for instance in instances if instance.kind is not Kind.OTHER]
    return await in_daemon_thread(lambda: _read(ours, settings, pod_logs))


def _read(ours: Sequence[Instance], settings: Settings, pod_logs: Path) -> Found:
    found = Found()
    if not ours:
        found.missing["logs"] = f"no instance has a socket in {settings.kubelet_registry_dir}"
    for instance in ours:
        name = instance.socket.name.removesuffix("-reg.sock")
        uid = name.removeprefix(settings.driver_name).removeprefix("-")
        paths = sorted(pod_logs.glob(f"*_{uid}/*/*.log")) if uid else []
        paths = paths or [path for path in [_standard_error(instance)] if path is not None]
        for path in paths:
            try:
                found.files[f"logs/{name}-{path.parent.name}-{path.stem}.log"] = _tail(path)
            except OSError as error:
                found.missing[f"logs/{name}"] = f"{path}: {error.strerror}"
        if not paths:
            found.missing[f"logs/{name}"] = "its log is not in a file that is visible here"
    return found


def _standard_error(instance: Instance) -> Path | None:
    """The file that the process behind a socket writes its log to; None where it is none, or not visible."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        try:
            connection.connect(os.fspath(instance.socket))
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            path = Path(f"/proc/{_CREDENTIALS.unpack(peer)[0]}/fd/2").readlink()
            return path if stat.S_ISREG(path.stat().st_mode) else None
        except OSError:
            return None


def _tail(path: Path) -> str:
    """The end of a file, from the beginning of a line. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LARGEST))
        content = file.read(LARGEST)
    return (content.partition(b"\n")[2] if size > LARGEST else content).decode(errors="replace")
