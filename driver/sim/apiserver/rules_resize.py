"""Resizing a pod in place: only cpu and memory of its containers may change."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import FieldError, forbidden_field, invalid_value
from driver.sim.apiserver.rules_core import pod_spec_errors, quality_of_service

if TYPE_CHECKING:
    Object = dict[str, Any]
    Errors = list[FieldError]

_RESIZABLE = ("cpu", "memory")
_KINDS = ("containers", "initContainers")


def prepare_resize(new: Object, old: Object) -> None:
    """Undo everything but the containers' resources."""
    wanted, current = new.get("spec") or {}, old["spec"]
    spec = copy.deepcopy(current)
    for key in _KINDS:
        before, after = current.get(key) or [], wanted.get(key) or []
        if [c.get("name") for c in after] != [c.get("name") for c in before]:
            spec[key] = after  # for the validation to refuse
            continue
        for container, changed in zip(spec.get(key) or [], after, strict=True):
            for field in ("resources", "resizePolicy"):
                container.pop(field, None)
                if field in changed:
                    container[field] = changed[field]
    new["spec"] = spec
    new.pop("status", None)
    if "status" in old:
        new["status"] = old["status"]


def validate_resize(new: Object, old: Object) -> Errors:
    """What is wrong with the new resources."""
    before, after = old["spec"], new["spec"]
    errors = pod_spec_errors(after, "spec", restart=("Always", "OnFailure", "Never"))
    quality = (old.get("status") or {}).get("qosClass") or quality_of_service(before)
    if quality != quality_of_service(after):
        errors.append(invalid_value("spec", quality, "Pod QOS Class may not change as a result of resizing"))
    for key in _KINDS:
        old_ones, new_ones = before.get(key) or [], after.get(key) or []
        if [c["name"] for c in old_ones] != [c["name"] for c in new_ones]:
            errors.append(forbidden_field(f"spec.{key}", f"{key} may not be added, removed or renamed on resize"))
            continue
        for index, (container, changed) in enumerate(zip(old_ones, new_ones, strict=True)):
            path = f"spec.{key}[{index}].resources"
            errors += _removed(changed.get("resources") or {}, container.get("resources") or {}, path)
            if _fixed(_without_claims(changed)) != _fixed(container):
                errors.append(forbidden_field("spec", "only cpu and memory resources are mutable"))
    return errors


def _removed(after: Object, before: Object, path: str) -> Errors:
    return [
        forbidden_field(f"{path}.{kind}", f"resource {kind} cannot be removed")
        for kind in ("requests", "limits")
        if (before.get(kind) or {}).keys() - (after.get(kind) or {}).keys()
    ]


def _without_claims(container: Object) -> Object:
    """As 1.36 compares containers: it forgets the claims of the new one, so one that has claims is never resized."""
    resources = container.get("resources") or {}
    return {**container, "resources": {key: value for key, value in resources.items() if key != "claims"}}


def _fixed(container: Object) -> Object:
    """The container without what may change."""
    plain = copy.deepcopy(container)
    for kind in ("requests", "limits"):
        amounts = (plain.get("resources") or {}).get(kind)
        if amounts:
            plain["resources"][kind] = {name: value for name, value in amounts.items() if name not in _RESIZABLE}
            if not plain["resources"][kind]:
                del plain["resources"][kind]
    return plain
