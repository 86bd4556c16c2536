"""Mirrors of the API server's collections, shared by the scheduler and the controllers."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from driver.kube import RESOURCE, Api, Mirror
from driver.sim.scheduler.objects import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.sim.scheduler.objects import Key

PODS, NODES, CLAIMS, TEMPLATES, SLICES, CLASSES, RULES, JOBS = (
    "pods",
    "nodes",
    "resourceclaims",
    "resourceclaimtemplates",
    "resourceslices",
    "deviceclasses",
    "devicetaintrules",
    "jobs",
)
PATHS = {
    PODS: "/api/v1",
    NODES: "/api/v1",
    CLAIMS: RESOURCE,
    TEMPLATES: RESOURCE,
    SLICES: RESOURCE,
    CLASSES: RESOURCE,
    JOBS: "/apis/batch/v1",
}


def path(resource: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """URL path of a collection, an object or its subresource."""
    parts = [PATHS.get(resource, "/api/v1")]
    if namespace:
        parts += ["namespaces", namespace]
    return "/".join(part for part in [*parts, resource, name, subresource] if part)


class Cluster:
    """Local copies of what the control plane works on. ``run`` keeps them in step; objects in them are not changed."""

    def __init__(self, api: Api, *, taint_rules: str) -> None:
        """``taint_rules`` is the API version in which the server has DeviceTaintRules."""
        self.api = api
        paths = {name: path(name) for name in PATHS} | {RULES: f"/apis/{taint_rules}/{RULES}"}
        self._listeners: dict[str, list[Callable[[Key | None], None]]] = {name: [] for name in paths}
        self._mirrors = {name: Mirror(api, at, changed=partial(self._changed, name)) for name, at in paths.items()}

    async def run(self) -> None:
        """Keep all mirrors in step for ever. Ends by cancellation, or with the error of the mirror that died."""
        async with asyncio.TaskGroup() as group:
            for name, mirror in self._mirrors.items():
                group.create_task(mirror.run(), name=f"mirror of {name}")

    async def synced(self) -> None:
        """Wait until each collection has been listed once."""
        for mirror in self._mirrors.values():
            await mirror.synced.wait()

    def listen(self, resource: str, changed: Callable[[Key | None], None]) -> None:
        """Have ``changed`` called with the key of each object that changes, with None when all may have."""
        self._listeners[resource].append(changed)

    def all(self, resource: str) -> list[dict[str, Any]]:
        """All objects of a collection, by name."""
        objects = self._mirrors[resource].objects
        return [objects[key] for key in sorted(objects)]

    def get(self, resource: str, namespace: str, name: str) -> dict[str, Any] | None:
        """One object."""
        return self._mirrors[resource].objects.get((namespace, name))

    def put(self, resource: str, obj: Mapping[str, Any], *, created: bool = False) -> None:
        """Take over the server's answer to an own write, so that the next decision knows of it."""
        mirror = self._mirrors[resource]
        # The answer to an update may come after the news of the object's deletion, and must not bring it back.
        if created or key_of(obj) in mirror.objects:
            mirror.put(dict(obj))

    def _changed(self, resource: str, key: Key | None) -> None:
        for listener in self._listeners[resource]:
            listener(key)
