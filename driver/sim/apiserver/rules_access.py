"""Rules of roles and bindings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import checks
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
        path = f"rules[{index}]"
        if not rule.get("verbs"):
            errors.append(required(f"{path}.verbs", "verbs must contain at least one value"))
        urls = rule.get("nonResourceURLs")
        if not urls:
            wanted = (("apiGroups", "api group"), ("resources", "resource"))
            errors += [
                required(f"{path}.{key}", f"resource rules must supply at least one {what}")
                for key, what in wanted
                if not rule.get(key)
            ]
            continue
        if new["kind"] == "Role":
            errors.append(
                invalid_value(f"{path}.nonResourceURLs", urls, "namespaced rules cannot apply to non-resource URLs")
            )
        if any(rule.get(key) for key in ("apiGroups", "resources", "resourceNames")):
            detail = "rules cannot apply to both regular resources and non-resource URLs"
            errors.append(invalid_value(f"{path}.nonResourceURLs", urls, detail))
    aggregation = new.get("aggregationRule")
    if aggregation is not None and not aggregation.get("clusterRoleSelectors"):
        detail = "at least one clusterRoleSelector required if aggregationRule is non-nil"
        errors.append(required("aggregationRule.clusterRoleSelectors", detail))
    return errors


def prepare_binding(new: Object, _old: Object | None, _context: Context) -> None:
    """The API group of role and subjects, where it is left out."""
    role = new.setdefault("roleRef", {})
    if not role.get("apiGroup"):
        role["apiGroup"] = _GROUP
    for subject in new.get("subjects") or []:
        if not subject.get("apiGroup") and subject.get("kind") in {"User", "Group"}:
            subject["apiGroup"] = _GROUP


def validate_binding(new: Object, old: Object | None, _context: Context) -> Errors:
    """A RoleBinding or a ClusterRoleBinding."""
    role = new.get("roleRef") or {}
    errors: Errors = []
    if role.get("apiGroup") != _GROUP:
        errors.append(unsupported("roleRef.apiGroup", role.get("apiGroup", ""), (_GROUP,)))
    kinds = ("Role", "ClusterRole") if new["kind"] == "RoleBinding" else ("ClusterRole",)
    if role.get("kind") not in kinds:
        errors.append(unsupported("roleRef.kind", role.get("kind", ""), kinds))
    if not role.get("name"):
        errors.append(required("roleRef.name"))
    for index, subject in enumerate(new.get("subjects") or []):
        errors += _subject(subject, f"subjects[{index}]", namespaced=new["kind"] == "RoleBinding")
    if old is not None and role != old["roleRef"]:
        shown = {"APIGroup": role.get("apiGroup", ""), "Kind": role.get("kind", ""), "Name": role.get("name", "")}
        errors.append(invalid_value("roleRef", shown, "cannot change roleRef"))
    return errors


def _subject(subject: Object, path: str, *, namespaced: bool) -> Errors:
    name, kind = subject.get("name", ""), subject.get("kind", "")
    errors = [] if name else [required(f"{path}.name")]
    if kind not in {"ServiceAccount", "User", "Group"}:
        errors.append(unsupported(f"{path}.kind", kind, ("ServiceAccount", "User", "Group")))
    elif kind == "ServiceAccount":
        errors += checks.dns_subdomain(name, f"{path}.name") if name else []
        if subject.get("apiGroup"):
            errors.append(unsupported(f"{path}.apiGroup", subject["apiGroup"], ("",)))
        if not namespaced and not subject.get("namespace"):
            errors.append(required(f"{path}.namespace"))
    elif subject.get("apiGroup") != _GROUP:
        errors.append(unsupported(f"{path}.apiGroup", subject.get("apiGroup", ""), (_GROUP,)))
    return errors
