"""Rules of ObjectMeta: names, labels, annotations, finalizers, owners."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import checks
from driver.sim.apiserver.errors import FieldError, duplicate, forbidden_field, invalid_value, required, too_long

if TYPE_CHECKING:
    from driver.sim.apiserver.resources import Resource

_STANDARD_FINALIZERS = {"orphan", "foregroundDeletion", "kubernetes"}
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
        errors += [replace(e, body=e.body.replace(f'"{key.lower()}"', f'"{key}"', 1))
                   for e in checks.label_name(key.lower(), "metadata.annotations")]  # fmt: skip
        size += len(key.encode()) + len(value.encode())
    if size > _ANNOTATIONS_LIMIT:
        errors.append(too_long("metadata.annotations", _ANNOTATIONS_LIMIT))
    errors += _owners(meta.get("ownerReferences") or [])
    for index, finalizer in enumerate(meta.get("finalizers") or []):
        path = f"metadata.finalizers[{index}]"
        errors += checks.label_name(finalizer, "metadata.finalizers")
        if "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
            errors.append(
                invalid_value(path, finalizer, "name is neither a standard finalizer name nor is it fully qualified")
            )
    if old is not None:
        errors += _update(meta, old["metadata"])
    return errors


def _name(name: str, path: str, resource: Resource) -> list[FieldError]:
    if resource.path_names:
        return checks.path_segment(name, path)
    return checks.dns_label(name, path) if resource.label_names else checks.dns_subdomain(name, path)


def _owners(owners: list[dict[str, Any]]) -> list[FieldError]:
    errors: list[FieldError] = []
    controllers = []
    path = "metadata.ownerReferences"
    for owner in owners:
        if not owner.get("apiVersion"):
            errors.append(invalid_value(f"{path}.apiVersion", "", "version must not be empty"))
        missing = [key for key in ("kind", "name", "uid") if not owner.get(key)]
        errors += [invalid_value(f"{path}.{key}", "", "must not be empty") for key in missing]
        if owner.get("controller"):
            controllers.append(f"{owner.get('kind')}/{owner.get('name')}")
    if len(controllers) > 1:
        wanted = f'Only one reference can have Controller set to true. Found "true" in references for {controllers[0]} and {controllers[1]}'  # noqa: E501
        errors.append(invalid_value("metadata.ownerReferences", owners, wanted))
    uids = [owner.get("uid") for owner in owners]
    if len(set(uids)) != len(uids):
        errors.append(duplicate("metadata.ownerReferences", next(uid for uid in uids if uids.count(uid) > 1)))
    return errors


def _update(meta: dict[str, Any], old: dict[str, Any]) -> list[FieldError]:
    errors = []
    for key in ("name", "namespace", "uid", "creationTimestamp"):
        errors += checks.immutable(meta.get(key), old.get(key), f"metadata.{key}")
    if old.get("deletionTimestamp"):
        added = sorted(set(meta.get("finalizers") or []) - set(old.get("finalizers") or []))
        if added:
            listed = ", ".join(f'"{name}"' for name in added)
            rule = "no new finalizers can be added if the object is being deleted"
            detail = f"{rule}, found new finalizers []string{{{listed}}}"
            errors.append(forbidden_field("metadata.finalizers", detail))
    return errors
