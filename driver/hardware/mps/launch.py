"""Become a program in the host's namespaces. Run by its path with ``python -I -S``: the standard library, nothing else.

The first argument is an order in JSON; every key may be left out but ``argv``:

* ``argv``, ``env``: the program, as it is found once everything else is done
* ``cgroups``: ``cgroup.procs`` files to join first
* ``target``, ``namespaces``: a process, and which of its namespaces to enter (see FLAGS)
* ``tmpfs``, ``binds``: directories that get an empty tmpfs, and pairs of source and target, in a mount namespace that
  nobody else is in
* ``root``: the directory that is ``/`` for the program
* ``daemon``: leave the session and the parent; then ``pid_file`` is written before the program starts, and its output
  goes to ``log``

With ``daemon`` this program ends as soon as the other runs; with status 1 and a line on standard error if it does not.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

FLAGS = {"cgroup": 0x0200_0000, "uts": 0x0400_0000, "ipc": 0x0800_0000, "net": 0x4000_0000, "mnt": 0x0002_0000}
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 4096, 16384, 1 << 19


def main() -> None:
    """Do what the order says."""
    order = json.loads(sys.argv[1])
    if order.get("daemon"):
        _start(order)
    else:
        try:
            _become(order)
        except OSError as error:
            sys.exit(f"{error.strerror or error}: {error.filename or order['argv'][0]}")


def _start(order: dict[str, Any]) -> None:
    """Fork twice, so that nobody has to wait for the program, and see it start."""
    reader, writer = os.pipe()  # closed by execve
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(reader)
            try:
                _detach(order)
                _become(order)
            except BaseException as error:  # noqa: BLE001 - the parent hears of it, whatever it is
                os.write(writer, f"{error}".encode()[:500])
            os._exit(1)
        os._exit(0)
    os.close(writer)
    os.wait()
    problem = os.read(reader, 500)
    if problem:
        sys.exit(problem.decode(errors="replace"))


def _detach(order: dict[str, Any]) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    # Its start tells this process from a later one with the same id.
    start = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    path = Path(order["pid_file"])
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")  # as driver.base.files has it
    temporary.write_text(json.dumps({"pid": os.getpid(), "start": start}), encoding="utf-8")
    temporary.replace(path)


def _become(order: dict[str, Any]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: Any) -> None:
        if getattr(libc, name)(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name} failed: {os.strerror(number)}")

    def mount(source: str, target: str, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
        call("mount", source.encode(), target.encode(), kind, ctypes.c_ulong(flags), data)

    for path in order.get("cgroups", ()):
        Path(path).write_text("0", encoding="ascii")
    proc = f"/proc/{order.get('target', 'self')}/ns"
    spaces = [(name, os.open(f"{proc}/{name}", os.O_RDONLY)) for name in order.get("namespaces", ())]
    for name, descriptor in spaces:
        if os.fstat(descriptor).st_ino != Path(f"/proc/self/ns/{name}").stat().st_ino:
            call("setns", descriptor, FLAGS[name])
    if order.get("tmpfs") or order.get("binds"):
        call("unshare", FLAGS["mnt"])
        mount("none", "/", None, MS_REC | MS_SLAVE)
        # Of this mount namespace, or they could not be bound; before anything hides them.
        sources = [(os.open(source, os.O_PATH), target) for source, target in order.get("binds", ())]
        for target in order.get("tmpfs", ()):
            Path(target).mkdir(exist_ok=True)
            mount("tmpfs", target, b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=1777,size=1m")
        for descriptor, target in sources:
            Path(target).mkdir(parents=True, exist_ok=True)
            mount(f"/proc/self/fd/{descriptor}", target, None, MS_BIND)
            os.close(descriptor)
    if order.get("root", "/") != "/":
        os.chroot(order["root"])
    os.chdir("/")
    os.execve(order["argv"][0], order["argv"], order.get("env", {}))  # noqa: S606 - no shell on purpose


if __name__ == "__main__":
    main()
