"""Who of several live instances on a node publishes: the one that came last, as long as it lives.

During a rolling upgrade old and new run side by side, and what they would publish differs. Each has a file in a
directory of the node, with a number in its name that is higher than those before it, and keeps it locked (``flock``):
the kernel lets go of the lock when a process ends, however it ends. An instance comes here when it is ready to publish,
so one that crashes at its start changes nothing; one that crashes later gives the lead back to the one before.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import uuid
from typing import TYPE_CHECKING

from driver.base import files
from driver.base.threads import in_daemon_thread

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

_NAME = re.compile(r"([0-9]{8,18})-[0-9a-f]{32}")
_ENTERING = ".entering-"
# One that comes at the same moment may take us for dead before we have our lock.
ATTEMPTS = 3


class Lead:
    """This instance's place among those of the node. Every method is quick but ``gone``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._name = ""
        self._descriptor = -1
        self._trouble = ""

    def later(self) -> str | None:
        """A live instance that came after us, by its file's name; None where we are the last, and so the publisher.

        The first call takes our place. Where the directory cannot be written, whoever is there counts as later.
        """
        for _ in range(ATTEMPTS):
            if not self._name:
                self._enter()
        others = [name for name in self._names() if name > self._name]
        return next((name for name in reversed(others) if self._alive(name)), None)

    def is_elsewhere(self) -> bool:
        """Whether another live instance publishes: one that came after us, or any as long as we have no place."""
        return any(self._alive(name) for name in self._names() if name > self._name)

    async def gone(self, name: str) -> None:
        """Wait until that instance has ended or left. Nothing is polled; may be cancelled."""
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return

        def wait() -> None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            finally:
                os.close(descriptor)

        await in_daemon_thread(wait, name="lead")

    def leave(self) -> None:
        """Let those before us publish again."""
        if self._name:
            with contextlib.suppress(OSError):
                files.remove(self._path(self._name))
            os.close(self._descriptor)
            self._name, self._descriptor = "", -1

    def _enter(self) -> None:
        entering = self._path(f"{_ENTERING}{uuid.uuid4().hex}")
        descriptor = -1
        try:
            self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            descriptor = os.open(entering, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            # Locked before anybody can see it, so that nobody takes it for a dead one's.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_leftovers(entering)
            number = 1 + max((int(name.partition("-")[0]) for name in self._names()), default=0)
            name = f"{number:08d}-{uuid.uuid4().hex}"
            files.rename(entering, self._path(name))
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            with contextlib.suppress(OSError):
                files.remove(entering)
            trouble = f"{self._directory}: {error.strerror}"  # the file has another name each time
            if trouble != self._trouble:
                logger.error("other instances cannot be told that this one publishes: %s", trouble)
            self._trouble = trouble
        else:
            self._name, self._descriptor, self._trouble = name, descriptor, ""

    def _alive(self, name: str) -> bool:
        """Whether the instance still runs; what a dead one left is removed: no name is ever used twice."""
        path = self._path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            with contextlib.suppress(OSError):
                files.remove(path)
            return False
        finally:
            os.close(descriptor)

    def _remove_leftovers(self, own: str) -> None:
        """Files of instances that died, also of those that died while they came."""
        for path in self._directory.iterdir():
            if str(path) != own and (path.name.startswith(_ENTERING) or _NAME.fullmatch(path.name)):
                self._alive(path.name)

    def _names(self) -> list[str]:
        try:
            return sorted(path.name for path in self._directory.iterdir() if _NAME.fullmatch(path.name))
        except OSError:
            return []

    def _path(self, name: str) -> str:
        return f"{self._directory}{os.sep}{name}"
