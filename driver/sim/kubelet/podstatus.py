"""Writing a pod's status: only when it differs, never over somebody else's newer version."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from driver.kube import MERGE_PATCH, ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.kube import Api

logger = logging.getLogger(__name__)

WRITE_RETRY = 0.5
CONFLICT = 409
NOT_FOUND = 404


class StatusWriter:
    """Keeps ``pod().status`` equal to ``status()``; set ``dirty`` when the latter may have changed."""

    def __init__(
        self,
        *,
        api: Api,
        pod: Callable[[], dict[str, Any]],
        status: Callable[[], dict[str, Any] | None],
        written: Callable[[dict[str, Any]], None],
        gone: asyncio.Event,
        resync: Callable[[], float],
    ) -> None:
        self._api = api
        self._pod = pod
        self._status = status
        self._written = written
        self._gone = gone
        self._resync = resync
        self._writing = asyncio.Lock()
        self.dirty = asyncio.Event()

    async def run(self) -> None:
        """Write until the pod is gone; without any change look again after ``resync()`` seconds."""
        while not self._gone.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.dirty.wait(), self._resync())
            self.dirty.clear()
            await self.insist()

    async def insist(self) -> None:
        """Write until it has worked, or the pod is gone."""
        while not self._gone.is_set():
            try:
                await self.write()
            except ApiError as error:
                logger.warning("cannot write the status of a pod, trying again: %s", error)
                await asyncio.sleep(error.retry_after or WRITE_RETRY)
            else:
                return

    async def write(self) -> None:
        """Write once, if there is a difference. Raises ApiError."""
        async with self._writing:
            while not self._gone.is_set():
                pod, status = self._pod(), self._status()
                old = pod.get("status") or {}
                if status is None or all(old.get(key) == value for key, value in status.items()):
                    return
                version = {key: pod["metadata"].get(key) for key in ("uid", "resourceVersion")}
                try:
                    answer = await self._api.request(
                        "PATCH",
                        f"{pod_path(pod)}/status",
                        body={"metadata": version, "status": status},
                        content_type=MERGE_PATCH,
                    )
                except ApiError as error:
                    if error.status == NOT_FOUND:
                        return
                    if error.status != CONFLICT or not await self._refresh(pod):
                        raise
                else:
                    # No second look: a server that drops a field that it does not know would keep us busy for ever.
                    self._written(answer)
                    return

    async def _refresh(self, pod: Mapping[str, Any]) -> bool:
        """After a conflict: get the newest version. False if this pod is no longer there."""
        newest = await self._api.get(pod_path(pod))
        if newest["metadata"]["uid"] != pod["metadata"]["uid"]:
            return False
        self._written(newest)
        return True


def pod_path(pod: Mapping[str, Any]) -> str:
    """Path of a pod's object."""
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
