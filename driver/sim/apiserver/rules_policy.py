"""Rules of validating admission policies and their bindings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import checks
from driver.sim.apiserver.errors import FieldError, duplicate, forbidden_field, invalid_value, required, unsupported

if TYPE_CHECKING:
    from driver.sim.apiserver.context import Context

    Object = dict[str, Any]
    Errors = list[FieldError]

_IDENTIFIER = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge")
_ACTIONS = ("Audit", "Deny", "Warn")


def prepare_policy(new: Object, _old: Object | None, _context: Context) -> None:
    """What to do on failure, and what is matched."""
    spec = new.setdefault("spec", {})
    spec.setdefault("failurePolicy", "Fail")
    if spec.get("matchConstraints") is not None:
        _default_match(spec["matchConstraints"])


def prepare_policy_binding(new: Object, _old: Object | None, _context: Context) -> None:
    """What is matched."""
    spec = new.setdefault("spec", {})
    if spec.get("matchResources") is not None:
        _default_match(spec["matchResources"])


def _default_match(match: Object) -> None:
    match.setdefault("matchPolicy", "Equivalent")
    match.setdefault("namespaceSelector", {})
    match.setdefault("objectSelector", {})
    for key in ("resourceRules", "excludeResourceRules"):
        for rule in match.get(key) or []:
            rule.setdefault("scope", "*")


def validate_policy(new: Object, _old: Object | None, _context: Context) -> Errors:
    """Match constraints, and every expression compiled."""
    from driver.sim.apiserver.policies import program

    spec = new["spec"]
    errors: Errors = []
    if spec["failurePolicy"] not in {"Fail", "Ignore"}:
        errors.append(unsupported("spec.failurePolicy", spec["failurePolicy"], ("Fail", "Ignore")))
    if spec.get("paramKind") is not None:
        detail = "this embedded server evaluates policies without parameters only"
        errors.append(forbidden_field("spec.paramKind", detail))
    if spec.get("matchConstraints") is None:
        errors.append(required("spec.matchConstraints"))
    else:
        errors += _match(spec["matchConstraints"], "spec.matchConstraints")
        if not spec["matchConstraints"].get("resourceRules"):
            errors.append(required("spec.matchConstraints.resourceRules"))
    problems = program(spec).problems
    for index, item in enumerate(spec.get("matchConditions") or []):
        path = f"spec.matchConditions[{index}]"
        errors += _expression(item, "expression", path, problems, needed="")
        errors += checks.label_name(item["name"], f"{path}.name") if item.get("name") else [required(f"{path}.name")]
    for index, item in enumerate(spec.get("variables") or []):
        path = f"spec.variables[{index}]"
        if not item.get("name"):
            errors.append(required(f"{path}.name", "name is not specified"))
        elif not _IDENTIFIER.fullmatch(item["name"]):
            errors.append(invalid_value(f"{path}.name", item["name"], "must be a valid CEL identifier"))
        errors += _expression(item, "expression", path, problems, needed="expression is not specified")
    if not spec.get("validations") and not spec.get("auditAnnotations"):
        detail = "validations or auditAnnotations must contain at least one item"
        errors += [required(f"spec.{key}", detail) for key in ("validations", "auditAnnotations")]
    for index, item in enumerate(spec.get("validations") or []):
        errors += _validation(item, f"spec.validations[{index}]", problems)
    return errors


def _validation(item: Object, path: str, problems: dict[str, str]) -> Errors:
    errors = _expression(item, "expression", path, problems, needed="expression is not specified")
    if item.get("messageExpression") and not item["messageExpression"].strip():
        detail = "must be non-empty if specified"
        errors.append(invalid_value(f"{path}.messageExpression", item["messageExpression"], detail))
    elif item.get("messageExpression"):
        errors += _expression(item, "messageExpression", path, problems, needed="")
    message = item.get("message", "")
    if message and not message.strip():
        errors.append(invalid_value(f"{path}.message", message, "must be non-empty if specified"))
    elif "\n" in message.strip() or "\r" in message.strip():
        errors.append(invalid_value(f"{path}.message", message, "must not contain line breaks"))
    if item.get("reason") and item["reason"] not in _REASONS:
        errors.append(unsupported(f"{path}.reason", item["reason"], _REASONS))
    return errors


def _expression(item: Object, key: str, path: str, problems: dict[str, str], *, needed: str) -> Errors:
    text = item.get(key, "")
    where = f"{path}.{key}"
    if not text.strip():
        return [required(where, needed)]
    problem = problems.get(where)
    return [invalid_value(where, text, problem)] if problem else []


def _match(match: Object, path: str) -> Errors:
    errors: Errors = []
    if match["matchPolicy"] not in {"Exact", "Equivalent"}:
        errors.append(unsupported(f"{path}.matchPolicy", match["matchPolicy"], ("Equivalent", "Exact")))
    for key in ("resourceRules", "excludeResourceRules"):
        for index, rule in enumerate(match.get(key) or []):
            errors += _rule(rule, f"{path}.{key}[{index}]")
    return errors


def _rule(rule: Object, path: str) -> Errors:
    errors: Errors = []
    operations = rule.get("operations") or []
    if not operations:
        errors.append(required(f"{path}.operations"))
    elif len(operations) > 1 and "*" in operations:
        detail = "if '*' is present, must not specify other operations"
        errors.append(invalid_value(f"{path}.operations", operations, detail))
    errors += [
        unsupported(f"{path}.operations[{index}]", operation, _OPERATIONS)
        for index, operation in enumerate(operations)
        if operation not in _OPERATIONS
    ]
    for key, what in (("apiGroups", "API groups"), ("apiVersions", "API versions"), ("resources", "resources")):
        values = rule.get(key) or []
        if not values:
            errors.append(required(f"{path}.{key}"))
        elif len(values) > 1 and "*" in values and key != "resources":
            errors.append(invalid_value(f"{path}.{key}", values, f"if '*' is present, must not specify other {what}"))
    if rule["scope"] not in {"*", "Cluster", "Namespaced"}:
        errors.append(unsupported(f"{path}.scope", rule["scope"], ("*", "Cluster", "Namespaced")))
    return errors


def validate_policy_binding(new: Object, _old: Object | None, _context: Context) -> Errors:
    """Policy, matching and actions."""
    spec = new["spec"]
    errors: Errors = []
    name = spec.get("policyName", "")
    errors += checks.dns_subdomain(name, "spec.policyName") if name else [required("spec.policyName")]
    if spec.get("paramRef") is not None:
        detail = "this embedded server evaluates policies without parameters only"
        errors.append(forbidden_field("spec.paramRef", detail))
    if spec.get("matchResources") is not None:
        errors += _match(spec["matchResources"], "spec.matchResources")
    actions = spec.get("validationActions") or []
    path = "spec.validationActions"
    for index, action in enumerate(actions):
        if action not in _ACTIONS:
            errors.append(unsupported(f"{path}[{index}]", action, _ACTIONS))
        if action in actions[:index]:
            errors.append(duplicate(f"{path}[{index}]", action))
    if {"Deny", "Warn"} <= set(actions):
        detail = (
            "must not contain both Deny and Warn (repeating the same validation failure information in the API "
            "response and headers serves no purpose)"
        )
        errors.append(invalid_value(path, actions, detail))
    if not actions:
        errors.append(required(path, "at least one validation action is required"))
    return errors
