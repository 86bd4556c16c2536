"""Rules of validating admission policies and their bindings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.sim.apiserver.errors import Errors, Object, forbidden_field, invalid_value, required, unsupported

if TYPE_CHECKING:
    from driver.sim.apiserver.context import Context

_PARAMETERS = "this embedded server takes v1 ConfigMaps and ResourceQuotas as parameters"


def prepare_policy(new: Object, _old: Object | None, _context: Context) -> None:
    """What to do on failure, and what is matched."""
    new.setdefault("spec", {}).setdefault("failurePolicy", "Fail")
    _default_match(new["spec"].get("matchConstraints"))


def prepare_policy_binding(new: Object, _old: Object | None, _context: Context) -> None:
    """What is matched."""
    _default_match(new.setdefault("spec", {}).get("matchResources"))


def _default_match(match: Object | None) -> None:
    for key in ("resourceRules", "excludeResourceRules"):
        for rule in (match or {}).get(key) or []:
            rule.setdefault("scope", "*")


def validate_policy(new: Object, _old: Object | None, _context: Context) -> Errors:
    """Match constraints, and every expression compiled."""
    from driver.sim.apiserver.policies import PARAMETERS, program

    spec = new["spec"]
    errors: Errors = []
    kind = spec.get("paramKind")
    if kind is not None and (kind.get("apiVersion"), kind.get("kind")) not in PARAMETERS:
        errors.append(forbidden_field("spec.paramKind", _PARAMETERS))
    if not (spec.get("matchConstraints") or {}).get("resourceRules"):
        errors.append(required("spec.matchConstraints.resourceRules"))
    errors += _match(spec.get("matchConstraints") or {}, "spec.matchConstraints")
    for key in ("matchConditions", "variables", "validations"):
        for index, item in enumerate(spec.get(key) or []):
            if not item.get("expression", "").strip():
                errors.append(required(f"spec.{key}[{index}].expression"))
    if not spec.get("validations"):
        errors.append(required("spec.validations", "must contain at least one item"))
    for path, (expression, problem) in program(spec).problems.items():
        errors.append(invalid_value(path, expression, problem))
    return errors


def _match(match: Object, path: str) -> Errors:
    return [
        required(f"{path}.{kind}[{index}].{key}")
        for kind in ("resourceRules", "excludeResourceRules")
        for index, rule in enumerate(match.get(kind) or [])
        for key in ("operations", "apiGroups", "apiVersions", "resources")
        if not rule.get(key)
    ]


def validate_policy_binding(new: Object, _old: Object | None, _context: Context) -> Errors:
    """Policy, matching and actions."""
    spec = new["spec"]
    errors = [required(f"spec.{key}") for key in ("policyName", "validationActions") if not spec.get(key)]
    ref = spec.get("paramRef")
    if ref is not None and bool(ref.get("name")) == (ref.get("selector") is not None):
        errors.append(required("spec.paramRef.name", "one of name or selector must be specified"))
    if ref is not None and ref.get("parameterNotFoundAction") not in {"Allow", "Deny"}:
        errors.append(required("spec.paramRef.parameterNotFoundAction"))
    errors += _match(spec.get("matchResources") or {}, "spec.matchResources")
    known = ("Audit", "Deny", "Warn")
    unknown = [action for action in spec.get("validationActions") or [] if action not in known]
    return errors + [unsupported("spec.validationActions", action, known) for action in unknown]
