"""Control daemons of NVIDIA's Multi-Process Service: real processes on the host that outlive this one.

A daemon is started in the host's namespaces and in a cgroup of its own, because containers use it while our pod is
replaced. There it has a mount namespace, in which its directories are where its clients have them: pipes at
``/tmp/nvidia-mps``, shared memory at ``/dev/shm``. Nobody but its directory knows of it: who finds ``daemon.json``
there with a process that lives has found the daemon.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driver.base import files
from driver.hardware.backend import BackendError
from driver.hardware.mps import launch as mps_launch
from driver.hardware.mps import shared_directory
from driver.hardware.mps.edits import PIPES, SHM, client_edits, long_gone
from driver.hardware.mps.surroundings import read_surroundings
from driver.hardware.process_sharing import MpsDaemon

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from driver.hardware.host.root import DriverRoot
    from driver.hardware.model import ContainerEdits
    from driver.hardware.mps.surroundings import Surroundings
    from driver.hardware.process_sharing import MpsLimits

logger = logging.getLogger(__name__)

PROGRAM = "nvidia-cuda-mps-control"
PLACES = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/local/nvidia/bin", "/opt/bin")
LIBRARIES = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib64/ld-linux-aarch64.so.1")
LOGS = "/tmp/nvidia-mps-log"  # noqa: S108 - in the daemon's own mount namespace
COMMAND_SECONDS = 5.0
READY_SECONDS = 10.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.05
NO_MEMORY_LIMIT = 1 << 20
"""MiB that no GPU has: how a limit is taken from a daemon that runs."""


class MpsDaemons:
    """The daemons below one directory. Thread-safe for different daemons; callers take turns for each GPU."""

    def __init__(
        self,
        directory: Path,
        root: DriverRoot,
        *,
        surroundings: Surroundings | None = None,
        shm: str = "/dev/shm",  # noqa: S108 - on the host
        proc: Path = Path("/proc"),
        ready_seconds: float = READY_SECONDS,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """``shm``: a tmpfs of the host, in which each daemon gets a directory that its clients have as /dev/shm."""
        self._directory = directory
        self._root = root
        self._host = surroundings if surroundings is not None else read_surroundings()
        self._shm = f"{shm}/{directory.parent.name}"
        self._proc = proc
        self._ready_seconds = ready_seconds
        self._stop_seconds = stop_seconds

    def start(self, daemon: MpsDaemon) -> None:
        """See to it that a daemon runs with these limits and answers. Raises BackendError."""
        what = f"start MPS daemon {daemon.id}"
        if self._host.refused:
            raise BackendError(f"{what}: {self._host.refused}")
        with _errors(what):
            applied = self._applied(daemon.id)
            if self._pid(daemon.id) is not None and applied is not None and not applied.same_process(daemon):
                self.stop(daemon.id)
            if self._pid(daemon.id) is None:
                self._launch(daemon, what)
                applied = None
            if applied != daemon:
                self._limit(daemon, before=applied)
                self._note(daemon)

    def stop(self, daemon_id: str) -> None:
        """End a daemon and its servers, and remove its directories. Raises BackendError when it may still run."""
        what = f"stop MPS daemon {daemon_id}"
        with _errors(what):
            if self._pid(daemon_id) is not None:
                with contextlib.suppress(BackendError):  # one that does not answer is not asked again
                    self._command(daemon_id, "quit")
                for number in (None, signal.SIGTERM, signal.SIGKILL):
                    self._signal(daemon_id, number)
                    if _eventually(lambda: self._pid(daemon_id) is None, self._stop_seconds):
                        break
                else:
                    raise BackendError(f"{what}: process {self._pid(daemon_id)} does not end, not even when killed")
            cgroup = self._host.own_cgroup(daemon_id)
            if cgroup is not None:  # servers that have lost their daemon
                with contextlib.suppress(OSError):
                    (cgroup / "cgroup.kill").write_text("1", encoding="ascii")
                _eventually(lambda: _removed(cgroup), self._stop_seconds)
            shared_directory.remove(self._host.root / self._shm_on_host(daemon_id).lstrip("/"))
            if (self._directory / daemon_id).exists():
                shutil.rmtree(self._directory / daemon_id)

    def runs(self, daemon_id: str) -> bool:
        """Whether its process lives."""
        return self._pid(daemon_id) is not None

    def sweep(self, keep: Collection[str]) -> None:
        """Remove directories that are nobody's any more."""
        for left in long_gone(self._directory, keep):
            if not self.runs(left.name):
                with contextlib.suppress(BackendError):
                    self.stop(left.name)

    def edits(self, daemon_id: str, limits: MpsLimits) -> ContainerEdits:
        """Edits for its clients. No I/O."""
        pipes = str(self._directory / daemon_id / "pipe")
        return client_edits(pipes=pipes, shm=self._shm_on_host(daemon_id), limits=limits)

    def _launch(self, daemon: MpsDaemon, what: str) -> None:
        base = self._directory / daemon.id
        (base / "applied.json").unlink(missing_ok=True)
        for part in ("pipe", "log"):
            shutil.rmtree(base / part, ignore_errors=True)  # what one before has left; it would not start on it
            (base / part).mkdir(parents=True)
            (base / part).chmod(0o755)
        shared_directory.make(self._host.root / self._shm_on_host(daemon.id).lstrip("/"))
        several = ["--multiuser-server"] if daemon.multi_user else []
        for options in [several, []] if several else [[]]:
            self._execute(daemon, options)
            if _eventually(lambda: self._pid(daemon.id) is None or self._answers(daemon.id), self._ready_seconds):
                if self._pid(daemon.id) is not None:
                    return
                if options:  # drivers before it was invented
                    logger.warning("%s: it ended at once; trying without %s", what, options[0])
                    continue
                raise BackendError(f"{what}: it ended at once: {_last_line(base / 'log' / 'daemon.log')}")
            raise BackendError(f"{what}: it does not answer within {self._ready_seconds:g} s, see {base / 'log'}")

    def _execute(self, daemon: MpsDaemon, options: list[str]) -> None:
        base = self._directory / daemon.id
        root, program, environment = self._program()
        order: dict[str, Any] = {
            "argv": [program, "-f", *options],
            "env": {**environment, "CUDA_VISIBLE_DEVICES": ",".join(daemon.devices), **self._directories(daemon.id)},
            "cgroups": self._host.procs(daemon.id),
            "daemon": True,
            "pid_file": str(base / "daemon.json"),
            "log": str(base / "log" / "daemon.log"),
            "root": root,
        }
        if self._host.isolate:
            top = root.rstrip("/")
            order["tmpfs"] = [top + str(Path(PIPES).parent)]
            order["binds"] = [
                [str(base / "pipe"), top + PIPES],
                [str(base / "log"), top + LOGS],
                [self._shm_on_host(daemon.id), top + SHM],
            ]
        if self._host.target is not None:
            order |= {"target": self._host.target, "namespaces": ["cgroup", "ipc", "uts", "net", "mnt"]}
        self._run(order, f"start MPS daemon {daemon.id}")

    def _command(self, daemon_id: str, *commands: str) -> str:
        """Have a daemon do something, and give what it says."""
        pid = self._pid(daemon_id)
        if pid is None:
            raise BackendError(f"MPS daemon {daemon_id} does not run")
        root, program, environment = self._program()
        order: dict[str, Any] = {
            "argv": [program],
            "env": {**environment, **self._directories(daemon_id)},
            "root": root,
        }
        if self._host.isolate:  # where the daemon's directories are what they are called
            order |= {"target": pid, "namespaces": ["mnt"]}
        return self._run(order, f"{commands[0]} of MPS daemon {daemon_id}", "".join(f"{c}\n" for c in commands))

    def _run(self, order: dict[str, Any], what: str, text: str = "") -> str:
        launcher = [sys.executable, "-I", "-S", mps_launch.__file__, json.dumps(order)]
        try:
            done = subprocess.run(  # noqa: S603 - our own program
                launcher,
                input=text,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BackendError(f"{what}: no answer within {COMMAND_SECONDS:g} s") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise BackendError(f"{what}: {said[-1] if said else f'exit status {done.returncode}'}")
        return done.stdout

    def _program(self) -> tuple[str, str, dict[str, str]]:
        """The root for the program, its path in that, and its environment.

        A root that has a dynamic loader is a system of its own, and the program belongs there. Another one is a bag of
        files for whatever system finds them.
        """
        found = self._root.find(*(f"{place}/{PROGRAM}" for place in PLACES))
        if found is None:
            raise BackendError(
                f"{PROGRAM} is not below {self._root.path}: install NVIDIA's compute utilities with the driver, or set "
                "the driver root to where it is"
            )
        top = self._root.host.rstrip("/") if self._host.target is not None else str(self._root.path).rstrip("/")
        if self._root.find(*LOADERS) is not None:
            return top or "/", found, {"PATH": ":".join(PLACES)}
        environment = {
            "PATH": ":".join(f"{top}{place}" for place in PLACES) + ":/usr/bin:/bin",
            "LD_LIBRARY_PATH": ":".join(f"{top}{place}" for place in LIBRARIES),
        }
        return "/", f"{top}{found}", environment

    def _directories(self, daemon_id: str) -> dict[str, str]:
        base = self._directory / daemon_id
        pipes, logs = (PIPES, LOGS) if self._host.isolate else (str(base / "pipe"), str(base / "log"))
        return {"CUDA_MPS_PIPE_DIRECTORY": pipes, "CUDA_MPS_LOG_DIRECTORY": logs}

    def _limit(self, daemon: MpsDaemon, *, before: MpsDaemon | None) -> None:
        """Bring a daemon's limits to what they should be, for servers to come and for those that there are."""
        known = before.memory_mib if before is not None else (None,) * len(daemon.memory_mib)
        memory = [
            (index, NO_MEMORY_LIMIT if wanted is None else wanted)
            for index, (wanted, was) in enumerate(zip(daemon.memory_mib, known, strict=True))
            if wanted != was
        ]
        was = before.thread_percentage if before is not None else None
        threads = (daemon.thread_percentage or 100) if daemon.thread_percentage != was else None
        servers = self._command(daemon.id, "get_server_list").split() if before is not None else []
        commands = [f"set_default_device_pinned_mem_limit {index} {limit}M" for index, limit in memory]
        if threads is not None:
            commands.append(f"set_default_active_thread_percentage {threads}")
        for server in filter(str.isdecimal, servers):
            commands += [f"set_device_pinned_mem_limit {server} {index} {limit}M" for index, limit in memory]
            if threads is not None:
                commands.append(f"set_active_thread_percentage {server} {threads}")
        for command in commands:
            self._command(daemon.id, command)

    def _answers(self, daemon_id: str) -> bool:
        try:
            self._command(daemon_id, "get_default_active_thread_percentage")
        except BackendError:
            return False
        return True

    def _pid(self, daemon_id: str) -> int | None:
        """Its process, if that lives."""
        try:
            noted = files.parse(files.read(str(self._directory / daemon_id / "daemon.json")))
            pid, start = int(noted["pid"]), int(noted["start"])
            status = (self._proc / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pid if int(status[19]) == start and status[0] not in "ZX" else None

    def _signal(self, daemon_id: str, number: signal.Signals | None) -> None:
        pid = self._pid(daemon_id)
        if pid is not None and number is not None:
            logger.warning("MPS daemon %s does not end by itself, process %d gets %s", daemon_id, pid, number.name)
            with contextlib.suppress(ProcessLookupError):
                group = os.getpgid(pid)
                os.killpg(group, number) if group != os.getpgid(0) else os.kill(pid, number)

    def _applied(self, daemon_id: str) -> MpsDaemon | None:
        """What a daemon was brought to; None where nobody knows."""
        try:
            raw = files.parse(files.read(str(self._directory / daemon_id / "applied.json")))
            return MpsDaemon(
                id=daemon_id,
                gpu_uuids=tuple(raw["gpu_uuids"]),
                devices=tuple(raw["devices"]),
                memory_mib=tuple(raw["memory_mib"]),
                thread_percentage=raw["thread_percentage"],
                multi_user=raw["multi_user"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _note(self, daemon: MpsDaemon) -> None:
        files.replace(str(self._directory / daemon.id / "applied.json"), json.dumps(asdict(daemon)).encode())

    def _shm_on_host(self, daemon_id: str) -> str:
        return f"{self._shm}-{daemon_id}"


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackendError(f"{what}: {error.strerror or error}: {error.filename or ''}".rstrip(": ")) from error


def _eventually(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:200] if lines else "it has said nothing"
