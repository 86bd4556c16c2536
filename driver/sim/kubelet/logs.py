"""Output of containers, read from the files of their sandboxes, also while they grow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

CHUNK = 64 << 10
POLL = 0.1


async def read(
    path: Path, *, growing: Callable[[], bool], tail: int | None = None, poll: float = POLL
) -> AsyncIterator[bytes]:
    """Yield a file (its last ``tail`` lines), then what is added while ``growing`` says that more may come."""
    position = _tail(path, tail) if tail is not None else 0
    while True:
        more = growing()  # asked before the read: what was written before the end is then not missed
        chunk = _chunk(path, position)
        position += len(chunk)
        if chunk:
            yield chunk
        elif more:
            await asyncio.sleep(poll)
        else:
            return


def _chunk(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read(CHUNK)
    except FileNotFoundError:
        return b""


def _tail(path: Path, lines: int) -> int:
    """Where the last lines begin."""
    try:
        whole = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    return sum(map(len, whole[: max(0, len(whole) - lines)]))
