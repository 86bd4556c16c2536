"""Prepare and unprepare the claims of pods: who is asked for what, when, and what counts as an answer.

Behaves as the DRA manager of the real kubelet (Kubernetes 1.36.2), its less convenient sides included: nothing is
rolled back after a failure, devices of a repeated prepare are appended to those that are known, and a claim that never
got prepared is unprepared like any other.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from driver.base import files
from driver.kube import ApiError, claim_path
from driver.sim.kubelet.claiminfo import (
    ClaimInfo,
    Device,
    DraError,
    check_claim,
    claim_name,
    container_requests,
    in_use,
    pod_claims,
)
from driver.wire import dra_v1_pb2 as dra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from driver.kube import Api
    from driver.sim.kubelet.metrics import KubeletMetrics
    from driver.sim.kubelet.plugins import Plugin, PluginStore


class ClaimManager:
    """The claims of the node's pods, by namespace and name, with a checkpoint in ``state_file``."""

    def __init__(self, *, api: Api, plugins: PluginStore, state_file: Path, metrics: KubeletMetrics) -> None:
        self._api = api
        self._plugins = plugins
        self._state_file = state_file
        self._metrics = metrics
        self.claims: dict[tuple[str, str], ClaimInfo] = {}
        for state in json.loads(state_file.read_bytes()) if state_file.exists() else []:
            info = ClaimInfo.from_state(state)
            self.claims[info.namespace, info.name] = info
        metrics.watch_claims(lambda: in_use(self.claims.values()))

    async def prepare(self, pod: Mapping[str, Any]) -> None:
        """Make all devices of a pod ready, before its sandbox is created. Raises DraError."""
        with self._operation("PrepareResources", "prepare dynamic resources"):
            await self._prepare(pod)

    async def unprepare(self, pod: Mapping[str, Any]) -> None:
        """Drop a pod's references; the last one of a claim unprepares it. Raises DraError. May be repeated."""
        with self._operation("UnprepareResources", "unprepare dynamic resources"):
            names = [name for name, _ in (claim_name(pod, entry) for entry in pod_claims(pod)) if name is not None]
            await self._unprepare(pod["metadata"]["uid"], pod["metadata"]["namespace"], names)

    @contextlib.contextmanager
    def _operation(self, name: str, doing: str) -> Iterator[None]:
        started, failed = time.monotonic(), "true"
        try:
            yield
            failed = "false"
        except DraError as error:
            raise DraError(f"{doing}: {error}") from error
        finally:
            self._metrics.operations.labels(name, failed).observe(time.monotonic() - started)

    async def reconcile(self, active_pods: set[str]) -> list[DraError]:
        """Unprepare for pods (UIDs) that are no longer there. Returns what failed; the next round tries it again."""
        gone: dict[tuple[str, str], list[str]] = {}
        for info in self.claims.values():
            for pod_uid in info.pods - active_pods:
                gone.setdefault((pod_uid, info.namespace), []).append(info.name)
        errors = []
        for (pod_uid, namespace), names in gone.items():
            try:
                await self._unprepare(pod_uid, namespace, names)
            except DraError as error:
                errors.append(error)
        return errors

    def references(self, pod_uid: str) -> bool:
        """Whether a pod still holds a claim."""
        return any(pod_uid in info.pods for info in self.claims.values())

    def cdi_devices(self, pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
        """CDI ids that the runtime gets for a container, in the order of its claims. Raises DraError."""
        namespace = pod["metadata"]["namespace"]
        ids: list[str] = []
        for name, request in container_requests(pod, container):
            info = self.claims.get((namespace, name))
            if info is None:
                raise DraError(f"internal error: ResourceClaim {namespace}/{name} is not known")
            ids += info.cdi_devices(request)
        return ids

    def pods_using(self, driver: str, devices: Iterable[tuple[str, str]]) -> set[str]:
        """UIDs of the pods that hold one of the (pool, device)s."""
        wanted = set(devices)
        return {
            pod
            for info in self.claims.values()
            if any((device.pool, device.name) in wanted for device in info.drivers.get(driver, []))
            for pod in info.pods
        }

    async def _prepare(self, pod: Mapping[str, Any]) -> None:
        # First everything that can be refused without a trace: a pod that fails here can be deleted without a driver.
        candidates: list[tuple[ClaimInfo, dict[str, Plugin]]] = []
        for entry in pod_claims(pod):
            name, check_owner = claim_name(pod, entry)
            if name is not None:
                fresh = check_claim(pod, await self._fetch(pod, name), check_owner=check_owner)
                candidates.append((fresh, {driver: self._plugins.get(driver) for driver in fresh.drivers}))

        batches: dict[int, tuple[Plugin, list[dra.Claim]]] = {}
        wanted: dict[str, ClaimInfo] = {}
        for fresh, plugins in candidates:
            info = self._reference(fresh, pod["metadata"]["uid"])
            if info.prepared:
                continue
            wanted[info.uid] = info
            for driver in info.drivers:
                # The driver may be missing when the claim was allocated anew; the next reconcile sorts that out.
                plugin = plugins.get(driver) or self._plugins.get(driver)
                batches.setdefault(id(plugin), (plugin, []))[1].append(_claim_message(info))

        for plugin, claims in batches.values():
            await self._prepare_batch(plugin, claims, wanted)
        for info in wanted.values():
            info.prepared = True
        self._store("checkpoint ResourceClaim state")

    async def _fetch(self, pod: Mapping[str, Any], name: str) -> dict[str, Any]:
        try:
            return await self._api.get(claim_path(pod["metadata"]["namespace"], name))
        except ApiError as error:
            raise DraError(f"fetch ResourceClaim {name}: {error}") from error

    def _reference(self, fresh: ClaimInfo, pod_uid: str) -> ClaimInfo:
        """Note that a pod uses a claim, on disk before any driver hears of it."""
        info = self.claims.setdefault((fresh.namespace, fresh.name), fresh)
        if info.uid != fresh.uid:
            raise DraError(
                f"old ResourceClaim with same name {fresh.name} and different UID {info.uid} still exists "
                "(previous pod force-deleted?!)"
            )
        info.pods.add(pod_uid)
        self._store("checkpoint ResourceClaim cache")
        return info

    async def _prepare_batch(self, plugin: Plugin, claims: list[dra.Claim], wanted: Mapping[str, ClaimInfo]) -> None:
        try:
            response = await plugin.prepare(claims)
        except DraError as error:
            raise DraError(f"NodePrepareResources: {error}") from error
        for uid, result in _answers("NodePrepareResources", claims, response):
            info = wanted[uid]
            if self.claims.get((info.namespace, info.name)) is not info:
                raise DraError(f"internal error: ResourceClaim {info.namespace}/{info.name} is not known any more")
            info.drivers.setdefault(plugin.driver, []).extend(_device(device) for device in result.devices)

    async def _unprepare(self, pod_uid: str, namespace: str, names: Iterable[str]) -> None:
        last: list[ClaimInfo] = []
        batches: dict[str, list[dra.Claim]] = {}
        for name in names:
            info = self.claims.get((namespace, name))
            if info is None:
                continue
            if info.pods - {pod_uid}:
                info.pods.discard(pod_uid)
                continue
            last.append(info)
            info.unprepare()
            for driver in info.drivers:
                batches.setdefault(driver, []).append(_claim_message(info))

        for driver, claims in batches.items():
            plugin = self._plugins.get(driver)
            try:
                response = await plugin.unprepare(claims)
            except DraError as error:
                raise DraError(f"NodeUnprepareResources: {error}") from error
            list(_answers("NodeUnprepareResources", claims, response))

        for info in last:
            info.pods.discard(pod_uid)
            if not info.pods and self.claims.get((info.namespace, info.name)) is info:
                del self.claims[info.namespace, info.name]
        self._store("checkpoint ResourceClaim state")

    def _store(self, doing: str) -> None:
        try:
            state = json.dumps([info.to_state() for info in self.claims.values()])
            files.replace(str(self._state_file), state.encode())
        except OSError as error:
            raise DraError(f"{doing}: {error}") from error


def _answers(method: str, claims: list[dra.Claim], response: Any) -> Iterator[tuple[str, Any]]:
    """UID and result of each claim. Raises DraError at the first that is wrong, or when some are missing."""
    names = {claim.uid: claim.name for claim in claims}
    for uid, result in response.claims.items():
        if uid not in names:
            raise DraError(f"{method} returned result for unknown claim UID {uid}")
        if result.error:
            raise DraError(f"{method} failed for ResourceClaim {names[uid]}: {result.error}")
        yield uid, result
    if skipped := len(claims) - len(response.claims):
        raise DraError(f"{method} skipped {skipped} ResourceClaims")


def _claim_message(info: ClaimInfo) -> dra.Claim:
    return dra.Claim(namespace=info.namespace, uid=info.uid, name=info.name)


def _device(device: dra.Device) -> Device:
    return Device(
        pool=device.pool_name,
        name=device.device_name,
        request_names=tuple(device.request_names),
        cdi_device_ids=tuple(device.cdi_device_ids),
        share_id=device.share_id if device.HasField("share_id") else None,
    )
