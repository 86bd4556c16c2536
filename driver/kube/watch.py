"""List and watch: a local mirror of a collection that survives every way in which a watch can end."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from driver.base.backoff import Backoff
from driver.base.repeat_filter import RepeatFilter
from driver.kube.client import Api, ApiError
from driver.kube.shapes import check_event, check_list, check_object, odd, version_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

logger = logging.getLogger(__name__)

GONE = 410
WATCH_SECONDS = 300
LASTING = 5.0
"""Seconds that a watch lives at least where all is well; after a shorter one comes a pause, however it ended."""


class Mirror:
    """Keeps ``objects`` (by namespace and name) equal to a collection of the API server.

    ``changed`` is called after each change with the object's key; after a relist once with None. A newer object is
    never replaced by an older one, so that the answer to an own write may be put in with ``put``.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        changed: Callable[[tuple[str, str] | None], None] = lambda _key: None,
        check: Callable[[Any, str], dict[str, Any] | None] = check_object,
        page: int | None = None,
        decode: Callable[[bytes], Any] = json.loads,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Dials nothing yet.

        Args:
            api: whom to ask.
            path: the collection.
            params: selectors.
            changed: see the class.
            check: sees each object before it is taken over, and raises ApiError where nobody could use it. What it
                returns is kept in the object's place, with the same metadata.name, namespace and resourceVersion;
                None keeps nothing.
            page: how many objects an answer has at most where all are listed; None for all at once.
            decode: from JSON.
            clock: monotonic.
            sleep: waits for seconds.
        """
        self._page = page
        self._check = check
        self._repeats = RepeatFilter()
        self._clock = clock
        self._sleep = sleep
        self._api = api
        self._decode = decode
        self._path = path
        self._params = dict(params or {})
        self._changed = changed
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.synced = asyncio.Event()
        """Set after the first complete list."""
        self.error: ApiError | None = None
        """Why the mirror is behind, None while it is in step."""
        self._passed = 0
        """Resource version up to which the stream has told everything."""

    @property
    def passed(self) -> int:
        """The version up to which everything has been told; bookmarks move it too."""
        return self._passed

    async def run(self) -> None:
        """List and watch for ever. Ends only by cancellation.

        A round that was short gets a jittered pause that grows with each more of them: a server that refuses,
        or ends each watch at once, is not hammered.
        """
        backoff = Backoff(multiplier=0.25, longest=15)
        short = 0
        version: str | None = None
        while True:
            started, error = self._clock(), None
            try:
                if version is None:
                    version = await self._list()
                    started = self._clock()
                version = await self._watch(version)
            except ApiError as failed:
                version, error = None, failed
                if failed.status != GONE:  # which is normal life of a watch
                    self.error = failed
                    if self._repeats.is_news("", str(failed)):
                        logger.warning("%s; trying again", failed)
            lasted = self._clock() - started >= LASTING
            short = 0 if lasted else short + 1
            if short or self.error is not None:
                await self._sleep(backoff.after(max(short, 1), error))

    def put(self, obj: dict[str, Any]) -> None:
        """Take over the server's answer to a write, unless the mirror has something newer.

        The stream is in order: an object that it has passed and that is not here has been deleted since.
        """
        if object_key(obj) in self.objects or _version(obj) > self._passed:
            self._take(obj)

    def _take(self, obj: dict[str, Any]) -> None:
        key = object_key(obj)
        known = self.objects.get(key)
        if known is None or _version(obj) >= _version(known):
            self.objects[key] = obj

    async def _list(self) -> str:
        what = f"GET {self._path}"
        params = self._params if self._page is None else {**self._params, "limit": self._page}
        found: dict[tuple[str, str], dict[str, Any]] = {}
        version, token = "", ""
        while True:
            asked = {**params, "continue": token} if token else params
            listing = check_list(await self._api.get(self._path, asked, timeout=30, decode=self._decode), what)
            for item in listing["items"]:
                if (kept := self._check(item, what)) is not None:
                    found[object_key(item)] = kept
            version = version or listing["metadata"]["resourceVersion"]
            before, token = token, listing["metadata"].get("continue") or ""
            if not token:
                break
            if not isinstance(token, str) or token == before:
                raise odd(what, "another token as metadata.continue", token)
        self.objects = found
        self.error = None
        self._passed = int(version)
        self.synced.set()
        self._changed(None)
        return version

    async def _watch(self, version: str) -> str:
        since = {**self._params, "resourceVersion": version}
        what = f"WATCH {self._path}"
        # As long as client-go's, and not in step with those of other nodes, which may have begun at the same moment.
        seconds = random.randint(WATCH_SECONDS, 2 * WATCH_SECONDS)  # noqa: S311
        async for answer in self._api.watch(self._path, since, timeout_seconds=seconds, decode=self._decode):
            event = check_event(answer, what)
            self._repeats.over("")
            obj = event["object"]
            version = str(obj["metadata"]["resourceVersion"])
            self._passed = max(self._passed, _version(obj))
            if event["type"] == "BOOKMARK":
                continue
            key, kept = object_key(obj), self._check(obj, what)
            if kept is None or event["type"] == "DELETED":
                if _version(obj) >= _version(self.objects.get(key, obj)):
                    self.objects.pop(key, None)
            else:
                self._take(kept)
            self._changed(key)
        return version


def object_key(obj: Mapping[str, Any]) -> tuple[str, str]:
    """``(namespace, name)``; the namespace is empty for cluster-wide objects."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _version(obj: dict[str, Any]) -> int:
    return version_of(obj, "an object")
