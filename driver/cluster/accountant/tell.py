"""Events about budgets, where people see them: on the ResourceQuota."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Literal

from driver.cluster.accountant.period import iso
from driver.kube import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.cluster.accountant.budget import Quota
    from driver.kube import Api

logger = logging.getLogger(__name__)

WAITING = 2000
"""Events that wait at most: two for each of a thousand budgets."""
COMPONENT = "gpu-dra-accountant"


class Teller:
    """Writes Events. One that cannot be written is logged: metrics and status say the same."""

    def __init__(self, api: Api, *, now: Callable[[], int]) -> None:
        self._api = api
        self._now = now
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=WAITING)

    def tell(self, quota: Quota, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Have one written soon."""
        namespace, name = quota.key
        about = {"apiVersion": "v1", "kind": "ResourceQuota", "namespace": namespace, "name": name, "uid": quota.uid}
        logger.info("%s", message, extra={"quota": f"{namespace}/{name}", "reason": reason})
        now = iso(self._now())[:19] + "Z"
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{name[:50].rstrip('-.')}-", "namespace": namespace},
            "involvedObject": about,
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": COMPONENT},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait(event)

    async def run(self) -> None:
        """Write what is told, for ever."""
        while True:
            event = await self._waiting.get()
            path = f"/api/v1/namespaces/{event['metadata']['namespace']}/events"
            try:
                await self._api.request("POST", path, body=event)
            except ApiError as error:
                logger.warning("Event %s was not written: %s", event["reason"], error)
