"""Resizing a pod in place: only cpu and memory of its containers may change."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import FieldError, forbidden_field, invalid_value
from driver.sim.apiserver.rules_core import pod_spec_errors, quality_of_service

if TYPE_CHECKING:
    Object = dict[str, Any]

_KINDS = ("containers", "initContainers")


def prepare_resize(new: Object, old: Object) -> None:
    """Undo everything but the containers' resources."""
    wanted = {c.get("name"): c for key in _KINDS for c in (new.get("spec") or {}).get(key) or []}
    new["spec"] = copy.deepcopy(old["spec"])
    for key in _KINDS:
        for container in new["spec"].get(key) or []:
            for field in ("resources", "resizePolicy"):
                container.pop(field, None)
                if field in wanted.get(container["name"], {}):
                    container[field] = wanted[container["name"]][field]


def validate_resize(new: Object, old: Object) -> list[FieldError]:
    """What is wrong with the new resources."""
    before, after = old["spec"], new["spec"]
    errors = pod_spec_errors(after, "spec", restart=("Always", "OnFailure", "Never"))
    if quality_of_service(before) != quality_of_service(after):
        detail = "Pod QOS Class may not change as a result of resizing"
        errors.append(invalid_value("spec", quality_of_service(before), detail))
    for key in _KINDS:
        for index, (one, other) in enumerate(zip(before.get(key) or [], after.get(key) or [], strict=True)):
            was, now = one.get("resources") or {}, other.get("resources") or {}
            for kind in ("requests", "limits"):
                if (was.get(kind) or {}).keys() - (now.get(kind) or {}).keys():
                    errors.append(forbidden_field(f"spec.{key}[{index}].resources.{kind}", "cannot be removed"))
            # 1.36 forgets the claims of the new container when it compares: one that has claims is never resized.
            if _fixed({**now, "claims": None}) != _fixed({**was, "claims": was.get("claims")}):
                errors.append(forbidden_field("spec", "only cpu and memory resources are mutable"))
    return errors


def _fixed(resources: Object) -> Object:
    """The resources without what may change."""
    return {
        "claims": resources["claims"],
        **{
            kind: {name: value for name, value in (resources.get(kind) or {}).items() if name not in {"cpu", "memory"}}
            for kind in ("requests", "limits")
        },
    }
