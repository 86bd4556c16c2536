"""Validating admission policies: which requests they look at, and what their expressions say of them."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cel_expr_python import cel

from driver.sim.apiserver.errors import StatusError, forbidden
from driver.sim.apiserver.reviews import user_info
from driver.sim.apiserver.selectors import match_label_selector
from driver.sim.cel import CelError, compiled, environment, evaluated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from driver.sim.apiserver.engine import Call, Object
    from driver.sim.apiserver.store import Store

_CODES = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}
_VARIABLES = ("object", "oldObject", "request", "namespaceObject")
_STRING = r"""[rR]?(?:\"(?:[^"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')"""
_VARIABLE = re.compile(r"undeclared reference to 'variables\.(\w+)' \(in container ''\)")
_VARIABLE = re.compile(rf"{_STRING}|(?<![\w.])variables\s*\.\s*(?P<name>[A-Za-z_]\w*)")


class Program:
    """The compiled expressions of a policy's spec. ``problems`` are those that do not compile, by field path, and why.

    A variable is put in the place of its name, so that it is evaluated where it is needed and nowhere else.
    """

    def __init__(self, spec: Object) -> None:
        self.problems: dict[str, tuple[str, str]] = {}
        self.variables: dict[str, _Compiled] = {}
        self._inlined: dict[str, str] = {}
        types = dict.fromkeys(_VARIABLES, cel.Type.DYN)
        scope = _scope()
        boolean, text = cel.Type.BOOL, cel.Type.STRING
        self.conditions = [
            self._compile(scope, item, "expression", f"spec.matchConditions[{index}]", boolean)
            for index, item in enumerate(spec.get("matchConditions") or [])
        ]
        for index, item in enumerate(spec.get("variables") or []):
            variable = self._compile(scope, item, "expression", f"spec.variables[{index}]", None)
            name = item.get("name", "")
            self.variables[name] = variable
            self._inlined[name] = f"({self._inline(variable.expression)})"
            types[f"variables.{name}"] = variable.program.return_type() if variable.program else cel.Type.DYN
            scope = environment(types)
        self.validations = [
            (
                self._compile(scope, item, "expression", f"spec.validations[{index}]", boolean),
                self._compile(scope, item, "messageExpression", f"spec.validations[{index}]", text),
                item,
            )
            for index, item in enumerate(spec.get("validations") or [])
        ]

    def _compile(self, scope: cel.Env, item: Object, key: str, path: str, wanted: cel.Type | None) -> _Compiled:
        """``scope`` has the variables with their types: a problem is told in the words that were written."""
        expression = item.get(key, "")
        if not expression.strip():
            return _Compiled(expression, None)
        try:
            returns = compiled(scope, expression).return_type()
            if wanted is not None and returns != wanted:
                raise CelError(f"must evaluate to {wanted.name().lower()} but got {returns.name().lower()}")
            return _Compiled(expression, compiled(_scope(), self._inline(expression)))
        except CelError as error:
            self.problems[f"{path}.{key}"] = expression, str(error)
            return _Compiled(expression, None)

    def _inline(self, expression: str) -> str:
        return _VARIABLE.sub(lambda token: self._inlined.get(token["name"] or "", token[0]), expression)

    def value(self, expression: _Compiled, activation: cel.Activation) -> Any:
        """What an expression says of a request. Raises CelError that names it."""
        try:
            return _value(expression, activation)
        except CelError as error:
            raise CelError(f"expression '{expression.expression}' resulted in error: {error}") from error


def _value(expression: _Compiled, activation: cel.Activation) -> Any:
    if expression.program is None:
        raise CelError("the expression does not compile")
    return evaluated(expression.program, activation)


@lru_cache(maxsize=1)
def _scope() -> cel.Env:
    return environment(dict.fromkeys(_VARIABLES, cel.Type.DYN))


def program(spec: Object) -> Program:
    """The program of a spec; the same spec is compiled once."""
    return _program(json.dumps(spec, sort_keys=True))


@lru_cache(maxsize=64)
def _program(spec: str) -> Program:
    return Program(json.loads(spec))


@dataclass(frozen=True, slots=True)
class _Compiled:
    expression: str
    program: cel.Expression | None


@dataclass(frozen=True, slots=True)
class _Denial:
    message: str
    reason: str = "Invalid"


class Policies:
    """The policies in the store, compiled when they are first needed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._programs: dict[str, tuple[Any, Program]] = {}

    def admit(self, call: Call, operation: str, new: Object | None, old: Object | None) -> None:
        """Raise StatusError for the first denial; add the warnings of others to the call's."""
        denials: list[StatusError] = []
        for policy in self._all("validatingadmissionpolicies"):
            spec, name = policy["spec"], policy["metadata"]["name"]
            if not self._selects(spec["matchConstraints"], call, operation, new, old):
                continue
            for binding in self._all("validatingadmissionpolicybindings"):
                bound = binding["spec"]
                if bound["policyName"] != name:
                    continue
                if "matchResources" in bound and not self._selects(
                    bound["matchResources"], call, operation, new, old, everything=True
                ):
                    continue
                for denial in self._denials(policy, call, operation, new, old):
                    where = f"'{name}' with binding '{binding['metadata']['name']}'"
                    if "Warn" in bound["validationActions"]:
                        warning = f"Validation failed for ValidatingAdmissionPolicy {where}: {denial.message}"
                        call.warnings.append(warning)
                    if "Deny" in bound["validationActions"]:
                        text = f"ValidatingAdmissionPolicy {where} denied request: {denial.message}"
                        denials.append(_refusal(call, text, denial.reason, new))
        if denials:
            raise denials[0]

    def _all(self, collection: str) -> list[Object]:
        objects = self._store.collection(collection).objects
        return [objects[key].obj for key in sorted(objects)]

    # -- matching ------------------------------------------------------------------------------------------------

    def _selects(
        self,
        match: Object,
        call: Call,
        operation: str,
        new: Object | None,
        old: Object | None,
        *,
        everything: bool = False,
    ) -> bool:
        """``everything``: whether no rules at all select every request, as in a binding."""
        if call.resource.group == "admissionregistration.k8s.io":
            return False  # so that a policy can always be repaired
        name = _name(call, new or old)

        def covered(rule: Object) -> bool:
            return _rule_matches(rule, call, operation, name)

        rules = match.get("resourceRules") or []
        if not any(map(covered, rules)) and not (everything and not rules):
            return False
        if any(map(covered, match.get("excludeResourceRules") or [])):
            return False
        namespace = self._namespace(call, new or old)
        if namespace is not None and not match_label_selector(
            match.get("namespaceSelector") or {}, namespace["metadata"].get("labels") or {}
        ):
            return False
        selector = match.get("objectSelector") or {}
        return not selector or any(
            match_label_selector(selector, obj["metadata"].get("labels") or {}) for obj in (new, old) if obj
        )

    def _namespace(self, call: Call, obj: Object | None) -> Object | None:
        if call.resource.kind == "Namespace":
            return obj
        if not call.resource.namespaced:
            return None
        stored = self._store.get("namespaces", ("", call.namespace))
        return stored.obj if stored else None

    # -- evaluation ----------------------------------------------------------------------------------------------

    def _denials(
        self, policy: Object, call: Call, operation: str, new: Object | None, old: Object | None
    ) -> Iterator[_Denial]:
        program = self._program(policy)
        fails = policy["spec"]["failurePolicy"] == "Fail"
        namespace = None if call.resource.kind == "Namespace" else self._namespace(call, new or old)
        data = {
            "object": new,
            "oldObject": old,
            "namespaceObject": namespace,
            "request": _request(call, operation, new),
        }
        activation = _scope().Activation(data)
        try:
            if not all(program.value(condition, activation) for condition in program.conditions):
                return
        except CelError as error:
            if fails:
                yield _Denial(str(error))
            return
        for expression, message, item in program.validations:
            try:
                if program.value(expression, activation) is not True:
                    yield _Denial(_message(message, item, activation), item.get("reason") or "Invalid")
            except CelError as error:
                if fails:
                    yield _Denial(str(error))

    def _program(self, policy: Object) -> Program:
        meta = policy["metadata"]
        found = self._programs.get(meta["name"])
        if found is None or found[0] != (meta["uid"], meta["resourceVersion"]):
            found = self._programs[meta["name"]] = (meta["uid"], meta["resourceVersion"]), program(policy["spec"])
        return found[1]


def _message(expression: _Compiled, item: Object, activation: cel.Activation) -> str:
    if expression.program is not None:
        with contextlib.suppress(CelError):
            return str(evaluated(expression.program, activation)).strip()
    return item.get("message", "").strip() or f"failed expression: {item['expression'].strip()}"


def _refusal(call: Call, text: str, reason: str, new: Object | None) -> StatusError:
    meta = (new or {}).get("metadata") or {}
    name = _name(call, new) or meta.get("generateName") or "Unknown"
    refusal = forbidden(call.resource, name, text, {"message": text})
    refusal.reason, refusal.code = reason, _CODES[reason]
    return refusal


def _name(call: Call, obj: Object | None) -> str:
    """The name that the request is about: none, if it deletes a collection."""
    if call.verb == "deletecollection":
        return ""
    return call.name or str(((obj or {}).get("metadata") or {}).get("name", ""))


def _rule_matches(rule: Object, call: Call, operation: str, name: str) -> bool:
    resource = call.resource

    def listed(key: str, value: str) -> bool:
        return "*" in rule[key] or value in rule[key]

    if rule.get("scope", "*") not in {"*", "Namespaced" if resource.namespaced else "Cluster"}:
        return False
    if not (listed("operations", operation) and listed("apiGroups", resource.group)):
        return False
    if not listed("apiVersions", resource.version):
        return False
    names = rule.get("resourceNames")
    return (not names or name in names) and any(
        _resource_matches(wanted, resource.plural, call.subresource) for wanted in rule["resources"]
    )


def _resource_matches(wanted: str, plural: str, subresource: str) -> bool:
    kind, _, sub = wanted.partition("/")
    return kind in {"*", plural} and (sub == subresource or (sub == "*"))


def _request(call: Call, operation: str, new: Object | None) -> Object:
    resource = call.resource
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    where = {"group": resource.group, "version": resource.version, "resource": resource.plural}
    name = _name(call, new)
    request: Object = {
        "kind": kind,
        "resource": where,
        "requestKind": kind,
        "requestResource": where,
        "name": name,
        "operation": operation,
        "dryRun": call.dry_run,
        "options": {},
        "userInfo": user_info(call.user),
    }
    if call.namespace:
        request["namespace"] = call.namespace
    if call.subresource:
        request["subResource"] = request["requestSubResource"] = call.subresource
    return request
