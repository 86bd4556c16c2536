"""The directory that NVIDIA's driver is installed in, which this process may see elsewhere than the host does."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path

_MAX_LINKS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverRoot:
    """A file system tree with its own idea of ``/``. Paths *inside* are absolute and start at the tree's top."""

    path: Path = Path("/")
    """The tree as this process sees it."""
    host: str = "/"
    """The same directory as the host, and so its container runtime, sees it."""

    @property
    def is_host(self) -> bool:
        """Whether the tree is the host's own root, in which programs of the host can be looked for."""
        return self.host == "/"

    def here(self, inside: str) -> Path:
        """Where this process finds a path inside that has no symbolic links."""
        return self.path / inside.lstrip("/")

    def on_host(self, inside: str) -> str:
        """Where the host finds a path inside that has no symbolic links."""
        return self.host.rstrip("/") + inside

    def resolve(self, inside: str) -> str | None:
        """A path inside without symbolic links, as a process finds it whose root this is; None if nothing is there.

        An absolute link of the tree leads to somewhere in the tree, and no link leads out of it.
        """
        return _resolve(self.path, inside)

    def find(self, *candidates: str) -> str | None:
        """The first of these that is there and no directory, resolved."""
        for candidate in candidates:
            resolved = self.resolve(candidate)
            status = self.status(resolved) if resolved is not None else None
            if status is not None and not stat.S_ISDIR(status.st_mode):
                return resolved
        return None

    def names(self, inside: str) -> list[str]:
        """Names in a directory, sorted; none if there is no such directory or nobody may read it."""
        resolved = self.resolve(inside)
        try:
            return sorted(os.listdir(self.here(resolved))) if resolved is not None else []  # noqa: PTH208
        except OSError:
            return []

    def status(self, inside: str) -> os.stat_result | None:
        """The status of a resolved path; None if it is gone."""
        try:
            return self.here(inside).lstat()
        except OSError:
            return None


def _resolve(root: Path, inside: str) -> str | None:
    done: list[str] = []
    todo = deque(inside.split("/"))
    links = 0
    while todo:
        part = todo.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            del done[-1:]
            continue
        path = "/".join((str(root).rstrip("/"), *done, part))
        try:
            target = os.readlink(path)  # noqa: PTH115
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: there, and no link
                return None
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        if target.startswith("/"):
            done.clear()
        todo.extendleft(reversed(target.split("/")))
    return "/" + "/".join(done)
