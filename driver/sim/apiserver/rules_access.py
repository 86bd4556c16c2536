"""Rules of bindings; what a role needs is in the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import checks

if TYPE_CHECKING:
    from driver.sim.apiserver.context import Context
    from driver.sim.apiserver.errors import FieldError

    Object = dict[str, Any]
    Errors = list[FieldError]

_GROUP = "rbac.authorization.k8s.io"


def prepare_binding(new: Object, _old: Object | None, _context: Context) -> None:
    """The API group of role and subjects, where it is left out."""
    new.setdefault("roleRef", {}).setdefault("apiGroup", _GROUP)
    for subject in new.get("subjects") or []:
        if subject.get("kind") in {"User", "Group"}:
            subject.setdefault("apiGroup", _GROUP)


def validate_binding(new: Object, old: Object | None, _context: Context) -> Errors:
    """A binding keeps its role."""
    return checks.immutable(new["roleRef"], old["roleRef"], "roleRef") if old else []
