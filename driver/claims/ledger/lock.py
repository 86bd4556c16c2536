"""A file at which all instances of the driver on a node exclude each other."""

from __future__ import annotations

import asyncio
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.base.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class FileLock:
    """An exclusive ``flock``. It ends with the process that holds it, however that ends.

    At once where it is free; otherwise a thread waits for it, a single one for all who wait in this process: it cannot
    be interrupted, and an instance that is stopped while it holds the lock keeps it for as long as it is.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._queue = asyncio.Lock()
        self._coming: _Coming | None = None

    async def acquire(self, *, within: float | None = None) -> int:
        """Lock the file and return a descriptor; closing that unlocks it. Holders of one process exclude each other.

        Raises TimeoutError when it cannot be had ``within`` so many seconds, OSError when it cannot be had at all.
        """
        if self._coming is None:
            descriptor = _open(self._path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            else:
                return descriptor
        async with asyncio.timeout(within), self._queue:
            return await self._wait()

    async def _wait(self) -> int:
        if self._coming is None:
            self._coming = _Coming.start(_open(self._path), self._unwanted)
        coming = self._coming
        coming.wanted = True
        try:
            await asyncio.shield(coming.locked)
        except asyncio.CancelledError:
            coming.wanted = False
            if coming.locked.done():
                self._unwanted(coming)
            raise
        except OSError:
            self._unwanted(coming)
            raise
        self._coming = None
        return coming.descriptor

    def _unwanted(self, coming: _Coming) -> None:
        """Give back a lock that came when nobody waited for it any more, or that did not come."""
        if self._coming is coming:
            self._coming = None
            os.close(coming.descriptor)


@dataclass(slots=True)
class _Coming:
    """A descriptor for which a thread waits to be locked."""

    descriptor: int
    locked: asyncio.Future[None]
    wanted: bool = False

    @classmethod
    def start(cls, descriptor: int, unwanted: Callable[[_Coming], None]) -> _Coming:
        locked = in_daemon_thread(lambda: fcntl.flock(descriptor, fcntl.LOCK_EX), name="lock")
        coming = cls(descriptor, locked)

        def came(_: object) -> None:
            locked.exception()  # whoever waits gets it, too
            if not coming.wanted:
                unwanted(coming)

        locked.add_done_callback(came)
        return coming


def _open(path: str) -> int:
    try:
        return os.open(path, _OPEN, 0o640)
    except FileNotFoundError:  # an administrator has removed the directory
        os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)  # noqa: PTH103, PTH120
        return os.open(path, _OPEN, 0o640)
