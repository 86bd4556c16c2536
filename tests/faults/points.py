"""Inside the driver's process: every effect is a point, and at one of them something goes wrong.

Nobody lists the driver's steps here. File operations are seen by the interpreter's audit events and by stand-ins for
the few that have none (writes, which are torn in two); hardware calls are the public methods of the backend; API calls
are ``Api.request``. A new step of the driver is a new point by itself.
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driver.hardware.backend import Backend, BackendError, Partitioner, Sharer, Watcher
from driver.kube.client import Api, ApiError

# Not effects: the engine's loop around them is what is tested, and they come whenever a timer says so.
QUIET = {
    "wait_for_events",
    "close",
    "missing_file",
    "common_edits",
    "device_edits",
    "mps_edits",
    "mps_runs",
    "sweep_mps",
}
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_RANDOM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|(?<=\.)([0-9a-f]{8}){1,2}(?=\.)")
# What the disk says when it is full, and when it may only be read: the operations that then fail.
FULL = {"create", "write", "mkdir"}
CHANGES = FULL | {"open to write", "rename", "remove", "utime", "rmdir", "chmod"}


@dataclass
class Plan:
    """What goes wrong, and at which point: its number since arming, counted from 1 (0: nothing does)."""

    at: int = 0
    action: str = "kill"
    """``kill``, ``fail``, ``hang`` or ``pause``."""
    error: int = 0
    """For ``fail``: the errno that file operations get."""
    lasting: bool = False
    """For ``fail``: whether everything after that point fails too."""
    seconds: float = 0
    """For ``hang``: how long a hardware call takes."""
    only: str = ""
    """A regular expression: only points that match count."""


@dataclass
class Points:
    """The points of one process. ``tell`` gets a line for each that something happens at, before it happens."""

    root: Path
    tell: Callable[[dict[str, Any]], None]
    plan: Plan | None = None
    seen: list[str] = field(default_factory=list)
    resume: threading.Event = field(default_factory=threading.Event)
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _inside: threading.local = field(default_factory=threading.local)

    def arm(self, plan: Plan) -> None:
        with self._mutex:
            self.seen, self.plan = [], plan
            self.resume.clear()

    def disarm(self) -> list[str]:
        with self._mutex:
            self.plan = None
            self.resume.set()
            return self.seen

    def reached(self, kind: str, what: str, fail: Callable[[Plan], BaseException | None]) -> None:
        """The process is about to do something. May not return."""
        if self.plan is None or getattr(self._inside, "busy", False):
            return
        self._inside.busy = True
        try:
            self._reached(f"{kind} {_RANDOM.sub('<uid>', what)}", fail)
        finally:
            self._inside.busy = False

    def _reached(self, name: str, fail: Callable[[Plan], BaseException | None]) -> None:
        with self._mutex:
            plan = self.plan
            if plan is None or (plan.only and not re.search(plan.only, name)):
                return
            if plan.action in {"fail", "hang"} and fail(plan) is None:
                return
            self.seen.append(name)
            number = len(self.seen)
            if not plan.at or not (number == plan.at or (plan.lasting and number > plan.at)):
                return
            # Before anybody can disarm: a kill that comes after that would be one that nobody planned.
            if number == plan.at:
                self.tell({"fired": name, "number": number})
            if plan.action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        if plan.action == "hang":
            time.sleep(plan.seconds)
        elif plan.action == "pause":
            self.resume.wait(20)
        elif error := fail(plan):
            raise error

    def below_root(self, path: object) -> str | None:
        """The path from the node's root on, None for a file that is none of ours."""
        if isinstance(path, int):
            if path < 0:
                return None
            try:
                path = os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115 - many a time
            except OSError:
                return None
        try:
            text = os.fsdecode(path)  # type: ignore[arg-type]
        except TypeError:
            return None
        root = str(self.root)
        return text.removeprefix(root + "/") if text.startswith(root + "/") else None


def install(points: Points) -> None:
    """Make every effect of this process a point."""
    _files(points)
    _writes(points)
    _hardware(points)
    _nvml(points)
    _api(points)


def _files(points: Points) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if points.plan is None:
            return
        kind = event
        match event:
            case "open":
                path, mode, flags = arguments
                if flags & (os.O_CREAT | os.O_TRUNC):
                    kind = "create"
                elif flags & WRITE_FLAGS or (isinstance(mode, str) and set(mode) & set("wax+")):
                    kind = "open to write"
                else:
                    kind = "read"
            case "os.rename" | "os.link" | "os.symlink":
                path = arguments[1] if points.below_root(arguments[1]) else arguments[0]
            case "fcntl.flock":
                # Giving a lock back by closing is not seen; nothing is changed by it.
                path = arguments[0]
            case "socket.connect":
                path, kind = str(arguments[1]), "connect"
            case _ if event.startswith(("os.", "shutil.")) and arguments:
                path = arguments[0]
            case _:
                return
        where = points.below_root(path)
        if where is None or (kind != "connect" and where.endswith(".log")):
            return
        kind = kind.removeprefix("os.").removeprefix("fcntl.")
        points.reached(kind, where, lambda plan: _os_error(plan, kind, str(path)))

    sys.addaudithook(hook)


