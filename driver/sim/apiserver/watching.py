"""Watch streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from driver.sim.apiserver import tables
from driver.sim.apiserver.call import Selection
from driver.sim.apiserver.engine import Engine
from driver.sim.apiserver.errors import StatusError, bad_request
from driver.sim.apiserver.store import Change, Stored, Watcher, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.sim.apiserver.call import Call
    from driver.sim.apiserver.resource import Resource


def head_of(resource: Resource) -> bytes:
    """The beginning of an encoded object, to which ``Stored.tail`` is the rest."""
    return encode({"kind": resource.kind, "apiVersion": resource.group_version})[:-1] + b","


class Encoder:
    """Turns stored objects into bytes as one client wants them: plain, or as tables."""

    def __init__(self, resource: Resource, as_table: str) -> None:
        self._resource = resource
        self._table = as_table
        self._head = head_of(resource)
        self._headers = True

    def one(self, stored: Stored) -> bytes:
        """One object, also as a table of one row."""
        if self._table:
            rows = tables.table(
                self._resource, [stored.obj], stored.version, include=self._table, columns=self._headers
            )
            self._headers = False
            return encode(rows)
        return self._head + stored.tail

    def event(self, kind: str, stored: Stored) -> bytes:
        """One line of a watch."""
        return b'{"type":"' + kind.encode() + b'","object":' + self.one(stored) + b"}\n"


def event_for(change: Change, selection: Selection) -> tuple[str, Stored] | None:
    """What a change is to a client that sees only its selection."""
    old, new = change.old, change.new
    was = old is not None and selection.matches(old.obj)
    if new is None:
        return ("DELETED", old) if was and old is not None else None
    now = selection.matches(new.obj)
    if now:
        return ("MODIFIED" if was else "ADDED", new)
    if was and old is not None:
        meta = {**old.obj["metadata"], "resourceVersion": str(change.version)}
        return ("DELETED", Stored({**old.obj, "metadata": meta}, change.version))
    return None


class Watch:
    """One watch: where it starts, what it wants, how long it lasts."""

    def __init__(
        self,
        engine: Engine,
        call: Call,
        selection: Selection,
        query: Mapping[str, str],
        *,
        as_table: str,
        bookmarks: float,
    ) -> None:
        self._engine = engine
        self._call = call
        self._selection = selection
        self._encoder = Encoder(call.resource, as_table)
        self._bookmark_seconds = bookmarks if query.get("allowWatchBookmarks") in {"true", "1"} else 0.0
        self._timeout = _seconds(query.get("timeoutSeconds"))
        version = query.get("resourceVersion") or ""
        if version and not version.isdigit():
            raise bad_request(f'invalid resource version "{version}": a number is expected')
        self._initial = query.get("sendInitialEvents") in {"true", "1"}
        self._from_now = self._initial or version in {"", "0"}
        self._version = int(version or 0)
        self._error: StatusError | None = None
        if not self._from_now:
            try:
                engine.check_watch_version(call.resource, self._version)
            except StatusError as error:
                self._error = error

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Stream until the time is over, the client is gone, or the server ends it."""
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        )
        collection = self._engine.store.collection(self._call.resource.plural)
        watcher = Watcher()
        if self._error is not None:
            # The real server says so in the stream, with HTTP status 200.
            await response.prepare(request)
            await response.write(b'{"type":"ERROR","object":' + encode(self._error.status()) + b"}\n")
            return response
        # From here to the first await nothing is written, so that no change is missed or seen twice.
        begin = self._begin(watcher)
        collection.watchers.add(watcher)
        try:
            await response.prepare(request)
            if begin:
                await response.write(begin)
            await self._follow(response, watcher)
        except ConnectionError:
            pass
        finally:
            collection.watchers.discard(watcher)
        return response

    def _begin(self, watcher: Watcher) -> bytes:
        if self._from_now:
            found = self._engine.select(self._call, self._selection)
            lines = [self._encoder.event("ADDED", stored) for stored in found]
            if self._initial:  # what an informer lists by
                lines.append(self._bookmark(self._engine.store.version, {"k8s.io/initial-events-end": "true"}))
            return b"".join(lines)
        for change in self._engine.store.collection(self._call.resource.plural).history:
            if change.version > self._version:
                watcher.queue.put_nowait(change)
        return b""

    def _bookmark(self, version: int, annotations: Mapping[str, str] | None = None) -> bytes:
        resource = self._call.resource
        meta = {"resourceVersion": str(version), "creationTimestamp": None, "annotations": annotations}
        obj = {"kind": resource.kind, "apiVersion": resource.group_version, "metadata": meta}
        return b'{"type":"BOOKMARK","object":' + encode(obj) + b"}\n"

    async def _follow(self, response: web.StreamResponse, watcher: Watcher) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout
        while True:
            left = end - loop.time()
            try:
                async with asyncio.timeout(min(left, self._bookmark_seconds or left)):
                    change = await watcher.queue.get()
            except TimeoutError:
                if self._bookmark_seconds and watcher.queue.empty():
                    await response.write(self._bookmark(self._engine.store.version))
                if loop.time() >= end:
                    return
                continue
            lines = []
            while change is not None:
                event = event_for(change, self._selection)
                if event is not None:
                    lines.append(self._encoder.event(*event))
                if watcher.queue.empty():
                    break
                change = watcher.queue.get_nowait()
            if lines:
                await response.write(b"".join(lines))
            if change is None:
                return


def _seconds(text: str | None) -> float:
    if not text:
        return 1800.0
    if not text.isdigit():
        raise bad_request(f'timeoutSeconds: a number is expected, not "{text}"')
    return float(text) or 1800.0
