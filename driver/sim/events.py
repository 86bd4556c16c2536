"""Events on pods: one object per message, counted when it repeats."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from driver.kube import MERGE_PATCH, Api, ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

REMEMBERED = 1024
MAX_MESSAGE = 1024
QUEUE_SIZE = 1000


def timestamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds, as ``metav1.Time``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Recorder:
    """Writes Events of one component. A server that refuses them is no reason to stop work.

    ``event`` writes at once; ``record`` returns at once, and ``run`` does its writing.
    """

    def __init__(
        self,
        api: Api,
        component: str,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        host: str = "",
    ) -> None:
        self._api = api
        self._component = component
        self._clock = clock
        self._host = host
        self._known: OrderedDict[tuple[str, ...], tuple[str, int]] = OrderedDict()
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(QUEUE_SIZE)

    def record(self, pod: Mapping[str, Any], kind: str, reason: str, message: str, *, field: str = "") -> None:
        """Queue an event of type ``Normal`` or ``Warning``; when the queue is full it is dropped."""
        try:
            self._queue.put_nowait(self._body(pod, kind, reason, message, field))
        except asyncio.QueueFull:
            logger.warning("event dropped, too many are waiting: %s %s", reason, message)

    async def run(self) -> None:
        """Write what was recorded, until cancelled."""
        while True:
            await self._write(await self._queue.get())

    async def event(self, pod: Mapping[str, Any], kind: str, reason: str, message: str) -> None:
        """Write an event of type ``Normal`` or ``Warning``."""
        await self._write(self._body(pod, kind, reason, message, ""))

    def _body(self, pod: Mapping[str, Any], kind: str, reason: str, message: str, field: str) -> dict[str, Any]:
        meta, now = pod["metadata"], timestamp(self._clock())
        involved = {"kind": "Pod", "apiVersion": "v1"} | {key: meta[key] for key in ("namespace", "name", "uid")}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name'][:200]}.{secrets.token_hex(8)}", "namespace": meta["namespace"]},
            "involvedObject": involved | ({"fieldPath": field} if field else {}),
            "reason": reason,
            "message": message[:MAX_MESSAGE],
            "type": kind,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": self._component} | ({"host": self._host} if self._host else {}),
            "reportingComponent": self._component,
            "reportingInstance": self._host or self._component,
        }

    async def _write(self, body: dict[str, Any]) -> None:
        involved = body["involvedObject"]
        key = (involved["uid"], involved.get("fieldPath", ""), body["reason"], body["message"])
        collection = f"/api/v1/namespaces/{involved['namespace']}/events"
        name, count = self._known.pop(key, ("", 0))
        try:
            if name:
                change = {"count": count + 1, "lastTimestamp": body["lastTimestamp"]}
                await self._api.request("PATCH", f"{collection}/{name}", body=change, content_type=MERGE_PATCH)
            else:
                name = (await self._api.request("POST", collection, body=body))["metadata"]["name"]
        except ApiError as error:
            logger.warning("event %s for pod %s not recorded: %s", body["reason"], involved["name"], error)
            return
        self._known[key] = (name, count + 1)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
