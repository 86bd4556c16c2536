"""Forks a process of ``gpu-dra`` for each connection; runs until standard input ends."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1


def main() -> None:
    sys.modules.setdefault("kubernetes_validate", None)  # type: ignore[arg-type]
    import driver.cli.main  # noqa: F401
    import driver.hardware.fake.fake_backend  # noqa: F401
    import driver.node.agent  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and with them this: not before, not in words
    path = Path(sys.argv[1])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(64)
    path.with_name(f"{path.name}.new").rename(path)
    gc.collect()
    gc.freeze()
    while 0 not in (ready := select.select([0, listener.fileno()], [], [])[0]):
        assert ready
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _keep(connection)
            return
        connection.close()
    shutil.rmtree(path.parent, ignore_errors=True)


def _keep(connection: socket.socket) -> None:
    """Be the parent of one process, and tell how it ends. The process itself returns or raises, as a program does."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _end_with_parent()
    data, descriptors, _, _ = socket.recv_fds(connection, 65536, 3)
    while not data.endswith(b"\n"):
        data += connection.recv(65536)
    child = os.fork()
    if child == 0:
        connection.close()
        _become(json.loads(data), descriptors)
        return
    connection.sendall(json.dumps({"pid": child}).encode() + b"\n")
    pidfd = os.pidfd_open(child)
    if pidfd not in select.select([pidfd, connection.fileno()], [], [])[0]:
        os.kill(child, signal.SIGKILL)  # nobody waits for it any more
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
    os._exit(0)


def _become(order: dict[str, Any], descriptors: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _end_with_parent()
    for target, source in enumerate(descriptors):
        os.dup2(source, target)
        os.close(source)
    os.chdir(order["cwd"])
    os.umask(order["umask"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["gpu-dra", *order["argv"]]
    from driver.cli.main import main as run

    run()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
