"""Constraints of a claim over the devices that it gets: matchAttribute and distinctAttribute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.sim.scheduler.pools import Candidate

SCALARS = ("string", "int", "bool", "version")


class Constraint:
    """Follows the devices chosen so far. Once it says no, more devices will not make it say yes.

    distinctAttribute compares as Kubernetes 1.36 does: it keeps only the last value of each request.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Take an entry of ``spec.devices.constraints``."""
        self._requests = frozenset(spec.get("requests") or ())
        self._distinct = spec.get("matchAttribute") is None
        self.attribute: str = spec["distinctAttribute"] if self._distinct else spec["matchAttribute"]
        self._count = 0
        self._values: list[tuple[str, tuple[str, Any]]] = []

    def applies(self, request: str, subrequest: str) -> bool:
        """Whether the constraint is about the request."""
        return not self._requests or bool(self._requests & {request, f"{request}/{subrequest}"})

    def add(self, request: str, subrequest: str, device: Candidate) -> bool:
        """Take the device if it fits to those chosen before."""
        if not self.applies(request, subrequest):
            return True
        value = attribute(device, self.attribute)
        if value is None:
            return False
        if self._count and any((value == known) is self._distinct for _, known in self._values):
            return False
        if self._distinct:
            self._forget(request)
        self._values.append((request, value))
        self._count += 1
        return True

    def remove(self, request: str, subrequest: str) -> None:
        """Take back the last successful ``add``, which had these same arguments."""
        if not self.applies(request, subrequest):
            return
        self._count -= 1
        if self._distinct:
            self._forget(request)
        else:
            self._values.pop()

    def _forget(self, request: str) -> None:
        self._values = [(name, value) for name, value in self._values if name != request]


def attribute(device: Candidate, name: str) -> tuple[str, Any] | None:
    """Type and value of a fully qualified attribute; names without a domain belong to the driver's."""
    attributes = device.spec.get("attributes") or {}
    found = attributes.get(name)
    if found is None:
        domain, _, identifier = name.partition("/")
        found = attributes.get(identifier) if domain == device.id.driver else None
    if found is None:
        return None
    return next(((kind, found[kind]) for kind in SCALARS if found.get(kind) is not None), None)
