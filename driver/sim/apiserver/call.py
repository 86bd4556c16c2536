"""One request: who asks for what, and which objects of a collection are wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from driver.sim.apiserver import selectors
from driver.sim.apiserver.access import ADMIN, User

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.sim.apiserver.resource import Resource

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, apart from its body: who, what, where, and the options of a write."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    user: User = ADMIN
    dry_run: bool = False
    validation: Literal["Strict", "Warn", "Ignore"] = "Strict"
    warnings: list[str] = field(default_factory=list)
    verb: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Key of the object in its collection."""
        return self.namespace, self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which objects a list or watch wants."""

    namespace: str = ""
    name: str = ""
    labels: Callable[[Mapping[str, str]], bool] | None = None
    fields: Callable[[Mapping[str, Any]], bool] | None = None

    @classmethod
    def parse(cls, call: Call, labels: str, fields: str) -> Selection:
        """From a query string; raises StatusError 400."""
        return cls(
            namespace=call.namespace,
            labels=selectors.parse_labels(labels),
            fields=selectors.parse_fields(fields, call.resource),
        )

    def matches(self, obj: Mapping[str, Any]) -> bool:
        """Whether the object is wanted."""
        meta = obj["metadata"]
        if self.namespace and meta.get("namespace") != self.namespace:
            return False
        if self.labels is not None and not self.labels(meta.get("labels") or {}):
            return False
        return self.fields is None or self.fields(obj)
