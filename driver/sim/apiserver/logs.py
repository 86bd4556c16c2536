"""Logs of pods: text that the kubelet's part hands in, read back by ``kubectl logs``, also while it grows."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from typing import Any

    LogReader = Callable[[Mapping[str, Any], str, bool, int | None], AsyncIterator[bytes]]
    """``(pod, container, follow, tail_lines) -> chunks``."""

_LIMIT = 4 << 20


@dataclass(slots=True)
class _Log:
    data: bytearray = field(default_factory=bytearray)
    start: int = 0
    """Bytes that were dropped from the front."""
    closed: bool = False
    grew: asyncio.Event = field(default_factory=asyncio.Event)


class Logs:
    """By pod UID and container name. Each log keeps its newest 4 MiB."""

    def __init__(self) -> None:
        self._logs: defaultdict[tuple[str, str], _Log] = defaultdict(_Log)

    def append(self, pod_uid: str, container: str, text: str | bytes) -> None:
        """Add output of a container."""
        log = self._logs[pod_uid, container]
        log.data += text.encode() if isinstance(text, str) else text
        if len(log.data) > _LIMIT:
            excess = len(log.data) - _LIMIT
            del log.data[:excess]
            log.start += excess
        self._wake(log)

    def close(self, pod_uid: str, container: str | None = None) -> None:
        """The container (or each of the pod's) writes no more: readers that follow come to an end."""
        for (uid, name), log in self._logs.items():
            if uid == pod_uid and container in {None, name}:
                log.closed = True
                self._wake(log)

    def drop(self, pod_uid: str) -> None:
        """The pod is gone."""
        self.close(pod_uid)
        for key in [key for key in self._logs if key[0] == pod_uid]:
            del self._logs[key]

    def _wake(self, log: _Log) -> None:
        log.grew.set()
        log.grew = asyncio.Event()

    def text(self, pod_uid: str, container: str) -> bytes:
        """All that is kept."""
        log = self._logs.get((pod_uid, container))
        return bytes(log.data) if log else b""

    async def read(
        self, pod_uid: str, container: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield what is there (the last ``tail`` lines of it), and with ``follow`` what comes, until it is closed."""
        log = self._logs[pod_uid, container] if follow else self._logs.get((pod_uid, container), _Log())
        position = log.start
        if tail is not None:
            lines = bytes(log.data).splitlines(keepends=True)
            position += sum(map(len, lines[: max(0, len(lines) - tail)]))
        while True:
            position = max(position, log.start)
            chunk = bytes(log.data[position - log.start :])
            position += len(chunk)
            if chunk:
                yield chunk
                continue
            if not follow or log.closed:
                return
            await log.grew.wait()
