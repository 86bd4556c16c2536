"""The driver as a process that can be told where to die.

One process imports the driver once and forks for each start: what runs in the child is ``driver.cli.main`` with the
command line of ``gpu-dra run``, nothing less. Lines of JSON on standard input say what to start, and a socket for each
child says what happens in it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from tests.faults.points import Plan, Points, install

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Fork a driver for each line of standard input, until it ends."""
    sys.modules.setdefault("kubernetes_validate", None)  # type: ignore[arg-type]
    import driver.cli.main  # noqa: F401
    import driver.hardware.fake.fake_backend  # noqa: F401
    import driver.node.agent  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        order = json.loads(line)
        if os.fork() == 0:
            _become_driver(order)


def _become_driver(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    null, log = os.open(os.devnull, os.O_RDONLY), os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    control = socket.socket(socket.AF_UNIX)
    control.connect(order["control"])
    control.sendall(json.dumps({"child": order["id"], "pid": os.getpid()}).encode() + b"\n")
    points = Points(
        root=Path(order["root"]), tell=lambda message: control.sendall(json.dumps(message).encode() + b"\n")
    )
    install(points)
    if order.get("plan"):
        points.arm(Plan(**order["plan"]))
    threading.Thread(target=_obey, args=(control, points), name="control", daemon=True).start()
    from driver.cli.main import main as run

    sys.argv = ["gpu-dra", *order["argv"]]
    try:
        run()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _obey(control: socket.socket, points: Points) -> None:
    for line in control.makefile("rb"):
        order = json.loads(line)
        match order["do"]:
            case "arm":
                points.arm(Plan(**order["plan"]))
                control.sendall(b'{"armed": true}\n')
            case "disarm":
                control.sendall(json.dumps({"seen": points.disarm()}).encode() + b"\n")
            case "resume":
                points.resume.set()
                control.sendall(b'{"resumed": true}\n')
    os.kill(os.getpid(), signal.SIGKILL)  # the test has gone


if __name__ == "__main__":
    main()
