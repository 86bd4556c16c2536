"""Garbage collection in the background: dependents of deleted owners, and the contents of deleted namespaces.

Other propagation policies than Background are taken for it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.call import Call
from driver.sim.apiserver.engine import Engine
from driver.sim.apiserver.errors import StatusError
from driver.sim.apiserver.resources import BY_KIND, NAMESPACES, RESOURCES

if TYPE_CHECKING:
    from driver.sim.apiserver.store import Change

    Object = dict[str, Any]

logger = logging.getLogger(__name__)


class Collector:
    """Looks at every change of the store, and does what is to be done in its own task."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: asyncio.Queue[Object] = asyncio.Queue()
        self._owned: dict[str, set[tuple[str, str, str]]] = {}
        """Owner's UID to its dependents: collection, namespace, name."""
        for name in engine.store.names():
            for key, stored in engine.store.collection(name).objects.items():
                self._index(name, key, stored.obj)
                self._queue.put_nowait(stored.obj)

    def changed(self, collection: str, change: Change) -> None:
        """Take note of a change; never does anything at once."""
        if change.new is None:
            if change.old is not None:
                self._queue.put_nowait(change.old.obj)
            return
        obj = change.new.obj
        meta = obj["metadata"]
        if meta.get("ownerReferences"):
            self._index(collection, change.key, obj)
        if meta.get("ownerReferences") or meta.get("deletionTimestamp"):
            self._queue.put_nowait(obj)

    def _index(self, collection: str, key: tuple[str, str], obj: Object) -> None:
        for owner in obj["metadata"].get("ownerReferences") or []:
            self._owned.setdefault(owner["uid"], set()).add((collection, *key))

    async def run(self) -> None:
        """Work, until cancelled."""
        while True:
            obj = await self._queue.get()
            try:
                self._look(obj)
            except StatusError as error:
                logger.warning("garbage collection of %s %s: %s", obj["kind"], obj["metadata"].get("name"), error)
            await asyncio.sleep(0)

    def _look(self, obj: Object) -> None:
        meta = obj["metadata"]
        resource = BY_KIND[obj["apiVersion"], obj["kind"]]
        key = (meta.get("namespace", ""), meta["name"])
        current = self._engine.store.get(resource.plural, key)
        if current is None or current.obj["metadata"]["uid"] != meta["uid"]:
            self._owner_gone(meta["uid"])
        elif meta.get("deletionTimestamp"):
            if resource is NAMESPACES:
                self._empty_namespace(key[1])
        else:
            self._collect(Call(resource=resource, namespace=key[0], name=key[1]))
        if meta.get("namespace") and (current is None):
            self._namespace_emptied(meta["namespace"])

    def _dependents(self, uid: str) -> list[Call]:
        found = []
        for collection, namespace, name in sorted(self._owned.get(uid, ())):
            stored = self._engine.store.get(collection, (namespace, name))
            owners = stored.obj["metadata"].get("ownerReferences") or [] if stored else []
            if stored is None or all(owner["uid"] != uid for owner in owners):
                self._owned[uid].discard((collection, namespace, name))
                continue
            resource = BY_KIND[stored.obj["apiVersion"], stored.obj["kind"]]
            found.append(Call(resource=resource, namespace=namespace, name=name))
        return found

    def _owner_gone(self, uid: str) -> None:
        for call in self._dependents(uid):
            self._collect(call)
        self._owned.pop(uid, None)

    def _collect(self, call: Call) -> None:
        """Delete the object if it has owners and none of them exists."""
        stored = self._engine.store.get(call.resource.plural, call.key)
        if stored is None:
            return
        owners = stored.obj["metadata"].get("ownerReferences") or []
        absent = [owner for owner in owners if not self._exists(owner, call.namespace)]
        if owners and len(absent) == len(owners):
            self._engine.delete(call, {"preconditions": {"uid": stored.obj["metadata"]["uid"]}})

    def _exists(self, owner: Object, namespace: str) -> bool:
        resource = BY_KIND.get((owner.get("apiVersion", ""), owner.get("kind", "")))
        if resource is None:
            return True  # a kind that this server does not have: nobody can tell
        key = (namespace if resource.namespaced else "", owner["name"])
        stored = self._engine.store.get(resource.plural, key)
        return stored is not None and stored.obj["metadata"]["uid"] == owner["uid"]

    def _empty_namespace(self, namespace: str) -> None:
        for resource in RESOURCES:
            if not resource.namespaced or not resource.stored:
                continue
            for key, stored in list(self._engine.store.collection(resource.plural).objects.items()):
                if key[0] == namespace and not stored.obj["metadata"].get("deletionTimestamp"):
                    self._engine.delete(Call(resource=resource, namespace=namespace, name=key[1]), {})
        self._namespace_emptied(namespace)

    def _namespace_emptied(self, namespace: str) -> None:
        stored = self._engine.store.get("namespaces", ("", namespace))
        if stored is None or not stored.obj["metadata"].get("deletionTimestamp"):
            return
        for name in self._engine.store.names():
            if any(key[0] == namespace for key in self._engine.store.collection(name).objects):
                return
        self._engine.finish_namespace(namespace)
