"""Rules of ObjectMeta: names, labels, annotations, finalizers, owners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import checks
from driver.sim.apiserver.errors import FieldError, forbidden_field, invalid_value, required, too_long

if TYPE_CHECKING:
    from driver.sim.apiserver.resource import Resource

_ANNOTATIONS_LIMIT = 256 * 1024


def validate_meta(new: dict[str, Any], old: dict[str, Any] | None, resource: Resource) -> list[FieldError]:
    """Everything about ``metadata`` that is wrong."""
    meta = new["metadata"]
    errors: list[FieldError] = []
    generate = meta.get("generateName", "")
    if generate and old is None:
        # The server checks the prefix with a letter in the place of a closing '-'.
        errors += _name(generate[:-1] + "a" if generate.endswith("-") else generate, "metadata.generateName", resource)
    name = meta.get("name", "")
    if not name:
        errors.append(required("metadata.name", "name or generateName is required"))
    elif old is None:
        errors += _name(name, "metadata.name", resource)
    for key, value in (meta.get("labels") or {}).items():
        errors += checks.label_name(key, "metadata.labels")
        errors += checks.label_value(value, "metadata.labels")
    size = 0
    for key, value in (meta.get("annotations") or {}).items():
        errors += checks.label_name(key.lower(), "metadata.annotations")
        size += len(key.encode()) + len(value.encode())
    if size > _ANNOTATIONS_LIMIT:
        errors.append(too_long("metadata.annotations", _ANNOTATIONS_LIMIT))
    errors += _owners(meta.get("ownerReferences") or [])
    for finalizer in meta.get("finalizers") or []:
        errors += checks.label_name(finalizer, "metadata.finalizers")
    if old is not None:
        errors += _update(meta, old["metadata"])
    return errors


def _name(name: str, path: str, resource: Resource) -> list[FieldError]:
    if resource.group == "rbac.authorization.k8s.io":
        return checks.path_segment(name, path)
    return checks.dns_label(name, path) if resource.kind == "Namespace" else checks.dns_subdomain(name, path)


def _owners(owners: list[dict[str, Any]]) -> list[FieldError]:
    path = "metadata.ownerReferences"
    missing = [key for owner in owners for key in ("apiVersion", "kind", "name", "uid") if not owner.get(key)]
    errors = [invalid_value(f"{path}.{key}", "", "must not be empty") for key in missing]
    if sum(bool(owner.get("controller")) for owner in owners) > 1:
        errors.append(invalid_value(path, owners, "Only one reference can have Controller set to true"))
    return errors + checks.each(owners, path, key=lambda owner: owner.get("uid"))


def _update(meta: dict[str, Any], old: dict[str, Any]) -> list[FieldError]:
    errors = []
    for key in ("name", "namespace", "uid", "creationTimestamp"):
        errors += checks.immutable(meta.get(key), old.get(key), f"metadata.{key}")
    if old.get("deletionTimestamp"):
        added = sorted(set(meta.get("finalizers") or []) - set(old.get("finalizers") or []))
        if added:
            rule = f"no new finalizers can be added if the object is being deleted: {', '.join(added)}"
            errors.append(forbidden_field("metadata.finalizers", rule))
    return errors
