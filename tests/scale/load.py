"""The load: jobs whose pods ask for nothing, for whole GPUs or for partitions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.kube import RESOURCE, ApiError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from driver.kube import Api

LONG = 24 * 3600
AT_ONCE = 16
ATTEMPTS = 5
EXISTS = 409


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """What pods ask for, in turns."""

    title: str
    flags: tuple[str, ...] = ()
    """Of the drivers."""
    asks: tuple[tuple[str, str], ...] = ()
    """DeviceClass and expression of a selector, of one device for each pod."""


def _partition(profile: str) -> tuple[str, str]:
    return "mig.nvidia.com", f"device.attributes['gpu.nvidia.com'].profile == '{profile}'"


MODES = {
    "none": Mode(title="no claims"),
    "whole": Mode(title="whole GPUs", asks=(("gpu.nvidia.com", ""),)),
    "partitions": Mode(
        title="partitions",
        flags=("--partitioning=dynamic",),
        asks=tuple(map(_partition, ("1g.10gb", "1g.10gb", "1g.10gb", "2g.20gb", "1g.10gb", "3g.40gb"))),
    ),
}
"""Of the partitions, two thirds are 1g.10gb."""


def template(mode: Mode, index: int) -> dict[str, Any]:
    """The spec of a claim."""
    device_class, expression = mode.asks[index]
    exactly: dict[str, Any] = {"deviceClassName": device_class}
    if expression:
        exactly["selectors"] = [{"cel": {"expression": expression}}]
    return {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}


class Load:
    """Makes and removes the objects of one mode in one namespace."""

    def __init__(self, api: Api, mode: Mode, namespace: str) -> None:
        self._api = api
        self._mode = mode
        self.namespace = namespace

    async def prepare(self) -> None:
        """The templates of claims."""
        for index in range(len(self._mode.asks)):
            await self._post(
                f"{RESOURCE}/namespaces/{self.namespace}/resourceclaimtemplates",
                "resource.k8s.io/v1",
                "ResourceClaimTemplate",
                f"ask-{index}",
                {"spec": {"spec": template(self._mode, index)}},
            )

    async def jobs(self, kind: str, count: int, *, rate: float, seconds: float, completions: int = 1) -> None:
        """So many jobs, created at a rate, one pod of each at a time."""

        async def create(index: int) -> None:
            spec = {
                "parallelism": 1,
                "completions": completions,
                "backoffLimit": 6,
                "template": {"metadata": {"labels": {"scale": kind}}, "spec": self._pod(index, seconds)},
            }
            path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
            await self._post(path, "batch/v1", "Job", f"{kind}-{index}", {"spec": spec})

        await paced(range(count), create, rate=rate)

    async def burst(self, count: int) -> None:
        """Claims first, then so many pods as fast as they can be created; nobody else has to create anything."""
        claims = f"{RESOURCE}/namespaces/{self.namespace}/resourceclaims"

        async def claim(index: int) -> None:
            spec = template(self._mode, index % len(self._mode.asks))
            await self._post(claims, "resource.k8s.io/v1", "ResourceClaim", f"burst-{index}", {"spec": spec})

        async def pod(index: int) -> None:
            spec = self._pod(index, LONG, claim=f"burst-{index}")
            path = f"/api/v1/namespaces/{self.namespace}/pods"
            await self._post(path, "v1", "Pod", f"burst-{index}", {"spec": spec})

        if self._mode.asks:
            await _at_once(range(count), claim)
        await _at_once(range(count), pod)

    async def clear(self) -> None:
        """Delete all of it; it goes when its owners' pods have."""
        below = f"namespaces/{self.namespace}"
        background = {"propagationPolicy": "Background"}
        for path in (
            f"/apis/batch/v1/{below}/jobs",
            f"/api/v1/{below}/pods",
            f"{RESOURCE}/{below}/resourceclaims",
        ):
            await self._insist("DELETE", path, params=background)

    def _pod(self, index: int, seconds: float, *, claim: str = "") -> dict[str, Any]:
        container: dict[str, Any] = {"name": "main", "image": "none", "command": ["sleep", f"{seconds:g}"]}
        spec: dict[str, Any] = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "containers": [container],
        }
        if self._mode.asks:
            container["resources"] = {"claims": [{"name": "gpu"}]}
            source = {"resourceClaimTemplateName": f"ask-{index % len(self._mode.asks)}"}
            spec["resourceClaims"] = [{"name": "gpu", **({"resourceClaimName": claim} if claim else source)}]
        return spec

    async def _post(self, path: str, version: str, kind: str, name: str, rest: dict[str, Any]) -> None:
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": self.namespace}}
        await self._insist("POST", path, body={**body, **rest})

    async def _insist(self, method: str, path: str, **what: Any) -> None:
        """A server that is busy is asked again; it may have done it the first time."""
        for attempt in range(ATTEMPTS):
            try:
                await self._api.request(method, path, timeout=60, **what)
            except ApiError as error:
                if attempt and error.status == EXISTS:
                    return
                if not error.transient or attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(error.retry_after or 1)
            else:
                return


async def paced(items: Sequence[int], work: Callable[[int], Awaitable[None]], *, rate: float) -> None:
    """Begin with one item after the other, ``rate`` a second, however long each of them takes."""
    clock = asyncio.get_running_loop().time
    started = clock()
    async with asyncio.TaskGroup() as group:
        for number, item in enumerate(items):
            await asyncio.sleep(max(0.0, started + number / rate - clock()))
            group.create_task(work(item))


async def _at_once(items: Sequence[int], work: Callable[[int], Awaitable[None]]) -> None:
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
