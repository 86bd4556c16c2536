"""Objects in memory, one global resource version, and a bounded history from which watches start."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Key = tuple[str, str]
    Object = dict[str, Any]


class Stored:
    """One version of one object. ``obj`` is never changed; the encoded form is kept for the next reader."""

    __slots__ = ("_tail", "obj", "version")

    def __init__(self, obj: Object, version: int) -> None:
        self.obj = obj
        self.version = version
        self._tail: bytes | None = None

    @property
    def tail(self) -> bytes:
        """The object as JSON less its opening brace, kind and apiVersion: each reader puts its own in front."""
        if self._tail is None:
            rest = {key: value for key, value in self.obj.items() if key not in {"kind", "apiVersion"}}
            self._tail = encode(rest)[1:]
        return self._tail


def encode(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class Change:
    """One write. ``new`` is None for a deletion; ``old`` is None for a creation."""

    version: int
    key: Key
    old: Stored | None
    new: Stored | None


@dataclass(slots=True, eq=False)
class Watcher:
    """A queue of changes; None ends the watch."""

    queue: asyncio.Queue[Change | None] = field(default_factory=asyncio.Queue)


@dataclass(slots=True)
class Collection:
    """All objects of one resource."""

    objects: dict[Key, Stored] = field(default_factory=dict)
    history: deque[Change] = field(default_factory=deque)
    forgotten: int = 0
    """Changes up to this version are no longer in the history."""
    watchers: set[Watcher] = field(default_factory=set)


class Store:
    """Collections by name. Every write takes the next resource version and wakes the watchers; nothing here awaits."""

    def __init__(self, *, history: int) -> None:
        self.version = 1
        self._history = history
        self._collections: dict[str, Collection] = {}
        self.listeners: list[Callable[[str, Change], None]] = []
        """Called after each write with the collection's name."""

    def collection(self, name: str) -> Collection:
        """The collection of a resource, made on first use."""
        found = self._collections.get(name)
        if found is None:
            found = self._collections[name] = Collection(forgotten=0)
        return found

    def names(self) -> Iterator[str]:
        """All collections that exist."""
        return iter(list(self._collections))

    def get(self, name: str, key: Key) -> Stored | None:
        """The stored object, None if there is none."""
        return self.collection(name).objects.get(key)

    def put(self, name: str, key: Key, obj: Object) -> Stored:
        """Store a new version of an object; sets its resourceVersion."""
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        stored = Stored(obj, self.version)
        collection = self.collection(name)
        old = collection.objects.get(key)
        collection.objects[key] = stored
        self._record(name, collection, Change(self.version, key, old, stored))
        return stored

    def remove(self, name: str, key: Key) -> Stored:
        """Delete an object; the answer is its last state under the resource version of the deletion."""
        self.version += 1
        collection = self.collection(name)
        old = collection.objects.pop(key)
        last = {**old.obj, "metadata": {**old.obj["metadata"], "resourceVersion": str(self.version)}}
        self._record(name, collection, Change(self.version, key, Stored(last, self.version), None))
        return Stored(last, self.version)

    def _record(self, name: str, collection: Collection, change: Change) -> None:
        collection.history.append(change)
        while len(collection.history) > self._history:
            collection.forgotten = collection.history.popleft().version
        for watcher in collection.watchers:
            watcher.queue.put_nowait(change)
        for listener in self.listeners:
            listener(name, change)

    def forget(self) -> None:
        """Drop all history: a watch from before now is answered with 410."""
        for collection in self._collections.values():
            collection.history.clear()
            collection.forgotten = self.version

    def end_watches(self) -> None:
        """End every watch that runs."""
        for collection in self._collections.values():
            for watcher in collection.watchers:
                watcher.queue.put_nowait(None)
