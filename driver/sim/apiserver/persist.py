"""The state in a file, so that an embedded cluster outlives its process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from driver.sim.apiserver.store import Store

logger = logging.getLogger(__name__)
_DELAY = 0.2


class StateFile:
    """Writes the store to a file a moment after a change, and at the end. One write replaces the file as a whole."""

    def __init__(self, path: Path, store: Store) -> None:
        self._path = path
        self._store = store
        self._written = -1
        self._changed = asyncio.Event()

    def load(self) -> None:
        """Fill the store from the file, if there is one. Raises ValueError for a file that is not one of ours."""
        try:
            state: Any = json.loads(self._path.read_bytes())
            self._store.load(state)
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self._path}: the state of an embedded API server is expected, found something else ({error}); "
                "move the file away to start afresh"
            ) from error
        self._written = self._store.version

    def changed(self, *_: object) -> None:
        """Note that the store has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Write after changes, until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_DELAY)
            self._changed.clear()
            with contextlib.suppress(OSError):
                self.write()

    def write(self) -> None:
        """Write now, unless nothing has changed since the last time. Raises OSError."""
        if self._written == self._store.version:
            return
        version, data = self._store.version, json.dumps(self._store.dump(), separators=(",", ":"))
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            temporary.write_text(data)
            temporary.replace(self._path)
        except OSError as error:
            logger.warning("cannot write the API server's state: %s", error)
            raise
        self._written = version
