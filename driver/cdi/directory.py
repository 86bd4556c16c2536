"""The directory that container runtimes watch: one rename for each claim that is prepared, one unlink when it ends."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from driver.cdi import spec

if TYPE_CHECKING:
    from pathlib import Path


class SpecDirectory:
    """Our files in the CDI root. Methods raise OSError; the caller knows which claim that concerns."""

    def __init__(self, root: Path, *, driver: str) -> None:
        self._root = root
        self._driver = driver
        # Runtimes skip sub-directories, so that a watcher sees a spec appear once and complete.
        self._staging = root / f".{driver}"

    def open(self) -> None:
        """Create the directories, remove what a killed process left half-written."""
        self._staging.mkdir(mode=0o755, parents=True, exist_ok=True)
        for leftover in self._staging.iterdir():
            leftover.unlink(missing_ok=True)

    def path(self, claim_uid: str) -> Path:
        """Where the spec of a claim is."""
        return self._root / spec.file_name(self._driver, claim_uid)

    def exists(self, claim_uid: str) -> bool:
        """Whether the spec of a claim is there; the directory is often a tmpfs and empty after a reboot."""
        return self.path(claim_uid).exists()

    def write(self, claim_uid: str, content: bytes) -> None:
        """Put a spec in place, atomically, replacing an older one."""
        path = self.path(claim_uid)
        staged = self._staging / path.name
        try:
            try:
                staged.write_bytes(content)
            except FileNotFoundError:
                self._staging.mkdir(mode=0o755, parents=True, exist_ok=True)
                staged.write_bytes(content)
            staged.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                staged.unlink(missing_ok=True)
            raise

    def remove(self, claim_uid: str) -> None:
        """Remove the spec of a claim, if it is there."""
        self.path(claim_uid).unlink(missing_ok=True)

    def clean_up(self) -> None:
        """Remove the staging directory, when no instance needs it any more."""
        with contextlib.suppress(OSError):
            self._staging.rmdir()
