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
from driver.sim.apiserver.rbac import user_info
from driver.sim.apiserver.selectors import match_label_selector
from driver.sim.cel import CelError, compiled, environment, evaluated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from driver.sim.apiserver.call import Call, Object
    from driver.sim.apiserver.store import Store

_CODES = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}
_VARIABLES = ("object", "oldObject", "request", "namespaceObject", "params")
PARAMETERS = {("v1", "ConfigMap"): "configmaps", ("v1", "ResourceQuota"): "resourcequotas"}
"""Kinds that a policy may have parameters of, and where they are."""
_STRING = r"""[rR]?(?:\"(?:[^"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')"""
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


@lru_cache(maxsize=64)
def _program(spec: str) -> Program:
    return Program(json.loads(spec))


def program(spec: Object) -> Program:
    """The program of a spec; the same spec is compiled once."""
    return _program(json.dumps(spec, sort_keys=True))


@dataclass(frozen=True, slots=True)
class _Compiled:
    expression: str
    program: cel.Expression | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request, as policies look at it."""

    call: Call
    operation: str
    new: Object | None
    old: Object | None
    namespace: Object | None
    """The namespace that it is in, or is about."""

    @property
    def name(self) -> str:
        """The name that the request is about: none, if it deletes a collection."""
        if self.call.verb == "deletecollection":
            return ""
        return self.call.name or str((self.new or self.old or {})["metadata"].get("name", ""))

    def selected_by(self, match: Object, *, everything: bool = False) -> bool:
        """``everything``: whether no rules at all select every request, as in a binding."""
        rules = match.get("resourceRules") or []
        if not any(map(self._covered, rules)) and not (everything and not rules):
            return False
        if any(map(self._covered, match.get("excludeResourceRules") or [])):
            return False
        if self.namespace and not _labelled(match.get("namespaceSelector"), self.namespace):
            return False
        selector = match.get("objectSelector")
        return not selector or any(_labelled(selector, obj) for obj in (self.new, self.old) if obj)

    def _covered(self, rule: Object) -> bool:
        resource = self.call.resource
        scope = "Namespaced" if resource.namespaced else "Cluster"
        asked = {"operations": self.operation, "apiGroups": resource.group, "apiVersions": resource.version}
        return (
            rule.get("scope", "*") in {"*", scope}
            and all("*" in rule[key] or value in rule[key] for key, value in asked.items())
            and (not rule.get("resourceNames") or self.name in rule["resourceNames"])
            and any(
                wanted.partition("/")[0] in {"*", resource.plural}
                and wanted.partition("/")[2] in {"*", self.call.subresource}
                for wanted in rule["resources"]
            )
        )

    def data(self, params: Object | None) -> Object:
        """The variables of the expressions."""
        call, resource = self.call, self.call.resource
        version = {"group": resource.group, "version": resource.version}
        request: Object = {
            "kind": {**version, "kind": resource.kind},
            "resource": {**version, "resource": resource.plural},
            "name": self.name,
            "operation": self.operation,
            "dryRun": call.dry_run,
            "options": {},
            "userInfo": user_info(call.user),
        }
        request |= {"namespace": call.namespace} if call.namespace else {}
        request |= {"subResource": call.subresource} if call.subresource else {}
        namespace = None if resource.kind == "Namespace" else self.namespace
        variables = {"object": self.new, "oldObject": self.old, "namespaceObject": namespace, "request": request}
        return variables | {"params": params}

    def denials(self, spec: Object, params: Object | None) -> Iterator[tuple[str, str]]:
        """What a policy with this parameter has against it: message and reason."""
        expressions, fails = program(spec), spec["failurePolicy"] == "Fail"
        activation = _scope().Activation(self.data(params))
        try:
            if not all(expressions.value(condition, activation) for condition in expressions.conditions):
                return
        except CelError as error:
            if fails:
                yield str(error), "Invalid"
            return
        for expression, message, item in expressions.validations:
            try:
                if expressions.value(expression, activation) is not True:
                    yield _message(message, item, activation), item.get("reason") or "Invalid"
            except CelError as error:
                if fails:
                    yield str(error), "Invalid"


class Policies:
    """The policies in the store, compiled when they are first needed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def admit(self, call: Call, operation: str, new: Object | None, old: Object | None) -> None:
        """Raise StatusError for the first denial; add the warnings of others to the call's."""
        if call.resource.group == "admissionregistration.k8s.io":
            return  # so that a policy can always be repaired
        stored = self._store.get("namespaces", ("", call.namespace))
        namespace = (new or old) if call.resource.kind == "Namespace" else stored.obj if stored else None
        asked = _Asked(call, operation, new, old, namespace)
        denials: list[StatusError] = []
        for binding in self._all("validatingadmissionpolicybindings"):
            policy = self._store.get("validatingadmissionpolicies", ("", binding["spec"]["policyName"]))
            if policy is None or not asked.selected_by(policy.obj["spec"]["matchConstraints"]):
                continue
            if not asked.selected_by(binding["spec"].get("matchResources") or {}, everything=True):
                continue
            actions = binding["spec"]["validationActions"]
            where = f"'{binding['spec']['policyName']}' with binding '{binding['metadata']['name']}'"
            for message, reason in self._denials(asked, policy.obj["spec"], binding["spec"].get("paramRef")):
                if "Warn" in actions:
                    call.warnings.append(f"Validation failed for ValidatingAdmissionPolicy {where}: {message}")
                if "Deny" in actions:
                    text = f"ValidatingAdmissionPolicy {where} denied request: {message}"
                    denials.append(_refusal(asked, text, reason))
        if denials:
            raise denials[0]

    def _denials(self, asked: _Asked, spec: Object, ref: Object | None) -> Iterator[tuple[str, str]]:
        """Evaluate once for each parameter."""
        if not spec.get("paramKind") or not ref:
            yield from asked.denials(spec, None)
            return
        found = [
            obj
            for obj in self._all(PARAMETERS[spec["paramKind"]["apiVersion"], spec["paramKind"]["kind"]])
            if obj["metadata"]["namespace"] == (ref.get("namespace") or asked.call.namespace)
            and (obj["metadata"]["name"] == ref["name"] if ref.get("name") else _labelled(ref.get("selector"), obj))
        ]
        for params in found:
            yield from asked.denials(spec, params)
        if not found and ref["parameterNotFoundAction"] == "Deny" and spec["failurePolicy"] == "Fail":
            yield (
                "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
                "Invalid",
            )

    def _all(self, collection: str) -> list[Object]:
        objects = self._store.collection(collection).objects
        return [objects[key].obj for key in sorted(objects)]


def _labelled(selector: Object | None, obj: Object) -> bool:
    return match_label_selector(selector or {}, obj["metadata"].get("labels") or {})


def _message(expression: _Compiled, item: Object, activation: cel.Activation) -> str:
    if expression.program is not None:
        with contextlib.suppress(CelError):
            return str(evaluated(expression.program, activation)).strip()
    return item.get("message", "").strip() or f"failed expression: {item['expression'].strip()}"


def _refusal(asked: _Asked, text: str, reason: str) -> StatusError:
    name = asked.name or ((asked.new or {}).get("metadata") or {}).get("generateName") or "Unknown"
    refusal = forbidden(asked.call.resource, name, text, {"message": text})
    refusal.reason, refusal.code = reason, _CODES[reason]
    return refusal
