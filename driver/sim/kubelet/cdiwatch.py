"""When a runtime looks at its CDI directories again: only for some of the events in them.

The rules are those of the library that container runtimes share (container-device-interface, ``pkg/cdi/cache.go``): a
file that is created or moved in is not a reason to look, one that is moved out, deleted or written to is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from asyncinotify import Inotify, Mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asyncinotify import Event, Watch

logger = logging.getLogger(__name__)

SUFFIXES = (".json", ".yaml")
RENAMED = Mask.MOVED_FROM | Mask.MOVE_SELF
REMOVED = Mask.DELETE | Mask.DELETE_SELF
WRITTEN = Mask.MODIFY


class SpecWatch:
    """Watches directories that may be missing. ``outdated`` is called for what makes a runtime read them again."""

    def __init__(self, directories: Sequence[Path], *, outdated: Callable[[], None]) -> None:
        self._watched: dict[Path, Watch | None] = dict.fromkeys(directories)
        self._outdated = outdated
        self._inotify: Inotify | None = None
        try:
            self._inotify = Inotify(sync_timeout=0)
        except OSError as error:
            logger.warning("CDI directories are read at each use, because they cannot be watched: %s", error)
        self._add_missing()

    def catch_up(self) -> None:
        """Handle what has happened until now; a directory that has appeared makes everything outdated."""
        self._handle_events()
        if self._inotify is None or self._add_missing():
            self._outdated()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Handle events as they come, in the running event loop, and close the watch at the end."""
        if self._inotify is None:
            yield
            return
        loop, descriptor = asyncio.get_running_loop(), self._inotify.fd
        loop.add_reader(descriptor, self._handle_events)
        try:
            yield
        finally:
            loop.remove_reader(descriptor)
            self._inotify.close()
            self._inotify = None

    def _handle_events(self) -> None:
        if self._inotify is None:
            return
        # All that are there: with a timeout of zero the iteration ends with them.
        reasons = [event for event in self._inotify if self._matters(event)]
        if reasons:
            self._add_missing()
            self._outdated()

    def _matters(self, event: Event) -> bool:
        if event.mask & Mask.DELETE_SELF and event.watch:
            self._watched[event.watch.path] = None
        if event.mask & Mask.MOVE_SELF and event.watch and self._inotify:
            # A directory that was moved is not watched any more, nor is another one that takes its place.
            self._inotify.rm_watch(event.watch)
        if event.mask & WRITTEN:
            return event.name is not None and event.name.suffix in SUFFIXES
        return bool(event.mask & (RENAMED | REMOVED))

    def _add_missing(self) -> bool:
        if self._inotify is None:
            return False
        added = False
        for directory in [path for path, watch in self._watched.items() if watch is None]:
            with contextlib.suppress(OSError):
                self._watched[directory] = self._inotify.add_watch(directory, RENAMED | REMOVED | WRITTEN)
                added = True
        return added
