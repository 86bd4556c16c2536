"""The cluster followed through its API: lists and watches kept in step with the model, whoever goes away."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from driver.base.supervised import supervised
from driver.cluster.fleet import Fleet
from driver.cluster.fleet_state import State
from driver.cluster.read_objects import read_claim, read_pod, read_rule, read_slice
from driver.cluster.taint_rules import RULES, RuleMirror
from driver.kube import RESOURCE, Mirror, check_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.cluster.objects import Key
    from driver.kube import Api, ApiError

PAGE = 100
"""Objects that an answer has at most: slices of 64 devices are 100 KB each."""
DEBOUNCE = 0.25
"""Seconds in which changes are gathered."""
LOOK = 0.5
"""Seconds after which it is noticed that a server has gone away, or is there again."""

SLICES, CLAIMS, PODS = "resourceslices", "resourceclaims", "pods"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The cluster at one moment."""

    revision: int = 0
    """Grows with each change."""
    fleet: Fleet = field(default_factory=Fleet)
    missing: Mapping[str, ApiError] = field(default_factory=dict)
    """What could never be read, ``pods`` for example, and why."""
    behind: Mapping[str, ApiError] = field(default_factory=dict)
    """What was read before and cannot be at the moment, so that it may not be true any more."""
    namespace: str = ""
    """Claims and pods of this namespace only were read; empty for all."""

    @property
    def knows_holders(self) -> bool:
        """Whether all claims were read: otherwise nobody knows what is free."""
        return not self.namespace and CLAIMS not in self.missing


class Follow:
    """Keeps ``view`` in step with the cluster while ``run`` runs.

    Any number of readers wait for news with ``after``. What may not be listed is said to be missing, and tried again
    and again, like everything that fails.
    """

    def __init__(
        self, api: Api, *, driver: str, node: str = "", namespace: str = "", debounce: float = DEBOUNCE
    ) -> None:
        """Dials nothing yet.

        Args:
            api: whom to ask.
            driver: the name of the driver whose devices are followed.
            node: only this one is looked at; empty for all.
            namespace: claims and pods of this one only are asked for, by whoever may not read more; empty for all.
            debounce: seconds in which changes are gathered.
        """
        self._debounce = debounce
        self._state = state = State()
        self._dirty = asyncio.Event()
        self._news = asyncio.Condition()
        self.view = View(namespace=namespace)
        inside = f"/namespaces/{namespace}" if namespace else ""
        of_driver = f"spec.driver={driver}" + (f",spec.nodeName={node}" if node else "")
        read = partial(read_claim, driver=driver, pool=node)  # a pool of ours has its node's name
        self._sources = {
            SLICES: _Source(
                self._mirror(api, f"{RESOURCE}/{SLICES}", of_driver, partial(read_slice, driver=driver), SLICES),
                state.put_slice,
                state.replace_slices,
            ),
            CLAIMS: _Source(
                self._mirror(api, f"{RESOURCE}{inside}/{CLAIMS}", "", read, CLAIMS),
                state.put_claim,
                state.replace_claims,
            ),
            PODS: _Source(
                self._mirror(api, f"/api/v1{inside}/{PODS}", f"spec.nodeName={node}" if node else "", read_pod, PODS),
                state.put_pod,
                state.replace_pods,
            ),
            RULES: _Source(
                RuleMirror(
                    api,
                    lambda path: self._mirror(api, path, "", partial(read_rule, driver=driver, pool=node), RULES),
                ),
                state.put_rule,
                state.replace_rules,
            ),
        }

    def _mirror(self, api: Api, path: str, selector: str, read: Callable[[Any], Any], what: str) -> Mirror:
        return Mirror(
            api,
            path,
            {"fieldSelector": selector} if selector else None,
            check=partial(_keep, read),
            page=PAGE,
            decode=_decode,
            changed=lambda key: self._changed(what, key),
        )

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for what, source in self._sources.items():
                tasks.create_task(supervised(source.mirror.run, name=f"following {what}"))
            tasks.create_task(supervised(self._publish, name="reading the cluster"))

    async def after(self, revision: int) -> View:
        """The newest view, as soon as there is a newer one than this; after 0 the first, with all that can be read."""
        async with self._news:
            await self._news.wait_for(lambda: self.view.revision > revision)
        return self.view

    def _changed(self, what: str, key: Key | None) -> None:
        source = self._sources[what]
        if key is None:
            source.replace({key: kept["seen"] for key, kept in source.mirror.objects.items()})
        else:
            kept = source.mirror.objects.get(key)
            source.put(key, kept["seen"] if kept else None)
        self._dirty.set()

    async def _publish(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):  # wait_for may swallow a cancellation, before Python 3.12
                    await self._dirty.wait()
                await asyncio.sleep(self._debounce)
            missing, behind = self._troubles()
            if any(what not in missing and not source.mirror.synced.is_set() for what, source in self._sources.items()):
                continue
            said = (_words(missing), _words(behind)) == (_words(self.view.missing), _words(self.view.behind))
            if not self._dirty.is_set() and said:
                continue
            self._dirty.clear()
            fleet = self._state.fleet()
            async with self._news:
                self.view = replace(
                    self.view, revision=self.view.revision + 1, fleet=fleet, missing=missing, behind=behind
                )
                self._news.notify_all()

    def _troubles(self) -> tuple[dict[str, ApiError], dict[str, ApiError]]:
        mirrors = {what: source.mirror for what, source in self._sources.items()}
        failed = {what: mirror.error for what, mirror in mirrors.items() if mirror.error is not None}
        missing = {what: error for what, error in failed.items() if not mirrors[what].synced.is_set()}
        return missing, {what: error for what, error in failed.items() if what not in missing}


@dataclass(frozen=True, slots=True)
class _Source:
    """One collection, and what the state is told of it."""

    mirror: Mirror | RuleMirror
    put: Callable[[Key, Any], None]
    replace: Callable[[Mapping[Key, Any]], None]


def _words(errors: Mapping[str, ApiError]) -> dict[str, str]:
    """By which errors are compared: each try has one of its own."""
    return {what: str(error) for what, error in errors.items()}


def _decode(data: bytes) -> Any:
    """JSON without the garbage collector, which would look again and again at what is no garbage: half the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return json.loads(data)
    finally:
        if collects:
            gc.enable()


def _keep(read: Callable[[Any], Any], obj: Any, what: str) -> dict[str, Any] | None:
    """What a mirror keeps: the object as it was read, with what the mirror goes by."""
    metadata = check_object(obj, what)["metadata"]
    seen = read(obj)
    if seen is None:
        return None
    kept = {name: metadata[name] for name in ("namespace", "name", "resourceVersion") if name in metadata}
    return {"metadata": kept, "seen": seen}
