"""What a container runtime notices of our CDI specs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncinotify import Inotify, Mask

if TYPE_CHECKING:
    from pathlib import Path

# container-device-interface looks at its directories again for these (pkg/cdi/cache.go), and for a write to a spec.
ALWAYS = Mask.MOVED_FROM | Mask.DELETE
SUFFIXES = (".json", ".yaml")


class Watcher:
    """Counts the inotify events of a directory."""

    def __init__(self, directory: Path) -> None:
        self._inotify = Inotify(sync_timeout=0)
        everything = Mask.CREATE | Mask.DELETE | Mask.MODIFY | Mask.MOVE | Mask.ATTRIB | Mask.CLOSE_WRITE
        self._inotify.add_watch(directory, everything)

    def counts(self) -> tuple[int, int]:
        """Since the last look: events on which a runtime reads the directory again, and all events."""
        scans = raw = 0
        for event in self._inotify:
            raw += 1
            written = event.mask & Mask.MODIFY and event.name is not None and event.name.suffix in SUFFIXES
            scans += bool(written or event.mask & ALWAYS)
        return scans, raw

    def close(self) -> None:
        """End the watch."""
        self._inotify.close()
