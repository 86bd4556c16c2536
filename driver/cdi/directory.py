"""The directory that container runtimes watch, and the events that they see in it.

Runtimes share one library (container-device-interface): it skips sub-directories, ignores that a file was created or
moved in, and reads the whole directory again when a spec is written to or anything is moved out or deleted. So a spec
is moved in complete, which is not noticed, and then announced: its first byte is written again. One scan for each claim
that is prepared and one when it ends, and no runtime ever sees half a file.

A spec that was moved in and not announced yet carries the time stamp 0, so that a process that dies between the two
leaves something to see. Whoever announces, and however many do, changes no byte of whosever spec is there by then.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from driver.base import files
from driver.cdi.spec import spec_file_name

if TYPE_CHECKING:
    from pathlib import Path


class SpecDirectory:
    """Our files in the CDI root. Methods raise OSError; the caller knows which claim that concerns."""

    def __init__(self, root: Path, *, driver: str) -> None:
        self._root = root
        self._driver = driver
        self._staging = root / f".{driver}"

    def open(self) -> None:
        """Create the directories, remove what killed processes left half-written."""
        self._staging.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.tidy()

    def probe(self) -> None:
        """Raise OSError where specs cannot be written. Runtimes do not notice it."""
        self._staging.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not os.access(self._root, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(self._root))
        name = spec_file_name(self._driver, "probe")  # that of a spec, for whoever cleans up
        probe = f"{self._staging}{os.sep}{files.temporary_name(name)}"
        files.write(probe, b"{}")
        files.remove(probe)

    def tidy(self, *, older: float = files.ABANDONED) -> None:
        """Remove what killed instances left half-written; ``older`` in seconds, because others may be writing now."""
        files.tidy(str(self._staging), older=older, also=[".+"])

    @property
    def root(self) -> Path:
        """The CDI root."""
        return self._root

    def path(self, claim_uid: str) -> Path:
        """Where the spec of a claim is."""
        return self._root / spec_file_name(self._driver, claim_uid)

    def exists(self, claim_uid: str) -> bool:
        """Whether there is a spec of a claim."""
        return files.status(self._file(claim_uid)) is not None

    def settled(self, claim_uid: str) -> bool:
        """Whether the spec of a claim is in place; announces it where a process died before it could.

        The directory is often a tmpfs and empty after a reboot.
        """
        path = self._file(claim_uid)
        status = files.status(path)
        if status is None:
            return False
        if status.st_mtime == 0:
            _announce(path)
        return True

    def write(self, claim_uid: str, content: bytes) -> None:
        """Put a spec in place, atomically, replacing an older one, and have the runtimes read it."""
        path = self._file(claim_uid)
        staging = str(self._staging)
        try:
            files.replace(path, content, staging=staging, mtime_ns=0)
        except FileNotFoundError:  # nobody has made it yet, or an administrator has removed it
            self._staging.mkdir(mode=0o755, parents=True, exist_ok=True)
            files.replace(path, content, staging=staging, mtime_ns=0)
        _announce(path)

    def read(self, claim_uid: str) -> bytes | None:
        """The spec of a claim, None where there is none."""
        try:
            return files.read(self._file(claim_uid))
        except FileNotFoundError:
            return None

    def claim_uids(self) -> set[str]:
        """UIDs of all claims that have a spec of ours."""
        prefix, suffix = spec_file_name(self._driver, "\0").split("\0")
        names = (path.name for path in self._root.iterdir())
        return {name[len(prefix) : -len(suffix)] for name in names if name.startswith(prefix) and name.endswith(suffix)}

    def remove(self, claim_uid: str) -> None:
        """Remove the spec of a claim, if it is there."""
        files.remove(self._file(claim_uid))

    def _file(self, claim_uid: str) -> str:
        return f"{self._root}{os.sep}{spec_file_name(self._driver, claim_uid)}"


def _announce(path: str) -> None:
    files.overwrite(path, b"{")
