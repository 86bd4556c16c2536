"""The container runtime: sandboxes are directories, containers are processes that outlive the kubelet if they must.

A small shell is each container's parent and writes down its exit code, as a runtime's shim does; so a kubelet that was
not there when a container ended still learns how. Everything else about a container is in files of its sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driver.base import files
from driver.sim.kubelet.cdispec import CdiError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from driver.sim.kubelet.cdi import CdiCache, Injection
    from driver.sim.kubelet.cdispec import Mount

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KILLED = 137
START_ERROR = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process"
)
SHIM = """trap : TERM
trap 'kill -KILL 0' USR1
exit_file=$1; shift
"$@" </dev/null &
child=$!
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
echo $code >"$exit_file.tmp" && mv "$exit_file.tmp" "$exit_file"
"""


class CreateError(Exception):
    """A container could not be made; ``reason`` is what its status says."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a container ended; ``finished`` is in Unix seconds."""

    code: int
    finished: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What to start."""

    name: str
    attempt: int
    argv: Sequence[str]
    env: Mapping[str, str]
    workdir: str = "/"
    cdi_devices: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A started container. ``ticks`` tells its process from a later one with the same id."""

    id: str
    name: str
    attempt: int
    pid: int
    ticks: int
    started: float
    log: str
    exit_file: str
    cdi_devices: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        """Whether the process is still there."""
        return _ticks(self.pid) == self.ticks

    async def wait(self) -> Exit:
        """Wait for the end, whoever started it."""
        await _wait_process(self.pid, self.ticks)
        return _read_exit(Path(self.exit_file))

    async def stop(self, grace: float) -> Exit:
        """SIGTERM, and SIGKILL after ``grace`` seconds."""
        if self.running:
            self._signal(signal.SIGTERM)
            try:
                return await asyncio.wait_for(self.wait(), max(grace, 0))
            except TimeoutError:
                self._signal(signal.SIGKILL)
        return await self.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


