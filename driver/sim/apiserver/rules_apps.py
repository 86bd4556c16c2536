"""What an installed chart consists of besides roles: daemon sets, network policies, priorities, budgets, quotas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import checks, quantity
from driver.sim.apiserver.errors import FieldError, forbidden_field, invalid_value, required, unsupported
from driver.sim.apiserver.rules_core import default_pod_spec, pod_spec_errors
from driver.sim.apiserver.selectors import match_label_selector

if TYPE_CHECKING:
    from driver.sim.apiserver.context import Context

    Object = dict[str, Any]
    Errors = list[FieldError]


# -- daemon sets -----------------------------------------------------------------------------------------------------


def prepare_daemon_set(new: Object, _old: Object | None, _context: Context) -> None:
    """Update strategy and pod template."""
    spec = new.setdefault("spec", {})
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    spec.setdefault("revisionHistoryLimit", 10)
    default_pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))


def admit_daemon_set(new: Object, _old: Object | None, _context: Context) -> None:
    """Its status: there is no controller here that would make pods of it."""
    new["status"] = dict.fromkeys(
        ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"), 0
    )


def validate_daemon_set(new: Object, old: Object | None, _context: Context) -> Errors:
    """Selector, template and update strategy."""
    spec = new["spec"]
    selector, template = spec.get("selector"), spec["template"]
    labels = (template.get("metadata") or {}).get("labels") or {}
    errors: Errors = []
    if selector is None or not match_label_selector(selector, labels):
        detail = "`selector` does not match template `labels`"
        errors.append(invalid_value("spec.template.metadata.labels", labels, detail))
    elif not selector:
        errors.append(invalid_value("spec.selector", selector, "empty selector is invalid for daemonset"))
    errors += pod_spec_errors(template["spec"], "spec.template.spec", restart=("Always",))
    errors += _update_strategy(spec["updateStrategy"], "spec.updateStrategy")
    if old is not None:
        errors += checks.immutable(selector, old["spec"].get("selector"), "spec.selector")
    return errors


def _update_strategy(strategy: Object, path: str) -> Errors:
    if strategy["type"] == "OnDelete":
        return []
    if strategy["type"] != "RollingUpdate":
        shown = {"Type": strategy["type"], "RollingUpdate": None}
        return [unsupported(path, shown, ("RollingUpdate", "OnDelete"))]
    rolling, where = strategy["rollingUpdate"], f"{path}.rollingUpdate"
    errors = [e for key in ("maxUnavailable", "maxSurge") for e in _share(rolling[key], f"{where}.{key}")]
    unavailable, surge = (str(rolling[key]).rstrip("%").strip("0").isdigit() for key in ("maxUnavailable", "maxSurge"))
    if unavailable and surge:
        detail = "may not be set when maxUnavailable is non-zero"
        errors.append(invalid_value(f"{where}.maxSurge", rolling["maxSurge"], detail))
    elif not unavailable and not surge:
        errors.append(required(f"{where}.maxUnavailable", "cannot be 0 when maxSurge is 0"))
    return errors


def _share(value: int | str, path: str) -> Errors:
    """A number of pods, or a percentage."""
    if isinstance(value, int):
        return [] if value >= 0 else [invalid_value(path, value, "must be greater than or equal to 0")]
    if not (value.endswith("%") and value[:-1].isdigit()):
        wanted = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', "
        return [invalid_value(path, value, wanted + "regex used for validation is '[0-9]+%')")]
    return [] if int(value[:-1]) <= 100 else [invalid_value(path, value, "must not be greater than 100%")]


# -- others ----------------------------------------------------------------------------------------------------------


def prepare_network_policy(new: Object, _old: Object | None, _context: Context) -> None:
    """Policy types, protocols."""
    spec = new.setdefault("spec", {})
    spec.setdefault("podSelector", {})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in [*(spec.get("ingress") or []), *(spec.get("egress") or [])]:
        for port in rule.get("ports") or []:
            port.setdefault("protocol", "TCP")


def validate_network_policy(new: Object, _old: Object | None, _context: Context) -> Errors:
    """Peers and policy types."""
    errors: Errors = []
    for rules, side in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(new["spec"].get(rules) or []):
            for number, peer in enumerate(rule.get(side) or []):
                path = f"spec.{rules}[{index}].{side}[{number}]"
                if not peer:
                    errors.append(required(path, "must specify a peer"))
                elif "ipBlock" in peer and len(peer) > 1:
                    detail = "may not specify both ipBlock and another peer"
                    errors.append(forbidden_field(path, detail))
    for index, kind in enumerate(new["spec"]["policyTypes"]):
        if kind not in {"Ingress", "Egress"}:
            errors.append(unsupported(f"spec.policyTypes[{index}]", kind, ("Ingress", "Egress")))
    return errors


def prepare_priority_class(new: Object, _old: Object | None, _context: Context) -> None:
    """The preemption policy."""
    new.setdefault("preemptionPolicy", "PreemptLowerPriority")


SYSTEM_PRIORITIES = {"system-cluster-critical": 2000000000, "system-node-critical": 2000001000}
_HIGHEST = 1000000000


def validate_priority_class(new: Object, old: Object | None, _context: Context) -> Errors:
    """Its value, which never changes."""
    name, value = new["metadata"].get("name", ""), new.get("value", 0)
    errors: Errors = []
    if name.startswith("system-"):
        if SYSTEM_PRIORITIES.get(name) != value:
            detail = "priority class names with 'system-' prefix are reserved for system use only. error: "
            errors.append(forbidden_field("metadata.name", f"{detail}{name} is not a known system priority class"))
    elif value > _HIGHEST:
        errors.append(forbidden_field("value", f"maximum allowed value of a user defined priority is {_HIGHEST}"))
    if old is not None and value != old.get("value", 0):
        errors.append(forbidden_field("value", "may not be changed in an update."))
    return errors


def validate_disruption_budget(new: Object, _old: Object | None, _context: Context) -> Errors:
    """One of two limits."""
    spec = new.get("spec") or {}
    errors: Errors = []
    if "minAvailable" in spec and "maxUnavailable" in spec:
        errors.append(invalid_value("spec", spec, "minAvailable and maxUnavailable cannot be both set"))
    for key in ("minAvailable", "maxUnavailable"):
        if key in spec:
            errors += _share(spec[key], f"spec.{key}")
    return errors


# -- quotas ----------------------------------------------------------------------------------------------------------

_COMPUTE = {"cpu", "memory", "ephemeral-storage"}
_STANDARD = (
    _COMPUTE
    | {f"{kind}.{name}" for kind in ("requests", "limits") for name in _COMPUTE}
    | {"requests.storage", "pods", "resourcequotas", "services", "replicationcontrollers", "secrets"}
    | {"persistentvolumeclaims", "configmaps", "services.nodeports", "services.loadbalancers"}
)
_WHOLE = {name for name in _STANDARD if "." not in name} - _COMPUTE


def validate_quota(new: Object, old: Object | None, _context: Context) -> Errors:
    """Names and amounts of what is limited."""
    errors: Errors = []
    spec = new.get("spec") or {}
    for name, amount in (spec.get("hard") or {}).items():
        path = f"spec.hard[{name}]"
        errors += checks.label_name(name, path)
        if "/" not in name and name not in _STANDARD:
            errors.append(invalid_value(path, name, "must be a standard resource type or fully qualified"))
            errors.append(invalid_value(path, name, "must be a standard resource for quota"))
        number = quantity.value(amount)
        if number < 0:
            errors.append(invalid_value(path, amount, "must be greater than or equal to 0"))
        if number.denominator != 1 and (name in _WHOLE or "/" in name):
            errors.append(invalid_value(path, amount, "must be an integer"))
    if old is not None:
        before = (old.get("spec") or {}).get("scopes") or []
        errors += checks.immutable(sorted(spec.get("scopes") or []), sorted(before), "spec.scopes")
    return errors
