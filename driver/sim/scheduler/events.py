"""Events on pods: one object per message, counted when it repeats."""

from __future__ import annotations

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


def timestamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds, as ``metav1.Time``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Recorder:
    """Writes Events of one component. A server that refuses them is no reason to stop work."""

    def __init__(self, api: Api, component: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._api = api
        self._component = component
        self._clock = clock
        self._known: OrderedDict[tuple[str, str, str], tuple[str, int]] = OrderedDict()

    async def event(
        self, obj: Mapping[str, Any], kind: str, reason: str, message: str, *, api_version: str = "v1", type_: str
    ) -> None:
        """Record an event, ``type_`` Normal or Warning."""
        meta, now = obj["metadata"], timestamp(self._clock())
        message = message[:MAX_MESSAGE]
        key = (str(meta["uid"]), reason, message)
        collection = f"/api/v1/namespaces/{meta.get('namespace') or 'default'}/events"
        name, count = self._known.get(key, ("", 0))
        try:
            if name:
                body: dict[str, Any] = {"count": count + 1, "lastTimestamp": now}
                await self._api.request("PATCH", f"{collection}/{name}", body=body, content_type=MERGE_PATCH)
            else:
                reference = {"kind": kind, "apiVersion": api_version, "name": meta["name"], "uid": meta["uid"]}
                reference |= {"namespace": meta["namespace"]} if meta.get("namespace") else {}
                body = {
                    "apiVersion": "v1",
                    "kind": "Event",
                    "metadata": {
                        "name": f"{meta['name']}.{secrets.token_hex(8)}",
                        "namespace": meta.get("namespace") or "default",
                    },
                    "involvedObject": reference,
                    "reason": reason,
                    "message": message,
                    "type": type_,
                    "count": 1,
                    "firstTimestamp": now,
                    "lastTimestamp": now,
                    "source": {"component": self._component},
                    "reportingComponent": self._component,
                    "reportingInstance": self._component,
                }
                name = (await self._api.request("POST", collection, body=body))["metadata"]["name"]
        except ApiError as error:
            self._known.pop(key, None)
            logger.warning("event %s for %s %s not recorded: %s", reason, kind, meta["name"], error)
            return
        self._known[key] = (name, count + 1)
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