def _os_error(plan: Plan, kind: str, path: str) -> OSError | None:
    if kind in {"connect", "putenv", "unsetenv", "fork"}:
        return None
    if plan.error == errno.ENOSPC and kind not in FULL:
        return None
    if plan.error == errno.EROFS and kind not in CHANGES:
        return None
    if plan.error == errno.EACCES and kind in {"flock", "write"}:
        return None
    return OSError(plan.error, os.strerror(plan.error), path) if plan.error else None


def _writes(points: Points) -> None:
    """Writing has no audit event. The content of a file is written in two halves, so that it can be torn."""
    plain_open, plain = io.open, {name: getattr(os, name) for name in ("write", "pwrite", "writev", "fsync")}

    class Torn(io.FileIO):
        _halved = False

        def write(self, data: Any) -> int:
            where = points.below_root(self.name)
            if where is not None and not where.endswith(".log"):
                points.reached("write", where, lambda plan: _os_error(plan, "write", where))
                if not self._halved and len(data) > 1:
                    self._halved = True
                    data = memoryview(data)[: len(data) // 2]
            return super().write(data)

    def opened(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
        if points.plan is None or not set(mode) & set("wax+") or buffering == 0 or points.below_root(file) is None:
            return plain_open(file, mode, buffering, *more, **options)
        raw = Torn(os.fspath(file), mode.replace("b", "").replace("t", ""))
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffer
        return io.TextIOWrapper(buffer, *more, **options)

    io.open = opened  # type: ignore[assignment]
    builtins.open = opened  # type: ignore[assignment]

    halved: dict[str, bool] = {}

    def stand_in(name: str) -> Callable[..., Any]:
        @functools.wraps(plain[name])
        def call(descriptor: int, *arguments: Any) -> Any:
            where = points.below_root(descriptor) if points.plan is not None else None
            if where is not None and not where.endswith(".log"):
                points.reached("write", f"{where} ({name})", lambda plan: _os_error(plan, "write", where))
                if name == "write" and len(arguments[0]) > 1 and not halved.pop(where, False):
                    halved[where] = True
                    return plain[name](descriptor, memoryview(arguments[0])[: len(arguments[0]) // 2])
            return plain[name](descriptor, *arguments)

        return call

    for name in plain:
        setattr(os, name, stand_in(name))


def _hardware(points: Points) -> None:
    """Each call of the fake backend, before and after; found in the Protocols, so that a new one is there by itself."""
    from driver.hardware.fake.fake_backend import FakeBackend

    def failure(plan: Plan) -> BackendError:
        return BackendError("the hardware refused: injected")

    def stand_in(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            points.reached("hardware", f"{name}, before", failure)
            answer = method(*arguments, **options)
            points.reached("hardware", f"{name}, after", failure)
            return answer

        return call

    for part in (Backend, Partitioner, Sharer, Watcher):
        for name, method in vars(part).items():
            if callable(method) and not name.startswith("_") and name not in QUIET:
                setattr(FakeBackend, name, stand_in(name, getattr(FakeBackend, name)))


def _nvml(points: Points) -> None:
    """Each call of the NVML library that partitions are looked at, made and destroyed with, before and after."""
    import pynvml

    from driver.hardware.nvml import NvmlBackend

    inside = threading.local()
    plain = pynvml._nvmlGetFunctionPointer

    def failure(plan: Plan) -> None:
        return None  # the stand-in's own errors are for that

    def pointer(name: str) -> Callable[..., Any]:
        function = plain(name)
        if not getattr(inside, "operation", ""):
            return function  # type: ignore[no-any-return]

        def call(*arguments: Any) -> Any:
            points.reached("nvml", f"{name}, before", failure)
            answer = function(*arguments)
            points.reached("nvml", f"{name}, after", failure)
            return answer

        return call

    def stand_in(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            inside.operation = name
            try:
                return method(*arguments, **options)
            finally:
                inside.operation = ""

        return call

    pynvml._nvmlGetFunctionPointer = pointer
    for name in ("partitions", "create_partition", "destroy_partition", "make_whole"):
        setattr(NvmlBackend, name, stand_in(name, getattr(NvmlBackend, name)))


def _api(points: Points) -> None:
    request = Api.request

    def failure(plan: Plan) -> ApiError:
        return ApiError(0, "no answer from the API server: injected")

    @functools.wraps(request)
    async def call(self: Api, method: str, path: str, **options: Any) -> Any:
        points.reached("api", f"{method} {path}, before", failure)
        answer = await request(self, method, path, **options)
        points.reached("api", f"{method} {path}, after", failure)
        return answer

    Api.request = call  # type: ignore[method-assign]
