"""Keeps the ResourceSlices on the API server as they should be, and writes nothing when they are.

Slices have fixed names with the index in front. So a slice cannot be created twice by two instances, or twice by one
that has not seen its own write yet: the server answers AlreadyExists, and we read again.

The rules for generations are those of the Go controller (contract of ``resource.k8s.io``): one changed slice is an
atomic update and keeps the generation of its pool; anything more gives the whole pool a new one, so that nobody
allocates from a half-written pool.

Of several instances on a node only the one that came last writes (``driver.inventory.lead``): in a rolling upgrade they
may want different slices, and would overwrite each other's for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from driver.base.backoff import Backoff
from driver.inventory.compare import same_spec, with_known_times
from driver.inventory.host_resources import FIELD, FORMER_FIELD, as_served, have_any
from driver.inventory.slices import slice_name
from driver.kube import RESOURCE, Api, ApiError, Mirror, check_object, decode_frugally, odd, uid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.inventory.lead import Lead
    from driver.observe import Metrics

logger = logging.getLogger(__name__)

SLICES = f"{RESOURCE}/resourceslices"
# A server takes a list for as heavy as all that it might have in it: without a limit, the slices of all nodes. When all
# nodes start, their lists would keep each other, and all else that drivers ask for, waiting. More slices than 16 GPUs
# have, so that one answer has them all: the next page weighs more than all of them.
SLICES_AT_ONCE = 20
# After somebody else changed our slices: they may not be done yet (a kubelet that starts wipes them one after another).
SETTLE = 0.5
# A slice that the server calls invalid stays invalid until something changes.
INVALID_RETRY = 300.0
_GATES = {
    "taints": "DRADeviceTaints",
    "sharedCounters": "DRAPartitionableDevices",
    "consumesCounters": "DRAPartitionableDevices",
    "perDeviceNodeSelection": "DRAPartitionableDevices",
    "allowMultipleAllocations": "DRAConsumableCapacity",
    "requestPolicy": "DRAConsumableCapacity",
    "bindingConditions": "DRADeviceBindingConditions",
    FIELD: "DRANodeAllocatableResources",
    FORMER_FIELD: "DRANodeAllocatableResources",
}


class SupersededError(Exception):
    """Another instance publishes now."""


class FeatureOffError(Exception):
    """The API server drops what the rest of the pool must not be without; ``gate`` is the feature that is off."""

    def __init__(self, gate: str) -> None:
        super().__init__(gate)
        self.gate = gate


@dataclass(frozen=True, slots=True)
class Pool:
    """What should be published: slice specs without driver, node and pool, which the publisher knows."""

    name: str
    slices: tuple[Mapping[str, Any], ...]


class Publisher:
    """Reconciles one pool of one node. ``desire`` says what; ``run`` sees to it until it is cancelled."""

    def __init__(
        self,
        *,
        api: Api,
        driver_name: str,
        node_name: str,
        metrics: Metrics,
        warn: Callable[[str, str], None] = lambda _reason, _message: None,
        lead: Lead | None = None,
        essential: Mapping[str, Callable[[], None]] = MappingProxyType({}),
    ) -> None:
        """Args are what they are called, but for these.

        warn: gets a reason and a message, for an Event that an operator should see.
        lead: who publishes, where there may be several instances.
        essential: what to call when the API server drops the fields of a feature gate without which the pool would be
            wrong; nothing more is written then, until another pool is desired.
        """
        self._api = api
        self._driver = driver_name
        self._node = node_name
        self._metrics = metrics
        self._warn = warn
        self._lead = lead
        self._essential = essential
        self._told: set[str] = set()
        self._pool: Pool | None = None
        self._wake = asyncio.Event()
        self._desired = asyncio.Event()
        self._foreign = False
        self._owner: dict[str, Any] | None = None
        self._accepted: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        """By slice name: what we sent, and what the server made of it when it dropped something."""
        selector = f"spec.driver={driver_name},spec.nodeName={node_name}"
        self._mirror = Mirror(
            api,
            SLICES,
            {"fieldSelector": selector},
            changed=self._seen,
            check=check_slice,
            page=SLICES_AT_ONCE,
            decode=decode_frugally,
        )
        self._minor: int | None = None
        """The server's release, 1.``minor``; None until it matters, and when it may be another."""
        self.published = False
        """Whether the slices on the server were complete and as desired when last seen, or are another's business."""
        self.quiet = False
        """Whether another instance publishes."""

    @property
    def existing(self) -> tuple[Mapping[str, Any], ...] | None:
        """Slices of this driver and node on the API server, whoever wrote them; None until they are known."""
        return tuple(self._mirror.objects.values()) if self._mirror.synced.is_set() else None

    def desire(self, pool: Pool | None) -> None:
        """Publish this from now on; None: leave everything as it is."""
        self._pool = pool
        self._desired.set()
        self._wake.set()

    @property
    def dropped(self) -> frozenset[str]:
        """Feature gates whose fields the API server drops at the moment."""
        return frozenset(gate for sent, stored in self._accepted.values() for gate in _lost(sent, stored))

    async def run(self) -> None:
        """Watch and reconcile until it is cancelled. Raises what nobody foresaw; another run reads everything again."""
        self._accepted.clear()
        self._wake.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._mirror.run(), name="slice-watch")
                tasks.create_task(self._reconcile_always(), name="slice-reconcile")
        except asyncio.CancelledError:
            if self._lead is not None:  # not after an error: this instance goes on in a moment
                self._lead.leave()
            raise
        finally:
            self._set_published(done=False)

    def _seen(self, key: tuple[str, str] | None) -> None:
        if key is not None:
            self._foreign = True
        else:
            self._minor = None  # listed anew: it may be another server
        self._wake.set()

    async def _reconcile_always(self) -> None:
        backoff = Backoff(multiplier=0.1, longest=30)
        failures = 0
        await self._mirror.synced.wait()
        while True:
            await self._wake.wait()
            if self._foreign:
                self._foreign = False
                await asyncio.sleep(SETTLE)
            self._wake.clear()
            try:
                await self._while_others_publish()
                await self._reconcile()
                failures = 0
            except SupersededError:
                self._wake.set()
            except FeatureOffError as error:
                self._set_published(done=False)
                self._essential[error.gate]()
            except ApiError as error:
                self._set_published(done=False)
                self._metrics.slice_errors.labels(str(error.status)).inc()
                failures += 1
                pause = backoff.after(failures, error)
                if error.status == 422:
                    logger.error("the API server refuses our ResourceSlice: %s", error)
                    self._warn("ResourceSliceInvalid", str(error))
                    pause = INVALID_RETRY
                elif error.status in {401, 403}:
                    logger.error("%s; the driver's ServiceAccount lacks a permission, see its ClusterRole", error)
                elif error.status != 409:  # a conflict is a race with somebody else; the next attempt settles it
                    logger.warning("publishing failed, trying again: %s", error)
                # Only a new wish can cure a refused slice, so only that cuts the wait short.
                self._desired.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._desired.wait()
                self._wake.set()

    async def _while_others_publish(self) -> None:
        """Return when no later instance publishes. Not asked before we have a pool: we may yet fail to find one."""
        while self._pool is not None and self._lead is not None and (later := self._lead.later()) is not None:
            if not self.quiet:
                logger.info("an instance that came later publishes; this one takes over when that has gone")
            self.quiet = True
            self._set_published(done=True)
            await self._lead.gone(later)
        if self.quiet:
            logger.info("this instance publishes again")
            self.quiet = False

    async def _reconcile(self) -> None:
        pool = self._pool
        if pool is None:
            return
        existing = {obj["metadata"]["name"]: obj for obj in self._mirror.objects.values()}
        minor = await self._release() if have_any(pool.slices) else 0
        wanted = {
            slice_name(index, driver_name=self._driver, node_name=self._node): as_served(spec, minor)
            for index, spec in enumerate(pool.slices)
        }
        generation = max((obj["spec"]["pool"]["generation"] for obj in existing.values()), default=0)
        desired = {
            name: with_known_times(self._spec(spec, pool, generation), existing.get(name))
            for name, spec in wanted.items()
        }
        obsolete = [obj for name, obj in existing.items() if name not in desired or _moved(obj, pool)]
        created = [name for name in desired if name not in existing or _moved(existing[name], pool)]
        changed = [
            name
            for name in desired
            if name not in created and not self._as_desired(name, desired[name], existing[name]["spec"])
        ]
        if not (obsolete or created or changed):
            self._set_published(done=True)
            return
        self._set_published(done=False)
        if created or len(changed) > 1 or generation == 0:
            generation += 1
            changed = [name for name in desired if name not in created]
            for spec in desired.values():
                spec["pool"]["generation"] = generation
        for obj in obsolete:
            await self._delete(obj)
        for name in changed:
            await self._update(existing[name], desired[name])
        for name in created:
            await self._create(name, desired[name])
        self._set_published(done=True)
        logger.info(
            "published ResourceSlices",
            extra={
                "pool": pool.name,
                "generation": generation,
                "slices_created": len(created),
                "slices_updated": len(changed),
                "slices_deleted": len(obsolete),
            },
        )

    async def _release(self) -> int:
        """The server's minor version. Raises ApiError."""
        if self._minor is None:
            answer = await self._api.get("/version")
            minor = answer.get("minor") if isinstance(answer, dict) else None
            if (found := re.match(r"[0-9]{1,4}", str(minor))) is None:  # some say 36+
                raise odd("/version", "a number as minor", minor)
            self._minor = int(found[0])
        return self._minor

    def _spec(self, spec: Mapping[str, Any], pool: Pool, generation: int) -> dict[str, Any]:
        return {
            "driver": self._driver,
            "nodeName": self._node,
            "pool": {"name": pool.name, "generation": generation, "resourceSliceCount": len(pool.slices)},
            **spec,
        }

    def _as_desired(self, name: str, desired: dict[str, Any], actual: dict[str, Any]) -> bool:
        if same_spec(desired, actual):
            return True
        sent, stored = self._accepted.get(name, ({}, {}))
        return same_spec(desired, sent) and same_spec(actual, stored)

    async def _create(self, name: str, spec: dict[str, Any]) -> None:
        if self._owner is None:
            path = f"/api/v1/nodes/{self._node}"
            uid = uid_of(await self._api.get(path), path)
            self._owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": uid, "controller": True}
        body = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": name, "ownerReferences": [self._owner]},
            "spec": spec,
        }
        self._take(name, spec, await self._write("create", "POST", SLICES, body))

    async def _update(self, existing: dict[str, Any], spec: dict[str, Any]) -> None:
        name = existing["metadata"]["name"]
        body = {**existing, "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "spec": spec}
        self._take(name, spec, await self._write("update", "PUT", f"{SLICES}/{name}", body))

    async def _delete(self, obj: dict[str, Any]) -> None:
        metadata = obj["metadata"]
        preconditions = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        try:
            await self._write("delete", "DELETE", f"{SLICES}/{metadata['name']}", {"preconditions": preconditions})
        except ApiError as error:
            if error.status != 404:
                raise
        self._mirror.objects.pop(("", metadata["name"]), None)

    async def _write(self, verb: str, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self._lead is not None and self._lead.later() is not None:
            raise SupersededError
        answer = await self._api.request(method, path, body=body, decode=decode_frugally)
        self._metrics.slice_writes.labels(verb).inc()
        return answer

    def _take(self, name: str, sent: dict[str, Any], answer: dict[str, Any]) -> None:
        """Note the server's answer; say which feature is off where it dropped a part of the slice. Raises ApiError."""
        check_slice(answer, f"the answer to writing {name}")
        self._mirror.put(answer)
        before = self.dropped
        self._accepted.pop(name, None)
        if not same_spec(sent, answer["spec"]):
            self._accepted[name] = (sent, answer["spec"])
        for gate in self.dropped | before:
            self._metrics.dropped_fields.labels(gate).set(gate in self.dropped)
        for gate in sorted(self.dropped - before):
            message = (
                f"the API server dropped fields of ResourceSlice {name}; the feature gate that seems to be off there: "
                f"{gate}. Publishing goes on without that feature"
            )
            logger.warning("%s", message)
            self._warn("ResourceSliceFieldsDropped", message)
        for gate in _lost(sent, answer["spec"]):
            if gate in self._essential and gate not in self._told:
                self._told.add(gate)  # whoever was told and still wants the same has no choice
                raise FeatureOffError(gate)

    def _set_published(self, *, done: bool) -> None:
        self.published = done
        self._metrics.published.set(done)
        self._metrics.slices.set(len(self._mirror.objects))


def check_slice(answer: Any, what: str) -> dict[str, Any]:
    """A slice with what the publisher goes by. Raises a transient ApiError."""
    obj = check_object(answer, what)
    uid_of(obj, what)
    spec = obj.get("spec")
    pool = spec.get("pool") if isinstance(spec, dict) else None
    if not isinstance(pool, dict) or not isinstance(pool.get("name"), str):
        raise odd(what, "a ResourceSlice with spec.pool.name", pool)
    if type(generation := pool.get("generation")) is not int or not 0 <= generation < 1 << 62:
        raise odd(what, "a number as spec.pool.generation", generation)
    return obj


def _moved(obj: Mapping[str, Any], pool: Pool) -> bool:
    """The pool of a slice cannot be changed; such a slice has to be made anew."""
    return bool(obj["spec"]["pool"]["name"] != pool.name)


def _lost(sent: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """The feature gates that explain what the server left out."""
    if same_spec(sent, stored):
        return []
    return sorted({gate for key, gate in _GATES.items() if _count(sent, key) > _count(stored, key)}) or ["unknown"]


def _count(value: Any, key: str) -> int:
    """How often a field occurs anywhere in a slice."""
    if isinstance(value, dict):
        return (key in value) + sum(_count(item, key) for item in value.values())
    if isinstance(value, list):
        return sum(_count(item, key) for item in value)
    return 0
