"""Events about pods, written in the background; the same one again only raises a count."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Any

from driver.kube import MERGE_PATCH, ApiError
from driver.sim.kubelet.podspec import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.kube import Api

logger = logging.getLogger(__name__)

MESSAGE_LIMIT = 1024
QUEUE_SIZE = 1000
KNOWN_LIMIT = 4096


class Recorder:
    """``record`` returns at once; ``run`` does the writing."""

    def __init__(self, *, api: Api, node_name: str, clock: Callable[[], float]) -> None:
        self._api = api
        self._node_name = node_name
        self._clock = clock
        self._queue: asyncio.Queue[tuple[tuple[str, ...], dict[str, Any]]] = asyncio.Queue(QUEUE_SIZE)
        self._known: dict[tuple[str, ...], tuple[str, int]] = {}

    def record(
        self, pod: Mapping[str, Any], kind: str, reason: str, message: str, *, container: str = "", init: bool = False
    ) -> None:
        """Queue an event of type ``Normal`` or ``Warning``. When the queue is full it is dropped."""
        metadata = pod["metadata"]
        involved = {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        if container:
            involved["fieldPath"] = f"spec.{'initContainers' if init else 'containers'}{{{container}}}"
        now = timestamp(self._clock())
        event: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "namespace": metadata["namespace"],
                "name": f"{metadata['name'][:200]}.{uuid.uuid4().hex[:16]}",
            },
            "involvedObject": involved,
            "type": kind,
            "reason": reason,
            "message": message[:MESSAGE_LIMIT],
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "kubelet", "host": self._node_name},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node_name,
        }
        key = (metadata["uid"], container, kind, reason, event["message"])
        try:
            self._queue.put_nowait((key, event))
        except asyncio.QueueFull:
            logger.warning("event dropped, too many are waiting: %s %s", reason, message)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            key, event = await self._queue.get()
            try:
                await self._write(key, event)
            except ApiError as error:
                logger.warning("cannot write event %s: %s", event["reason"], error)

    async def _write(self, key: tuple[str, ...], event: dict[str, Any]) -> None:
        path = f"/api/v1/namespaces/{event['metadata']['namespace']}/events"
        if key in self._known:
            name, count = self._known[key]
            try:
                body = {"count": count + 1, "lastTimestamp": event["lastTimestamp"]}
                await self._api.request("PATCH", f"{path}/{name}", body=body, content_type=MERGE_PATCH)
            except ApiError as error:
                if error.status != 404:
                    raise
            else:
                self._known[key] = (name, count + 1)
                return
        await self._api.request("POST", path, body=event)
        self._known.pop(key, None)
        self._known[key] = (event["metadata"]["name"], 1)
        if len(self._known) > KNOWN_LIMIT:
            del self._known[next(iter(self._known))]
