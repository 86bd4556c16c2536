"""Rules of roles and bindings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import FieldError, invalid_value, required, unsupported

if TYPE_CHECKING:
    from driver.sim.apiserver.context import Context

    Object = dict[str, Any]
    Errors = list[FieldError]

_GROUP = "rbac.authorization.k8s.io"


def validate_role(new: Object, _old: Object | None, _context: Context) -> Errors:
    """A Role or a ClusterRole."""
    errors: Errors = []
    for index, rule in enumerate(new.get("rules") or []):
        needed = ("verbs",) if rule.get("nonResourceURLs") else ("verbs", "apiGroups", "resources")
        errors += [required(f"rules[{index}].{key}") for key in needed if not rule.get(key)]
    return errors


def prepare_binding(new: Object, _old: Object | None, _context: Context) -> None:
    """The API group of role and subjects, where it is left out."""
    new.setdefault("roleRef", {}).setdefault("apiGroup", _GROUP)
    for subject in new.get("subjects") or []:
        if subject.get("kind") in {"User", "Group"}:
            subject.setdefault("apiGroup", _GROUP)


def validate_binding(new: Object, old: Object | None, _context: Context) -> Errors:
    """A RoleBinding or a ClusterRoleBinding."""
    role = new["roleRef"]
    kinds = ("Role", "ClusterRole") if new["kind"] == "RoleBinding" else ("ClusterRole",)
    errors = [] if role.get("kind") in kinds else [unsupported("roleRef.kind", role.get("kind", ""), kinds)]
    for index, subject in enumerate(new.get("subjects") or []):
        if subject.get("kind") not in {"ServiceAccount", "User", "Group"}:
            wanted = ("ServiceAccount", "User", "Group")
            errors.append(unsupported(f"subjects[{index}].kind", subject.get("kind", ""), wanted))
    if old is not None and role != old["roleRef"]:
        errors.append(invalid_value("roleRef", role, "cannot change roleRef"))
    return errors
