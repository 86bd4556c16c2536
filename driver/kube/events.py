"""Events on our Node: what an operator should see with ``kubectl describe node``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from driver.kube.client import Api, ApiError

if TYPE_CHECKING:
    from typing import Literal

logger = logging.getLogger(__name__)

WAITING = 100
"""Events that wait to be written at the most; what is too much is in the log."""


class NodeEvents:
    """Writes Events. One that cannot be written is logged and forgotten: the log line of its cause is there anyway."""

    def __init__(self, api: Api, *, node_name: str, component: str) -> None:
        self._api = api
        self._node = node_name
        self._component = component
        self._waiting: asyncio.Queue[tuple[Literal["Normal", "Warning"], str, str]] = asyncio.Queue(maxsize=WAITING)

    def tell(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Have one written soon."""
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait((kind, reason, message))

    def warn(self, reason: str, message: str) -> None:
        """Have a warning written soon."""
        self.tell("Warning", reason, message)

    async def run(self) -> None:
        """Write what is told, for ever."""
        while True:
            await self.write(*await self._waiting.get())

    async def write(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Write one Event. Needs the verb 'create' on 'events'."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{self._node[:50].rstrip('-.')}-", "namespace": "default"},
            # The node's UID is its name in Events about nodes: that is how the kubelet writes them.
            "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": self._node},
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": self._component, "host": self._node},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._api.request("POST", "/api/v1/namespaces/default/events", body=event)
        except ApiError as error:
            logger.warning("Event %s was not written: %s", reason, error)
