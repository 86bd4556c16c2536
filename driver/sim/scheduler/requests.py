"""Requests of a claim in one shape, whether ``exactly`` or one of ``firstAvailable``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.sim.scheduler import capacity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_RESULTS = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One request or subrequest."""

    name: str
    """Name of the request, of the parent for a subrequest."""
    subrequest: str
    """Empty unless it is one of ``firstAvailable``."""
    spec: Mapping[str, Any]
    device_class: Mapping[str, Any]

    @property
    def reference(self) -> str:
        """``request`` or ``request/subrequest``."""
        return f"{self.name}/{self.subrequest}" if self.subrequest else self.name

    @property
    def everything(self) -> bool:
        """Whether all matching devices of the node are wanted."""
        return bool(self.spec.get("allocationMode") == "All")

    @property
    def count(self) -> int:
        """Number of devices wanted; without meaning for "all"."""
        return int(self.spec.get("count") or 1)

    @property
    def admin(self) -> bool:
        """Whether devices in use may be given too."""
        return bool(self.spec.get("adminAccess")) and not self.subrequest

    @property
    def tolerations(self) -> Sequence[Mapping[str, Any]]:
        """Tolerations of device taints."""
        return self.spec.get("tolerations") or ()

    @property
    def capacities(self) -> Mapping[str, Any]:
        """Amounts of capacity that are asked for."""
        return capacity.requested(self.spec)


class RequestError(Exception):
    """The class of a request does not exist."""


def alternatives(claim: Mapping[str, Any], classes: Mapping[str, Mapping[str, Any]]) -> list[list[Request]]:
    """Per request of the claim its alternatives: one for ``exactly``, all of ``firstAvailable`` in order."""
    return [
        [
            _request(request["name"], spec.get("name", ""), spec, classes)
            for spec in request.get("firstAvailable") or [{**(request.get("exactly") or {}), "name": ""}]
        ]
        for request in (claim["spec"].get("devices") or {}).get("requests") or []
    ]


def _request(name: str, subrequest: str, spec: Mapping[str, Any], classes: Mapping[str, Any]) -> Request:
    class_name = spec["deviceClassName"]
    if class_name not in classes:
        raise RequestError(f"request {name}: device class {class_name} does not exist")
    return Request(name=name, subrequest=subrequest, spec=spec, device_class=classes[class_name])


def key(obj: Mapping[str, Any]) -> str:
    """``namespace/name``."""
    return f"{obj['metadata'].get('namespace', '')}/{obj['metadata'].get('name', '')}"