class Runtime:
    """All sandboxes under ``root``. With ``outlive`` containers run on when this process is gone."""

    def __init__(self, root: Path, *, cdi: CdiCache, outlive: bool = True) -> None:
        self._root = root
        self._cdi = cdi
        # Without it a killed process would leave its containers behind for ever.
        self._leash = () if outlive or not shutil.which("setpriv") else ("setpriv", "--pdeathsig", "USR1")
        self._boot_id = _read("/proc/sys/kernel/random/boot_id")
        root.mkdir(parents=True, exist_ok=True)

    def create_sandbox(self, pod: Mapping[str, Any]) -> None:
        """Make a pod's sandbox; its containers can then be started. Raises OSError."""
        metadata = pod["metadata"]
        self._dir(metadata["uid"]).mkdir(parents=True, exist_ok=True)
        self._write_sandbox(
            metadata["uid"],
            {"namespace": metadata["namespace"], "name": metadata["name"], "boot": self._boot_id, "alive": True},
        )

    def has_sandbox(self, uid: str) -> bool:
        """Whether a pod's sandbox exists and survived."""
        sandbox = self._sandbox(uid)
        return bool(sandbox and sandbox["alive"] and sandbox["boot"] == self._boot_id)

    def kill_sandbox(self, uid: str) -> None:
        """Keep logs and exit codes, but a new sandbox is needed before anything starts again."""
        sandbox = self._sandbox(uid)
        if sandbox and sandbox["alive"]:
            try:
                self._write_sandbox(uid, {**sandbox, "alive": False})
            except OSError:
                (self._dir(uid) / "sandbox.json").unlink(missing_ok=True)

    def remove_sandbox(self, uid: str) -> None:
        """Forget a pod."""
        shutil.rmtree(self._dir(uid), ignore_errors=True)

    def sandboxes(self) -> list[str]:
        """UIDs of the pods that have one, dead or alive."""
        return [path.parent.name for path in self._root.glob("*/sandbox.json")]

    def containers(self, uid: str) -> list[Container]:
        """The latest container of each name in a sandbox, running or not."""
        found = []
        for path in sorted(self._dir(uid).glob("container-*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError):
                record = json.loads(path.read_text(encoding="utf-8"))
                record["cdi_devices"] = tuple(record["cdi_devices"])
                found.append(Container(**record))
        return found

    def log_file(self, uid: str, name: str, attempt: int) -> Path:
        """Where a container's output goes."""
        return self._dir(uid) / f"{name}-{attempt}.log"

    async def start(self, uid: str, launch: Launch) -> Container:
        """Apply the CDI edits and start the process. Raises CreateError."""
        identity = uuid.uuid4().hex + uuid.uuid4().hex
        try:
            injection = self._cdi.inject(launch.cdi_devices)
        except CdiError as error:
            raise CreateError(
                "CreateContainerError",
                f'failed to generate container "{identity}" spec: failed to apply OCI options: {error}',
            ) from error
        env = {"PATH": PATH, **launch.env, **dict(variable.split("=", 1) for variable in injection.env)}
        try:
            _check(launch, injection, env["PATH"])
            # The environment goes through `env`, the shell between would drop names that are not its own.
            variables = [f"{name}={value}" for name, value in env.items()]
            return self._spawn(
                uid, identity, launch, ["env", f"--chdir={launch.workdir}", "-i", *variables, *launch.argv]
            )
        except (CdiError, OSError) as error:
            raise CreateError(
                "RunContainerError",
                f"{START_ERROR}: {error}",
            ) from error

    def _spawn(self, uid: str, identity: str, launch: Launch, argv: Sequence[str]) -> Container:
        log = self.log_file(uid, launch.name, launch.attempt)
        exit_file = self._exit_file(uid, identity)
        command = [*self._leash, "sh", "-c", SHIM, "shim", str(exit_file), *argv]
        pid = os.posix_spawnp(
            command[0],
            command,
            {"PATH": PATH},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD],
            setsigmask=[],
        )
        container = Container(
            id=identity,
            name=launch.name,
            attempt=launch.attempt,
            pid=pid,
            ticks=_ticks(pid, zombie=True) or 0,
            started=time.time(),
            log=str(log),
            exit_file=str(exit_file),
            cdi_devices=tuple(launch.cdi_devices),
        )
        try:
            _store(self._dir(uid) / f"container-{launch.name}.json", asdict(container))
        except OSError:
            os.killpg(pid, signal.SIGKILL)  # nobody would know of it after a restart
            raise
        return container

    def _dir(self, uid: str) -> Path:
        return self._root / uid

    def _exit_file(self, uid: str, identity: str) -> Path:
        return self._dir(uid) / f"{identity}.exit"

    def _sandbox(self, uid: str) -> dict[str, Any] | None:
        try:
            sandbox: dict[str, Any] = json.loads((self._dir(uid) / "sandbox.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return sandbox

    def _write_sandbox(self, uid: str, data: Mapping[str, Any]) -> None:
        _store(self._dir(uid) / "sandbox.json", data)


def _store(path: Path, data: Mapping[str, Any]) -> None:
    files.replace(str(path), json.dumps(data).encode())


def _check(launch: Launch, injection: Injection, path: str) -> None:
    """What a runtime refuses before the first instruction of the container. Raises CdiError."""
    for mount in injection.mounts:
        check_mount(mount)
    for hook in injection.hooks:
        if not os.access(hook.path, os.X_OK):
            raise CdiError(f"error running {hook.hook_name} hook: fork/exec {hook.path}: no such file or directory")
    # A program may come with a mount, then only the container knows.
    if not injection.mounts and shutil.which(launch.argv[0], path=path) is None:
        where = "no such file or directory" if "/" in launch.argv[0] else "executable file not found in $PATH"
        raise CdiError(f'exec: "{launch.argv[0]}": {where}')
    if not injection.mounts and not Path(launch.workdir).is_dir():
        raise CdiError(f'chdir to cwd ("{launch.workdir}") set in config.json failed: no such file or directory')


def check_mount(mount: Mount) -> None:
    """Raise CdiError for a mount that a runtime would fail to make; none is made here."""
    where = f'error mounting "{mount.host_path}" to rootfs at "{mount.container_path}"'
    if not mount.container_path.startswith("/"):
        raise CdiError(f"{where}: mount destination {mount.container_path} not absolute")
    if mount.type == "bind" or {"bind", "rbind"} & set(mount.options):
        if not Path(mount.host_path).exists():
            raise CdiError(f"{where}: mount src={mount.host_path}: no such file or directory")
    elif not mount.type or mount.type == "none":
        raise CdiError(f'{where}: no such device (a mount of a path needs the option "bind" or "rbind")')


def _read_exit(path: Path) -> Exit:
    try:
        return Exit(code=int(path.read_text(encoding="utf-8")), finished=path.stat().st_mtime)
    except (OSError, ValueError):  # the shim was killed too
        return Exit(code=KILLED, finished=time.time())


async def _wait_process(pid: int, ticks: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        if _ticks(pid, zombie=True) == ticks:  # checked after the open: from here on the id cannot be another process's
            loop.add_reader(descriptor, ended.set)
            await ended.wait()
            # What it left behind goes with it, as with a PID namespace; its id is not free before it is waited for.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222


def _ticks(pid: int, *, zombie: bool = False) -> int | None:
    """Start time of a process in clock ticks, None if there is no such process; of a zombie only where that will do."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return None if fields[0] == "Z" and not zombie else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").strip()
