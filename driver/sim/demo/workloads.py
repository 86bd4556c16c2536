"""Manifests as users write them: applied, watched and deleted through the API."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from driver.kube import MERGE_PATCH, RESOURCE, Api, ApiError
from driver.sim.demo.place import examples_directory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

T = TypeVar("T")

PATIENCE = 90.0
"""Seconds for what takes less than one on a machine that has nothing else to do."""

_NEEDS_GPUS = re.compile(r"^# Needs: (\d+) GPUs(?: on one (NUMA node|PCIe root|NVLink))?", re.MULTILINE)
_NEEDS_DRIVER = re.compile(r"^# Needs: the driver (\S+)", re.MULTILINE)
_TOGETHER = {
    "NUMA node": "resource.kubernetes.io/numaNode",
    "PCIe root": "resource.kubernetes.io/pcieRoot",
    "NVLink": "nvlinkGroup",
}
_PATHS = {
    "DeviceClass": f"{RESOURCE}/deviceclasses",
    "ResourceClaim": f"{RESOURCE}/namespaces/{{namespace}}/resourceclaims",
    "ResourceClaimTemplate": f"{RESOURCE}/namespaces/{{namespace}}/resourceclaimtemplates",
    "DeviceTaintRule": f"{RESOURCE}/devicetaintrules",
    "Namespace": "/api/v1/namespaces",
    "ResourceQuota": "/api/v1/namespaces/{namespace}/resourcequotas",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
}
# Users first: a claim is not deleted while a pod uses it.
_DELETE_ORDER = (
    "Job",
    "Pod",
    "ResourceClaim",
    "ResourceClaimTemplate",
    "ResourceQuota",
    "DeviceTaintRule",
    "DeviceClass",
    "Namespace",
)


class StepError(Exception):
    """The demo shows something that is not true."""


class NotSeenError(Exception):
    """Something that should have happened has not, in the time that was given for it."""


@dataclass(frozen=True, slots=True)
class Example:
    """One file of deploy/examples."""

    name: str
    about: str
    """Its first comment line."""
    expect: bool
    """Whether its comment says what to expect."""
    needs_gpus: int
    """GPUs that the node must have; from a comment line ``# Needs: 2 GPUs``."""
    together: str
    """The attribute that these GPUs must have in common; from ``# Needs: 2 GPUs on one PCIe root``, or empty."""
    needs_driver: str
    """Another driver that its claim asks, from a comment line ``# Needs: the driver dra.net``; or empty."""
    needs_partitions: bool
    """Whether the node must offer partitions; from a comment line ``# Needs: partitions``."""
    needs_shares: bool
    """Whether the node must offer devices that claims share; from a comment line ``# Needs: shares``."""
    needs_exclusive: bool
    """Whether a GPU must be the claim's alone; from a comment line ``# Needs: a GPU that claims do not share``."""
    objects: tuple[dict[str, Any], ...]

    @property
    def title(self) -> str:
        """What it is about, short enough for a table."""
        return re.split(r"[.:;](?: |$)", self.about)[0]

    @property
    def unknown_kinds(self) -> frozenset[str]:
        """What a whole cluster has and the embedded one has not."""
        return frozenset(obj["kind"] for obj in self.objects) - _PATHS.keys()

    def of_kind(self, kind: str) -> Iterable[dict[str, Any]]:
        """Its objects of one kind."""
        return (obj for obj in self.objects if obj["kind"] == kind)


def load_examples() -> list[Example]:
    """The examples, in the order of their names: from the package, or from the repository of an editable install."""
    directory = examples_directory()
    return [_example(file.stem, file.read_text(encoding="utf-8")) for file in sorted(directory.glob("*.yaml"))]


def _example(name: str, text: str) -> Example:
    needs = _NEEDS_GPUS.search(text)
    return Example(
        name=name,
        about=text.splitlines()[0].lstrip("# "),
        expect="\n# Expect: " in text,
        needs_gpus=int(needs[1]) if needs else 1,
        together=_TOGETHER.get(needs[2], "") if needs else "",
        needs_driver=driver[1] if (driver := _NEEDS_DRIVER.search(text)) else "",
        needs_partitions="\n# Needs: partitions\n" in text,
        needs_shares="\n# Needs: shares\n" in text,
        needs_exclusive="\n# Needs: a GPU that claims do not share" in text,
        objects=tuple(yaml.safe_load_all(text)),
    )


class Workloads:
    """What a user does with kubectl. ``waiting`` is told what is waited for."""

    def __init__(self, api: Api, *, waiting: Callable[[str], None]) -> None:
        self._api = api
        self._waiting = waiting
        self._created: list[dict[str, Any]] = []

    async def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Create objects."""
        for obj in objects:
            created = await self._api.request("POST", _collection(obj), body=obj)
            self._created.append({"apiVersion": obj["apiVersion"], "kind": obj["kind"], **created})

    async def resize(self, pod: Mapping[str, Any], container: Mapping[str, Any]) -> None:
        """Give a pod's only container other resources."""
        body = {"spec": {"containers": [container]}}
        await self._api.request("PATCH", f"{_path(pod)}/resize", body=body, content_type=MERGE_PATCH)

    async def delete_all(self) -> None:
        """Delete all that was created, and what was made from it."""
        await self.delete(self._created)
        self._created.clear()

    async def delete(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Delete objects and what was made from them; those that are gone already do not matter."""
        for obj in sorted(objects, key=lambda obj: _DELETE_ORDER.index(obj["kind"])):
            try:
                await self._api.request("DELETE", _path(obj), params={"propagationPolicy": "Background"})
            except ApiError as error:
                if error.status != 404:
                    raise

    async def pod(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A pod as it is now."""
        try:
            return await self._api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def pods(self, **labels: str) -> list[dict[str, Any]]:
        """Pods of all namespaces with these labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        items: list[dict[str, Any]] = (await self._api.get("/api/v1/pods", {"labelSelector": selector}))["items"]
        return items

    async def log(self, namespace: str, pod: str, container: str) -> str:
        """What a container has written."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        return await self._api.get_text(path, {"container": container})

    async def collection(self, path: str) -> list[dict[str, Any]]:
        """A collection."""
        items: list[dict[str, Any]] = (await self._api.get(path))["items"]
        return items

    async def events(self, reason: str) -> list[dict[str, Any]]:
        """Events of one reason."""
        return [event for event in await self.collection("/api/v1/events") if event.get("reason") == reason]

    async def seen(self, look: Callable[[], Awaitable[T | None]], *, what: str, within: float = PATIENCE) -> T:
        """The first true answer of ``look``; meanwhile the reader is told. Raises NotSeenError with the last one."""
        last: T | None = None
        self._waiting(what)
        try:
            async with asyncio.timeout(within):
                while True:
                    last = await look()
                    if last:
                        return last
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise NotSeenError(f"expected within {within:.0f} s: {what}; last seen: {last!r}") from None


def count(number: int, what: str) -> str:
    """A number of things, in the words of people."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _collection(obj: Mapping[str, Any]) -> str:
    return _PATHS[obj["kind"]].format(namespace=obj["metadata"].get("namespace", "default"))


def _path(obj: Mapping[str, Any]) -> str:
    return f"{_collection(obj)}/{obj['metadata']['name']}"
