"""Events on our Node: what an operator should see with ``kubectl describe node``."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from driver.kube.client import Api, ApiError

if TYPE_CHECKING:
    from typing import Literal

logger = logging.getLogger(__name__)


class NodeEvents:
    """Writes Events. One that cannot be written is logged and forgotten: the log line of its cause is there anyway."""

    def __init__(self, api: Api, *, node_name: str, component: str) -> None:
        self._api = api
        self._node = node_name
        self._component = component

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
