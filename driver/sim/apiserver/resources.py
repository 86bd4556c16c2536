"""The resources that the server has, as one table. Everything else is generic."""

from __future__ import annotations

from typing import Any

from driver.sim.apiserver import rules_apps, rules_claims, rules_core, rules_policy, rules_slices
from driver.sim.apiserver.release import V1_36, V1_37
from driver.sim.apiserver.resource import Resource


def _row(group_version: str, kind: str, **more: Any) -> Resource:
    group, _, version = group_version.rpartition("/")
    word = kind.lower()
    plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}es" if word.endswith("s") else f"{word}s"
    return Resource(group=group, version=version, kind=kind, plural=plural, **more)


_CLUSTER: dict[str, Any] = {"namespaced": False}
_DRA = "resource.k8s.io/v1"
_BINDING = {"prepare": rules_core.prepare_binding, "validate": rules_core.validate_binding}
_POLICY = "admissionregistration.k8s.io/v1"

RESOURCES: tuple[Resource, ...] = (
    _row("v1", "Namespace", **_CLUSTER, short="ns", status=True, prepare=rules_core.prepare_namespace),
    _row("v1", "Node", **_CLUSTER, short="no", status=True, prepare=rules_core.prepare_node),
    _row(
        "v1", "Pod", short="po", status=True, generation=True, subresources=("log", "binding", "eviction", "resize"),
        prepare=rules_core.prepare_pod, validate=rules_core.validate_pod, prepare_status=rules_core.prepare_pod_status,
        fields=("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "status.phase"),
    ),
    _row(
        "v1", "Event", short="ev", prepare=rules_core.prepare_event,
        fields=(
            *(f"involvedObject.{key}" for key in ("kind", "namespace", "name", "uid", "apiVersion", "fieldPath")),
            "reason", "source", "type",
        ),
    ),
    _row("v1", "ServiceAccount", short="sa"),
    _row("v1", "ConfigMap", short="cm"),
    _row("v1", "Secret"),
    _row("v1", "Service", short="svc", status=True),
    _row("v1", "ResourceQuota", short="quota", status=True, validate=rules_apps.validate_quota),
    _row(
        "batch/v1", "Job", status=True, generation=True,
        prepare=rules_apps.prepare_job, validate=rules_apps.validate_job,
    ),
    _row("coordination.k8s.io/v1", "Lease"),
    _row(
        _DRA, "DeviceClass", **_CLUSTER, generation=True,
        prepare=rules_claims.prepare_class, validate=rules_claims.validate_class,
    ),
    _row(
        _DRA, "ResourceClaim", status=True,
        prepare=rules_claims.prepare_claim, validate=rules_claims.validate_claim,
        prepare_status=rules_claims.prepare_claim_status, validate_status=rules_claims.validate_claim_status,
    ),
    _row(
        _DRA, "ResourceClaimTemplate", prepare=rules_claims.prepare_template, validate=rules_claims.validate_template
    ),
    _row(
        _DRA, "ResourceSlice", **_CLUSTER, generation=True,
        prepare=rules_slices.prepare_slice, validate=rules_slices.validate_slice,
        fields=("spec.nodeName", "spec.driver"),
    ),
    *(
        _row(
            version, "DeviceTaintRule", **_CLUSTER, status=True, generation=True,
            prepare=rules_slices.prepare_taint_rule, validate=rules_slices.validate_taint_rule,
        )
        for version in (V1_36.taint_rules, V1_37.taint_rules)
    ),
    _row(
        "apps/v1", "DaemonSet", short="ds", status=True, generation=True,
        prepare=rules_apps.prepare_daemon_set, validate=rules_apps.validate_daemon_set,
    ),
    _row("networking.k8s.io/v1", "NetworkPolicy", short="netpol"),
    _row("policy/v1", "PodDisruptionBudget", short="pdb", status=True),
    _row(f"{rules_core.RBAC}/v1", "Role"),
    _row(f"{rules_core.RBAC}/v1", "ClusterRole", **_CLUSTER),
    _row(f"{rules_core.RBAC}/v1", "RoleBinding", **_BINDING),
    _row(f"{rules_core.RBAC}/v1", "ClusterRoleBinding", **_CLUSTER, **_BINDING),
    _row(
        _POLICY, "ValidatingAdmissionPolicy", **_CLUSTER, status=True, generation=True,
        prepare=rules_policy.prepare_policy, validate=rules_policy.validate_policy,
    ),
    _row(
        _POLICY, "ValidatingAdmissionPolicyBinding", **_CLUSTER, generation=True,
        prepare=rules_policy.prepare_policy_binding, validate=rules_policy.validate_policy_binding,
    ),
    *(
        _row("authorization.k8s.io/v1", kind, **_CLUSTER, stored=False)
        for kind in ("SelfSubjectAccessReview", "SubjectAccessReview")
    ),
    _row("authentication.k8s.io/v1", "SelfSubjectReview", **_CLUSTER, stored=False),
)  # fmt: skip

BY_PATH: dict[tuple[str, str, str], Resource] = {(r.group, r.version, r.plural): r for r in RESOURCES}
"""(group, version, plural) to resource."""
BY_KIND: dict[tuple[str, str], Resource] = {(r.group_version, r.kind): r for r in RESOURCES}
"""(apiVersion, kind) to resource."""
NAMESPACES = BY_PATH["", "v1", "namespaces"]
PODS = BY_PATH["", "v1", "pods"]
