"""What the server knows of a resource: its names, its scope, and the hooks in which its kind differs from another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.sim.apiserver.context import Context

    Object = dict[str, Any]
    Prepare = Callable[[Object, Object | None, Context], None]
    Validate = Callable[[Object, Object | None, Context], list[str]]


def _nothing(_new: dict[str, Any], _old: dict[str, Any] | None, _context: Context) -> None:
    return None


def _valid(_new: dict[str, Any], _old: dict[str, Any] | None, _context: Context) -> list[str]:
    return []


_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resource:
    """One row: names, scope, and the hooks in which one kind differs from another.

    A hook gets the new object, the stored one (None on create) and the context. ``prepare`` hooks change the new object
    in place (defaults, fields behind gates, what the server adds); ``validate`` hooks only look.
    """

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short: str = ""
    """The name for people in a hurry, if there is one."""
    status: bool = False
    subresources: tuple[str, ...] = ()
    generation: bool = False
    """Whether metadata.generation counts changes of the spec."""
    stored: bool = True
    """Whether there are objects of it; otherwise it is a question, which is answered and forgotten."""
    prepare: Prepare = _nothing
    validate: Validate = _valid
    prepare_status: Prepare = _nothing
    validate_status: Validate = _valid
    fields: tuple[str, ...] = ()
    """Field selectors besides metadata.name and metadata.namespace."""

    @property
    def definition(self) -> str:
        """The type's name in the OpenAPI document."""
        return f"io.k8s.api.{self.group.split('.')[0] or 'core'}.{self.version}.{self.kind}"

    @property
    def verbs(self) -> tuple[str, ...]:
        """What may be done with it."""
        return _VERBS if self.stored else ("create",)

    @property
    def group_version(self) -> str:
        """``apiVersion`` of the objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """``plural.group``, as messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def root(self) -> str:
        """The URL path of the group version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
