"""What makes pods, and what limits them: jobs, daemon sets, quotas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.sim import quantity
from driver.sim.apiserver import checks
from driver.sim.apiserver.errors import Errors, Object, invalid_value
from driver.sim.apiserver.rules_core import default_pod_spec, pod_spec_errors
from driver.sim.apiserver.selectors import match_label_selector

if TYPE_CHECKING:
    from driver.sim.apiserver.context import Context


def prepare_job(new: Object, old: Object | None, _context: Context) -> None:
    """Defaults of the spec, and the labels that tie the job to its pods."""
    spec = new.setdefault("spec", {})
    for key, value in (("parallelism", 1), ("completions", 1), ("backoffLimit", 6)):
        spec.setdefault(key, value)
    template = spec.setdefault("template", {})
    default_pod_spec(template.setdefault("spec", {}))
    if old is None:
        uid, name = new["metadata"]["uid"], new["metadata"].get("name", "")
        labels = template.setdefault("metadata", {}).setdefault("labels", {})
        for prefix in ("", "batch.kubernetes.io/"):
            labels[f"{prefix}controller-uid"], labels[f"{prefix}job-name"] = uid, name
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        new["status"] = {}


def validate_job(new: Object, old: Object | None, _context: Context) -> Errors:
    """The template of the pods, which never changes."""
    spec = new["spec"]
    if old is not None:
        return checks.immutable(spec.get("template"), old["spec"].get("template"), "spec.template")
    return pod_spec_errors(spec["template"]["spec"], "spec.template.spec", restart=("OnFailure", "Never"))


def prepare_daemon_set(new: Object, old: Object | None, _context: Context) -> None:
    """The pod template, and a status: there is no controller here that would make pods of it."""
    default_pod_spec(new.setdefault("spec", {}).setdefault("template", {}).setdefault("spec", {}))
    if old is None:
        keys = ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady")
        new["status"] = dict.fromkeys(keys, 0)


def validate_daemon_set(new: Object, old: Object | None, _context: Context) -> Errors:
    """Selector and template."""
    spec = new["spec"]
    selector, template = spec.get("selector") or {}, spec["template"]
    labels = (template.get("metadata") or {}).get("labels") or {}
    errors: Errors = []
    if not selector or not match_label_selector(selector, labels):
        detail = "`selector` does not match template `labels`"
        errors.append(invalid_value("spec.template.metadata.labels", labels, detail))
    errors += pod_spec_errors(template["spec"], "spec.template.spec", restart=("Always",))
    return errors + (checks.immutable(selector, old["spec"].get("selector"), "spec.selector") if old else [])


def validate_quota(new: Object, _old: Object | None, _context: Context) -> Errors:
    """Names and amounts of what is limited."""
    hard = ((new.get("spec") or {}).get("hard") or {}).items()
    negative = [(name, amount) for name, amount in hard if quantity.parse(amount) < 0]
    errors = [error for name, _ in hard for error in checks.label_name(name, f"spec.hard[{name}]")]
    return errors + [invalid_value(f"spec.hard[{name}]", amount, "must not be negative") for name, amount in negative]
