"""The resources that the server has, as one table. Everything else is generic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import rules_access, rules_apps, rules_claims, rules_core, rules_policy, rules_slices
from driver.sim.apiserver.context import Context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.sim.apiserver.errors import FieldError

    Object = dict[str, Any]
    Prepare = Callable[[Object, Object | None, Context], None]
    Validate = Callable[[Object, Object | None, Context], list[FieldError]]
    Getter = Callable[[Mapping[str, Any]], str]


def _nothing(_new: dict[str, Any], _old: dict[str, Any] | None, _context: Context) -> None:
    return None


def _valid(_new: dict[str, Any], _old: dict[str, Any] | None, _context: Context) -> list[FieldError]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resource:
    """One row: names, scope, and the hooks in which one kind differs from another.

    A hook gets the new object, the stored one (None on create) and the context. ``prepare`` hooks change the new object
    in place (defaults, fields behind gates); ``validate`` hooks only look.
    """

    group: str
    version: str
    kind: str
    plural: str
    definition: str
    """The type's name in the OpenAPI document."""
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    subresources: tuple[str, ...] = ()
    generation: bool = False
    """Whether metadata.generation counts changes of the spec."""
    label_names: bool = False
    """Names are DNS labels rather than subdomains."""
    path_names: bool = False
    """Names may be anything that fits into a URL path."""
    verbs: tuple[str, ...] = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
    """A resource that can only be created is a question: it is answered and not stored."""
    status_resets_metadata: bool = True
    """Whether a write to the status leaves labels, annotations, owners and finalizers alone."""
    returns_deleted: bool = True
    """Whether DELETE answers with the object (or with a Status)."""
    create_on_update: bool = False
    prepare: Prepare = _nothing
    admit: Prepare = _nothing
    """What the server adds to a new object of its own accord: no client owns these fields."""
    validate: Validate = _valid
    prepare_status: Prepare = _nothing
    validate_status: Validate = _valid
    warn: Callable[[Object], list[str]] | None = None
    """What to warn the client of, besides unknown fields."""
    fields: dict[str, Getter] = field(default_factory=dict)
    """Field selectors besides metadata.name and metadata.namespace."""
    storage: str = ""
    """Key of the stored collection; two versions or groups may show the same one."""

    @property
    def stored(self) -> bool:
        """Whether there are objects of it."""
        return self.verbs != _QUESTION

    @property
    def group_version(self) -> str:
        """``apiVersion`` of the objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """``plural.group``, as messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def root(self) -> str:
        """The URL path of the group version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


_QUESTION = ("create",)


def _get(*path: str) -> Getter:
    def getter(obj: Mapping[str, Any]) -> str:
        value: Any = obj
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, bool):
            return str(value).lower()
        return "" if value is None else str(value)

    return getter


_META_FIELDS: dict[str, Getter] = {
    "metadata.name": _get("metadata", "name"),
    "metadata.namespace": _get("metadata", "namespace"),
}


def field_getters(resource: Resource) -> dict[str, Getter]:
    """All field selectors of a resource."""
    known = dict(_META_FIELDS)
    if not resource.namespaced:
        del known["metadata.namespace"]
    return known | resource.fields


_EVENT_FIELDS = {
    **{
        f"involvedObject.{key}": _get("involvedObject", key)
        for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    },
    "reason": _get("reason"),
    "reportingComponent": _get("reportingComponent"),
    "source": lambda obj: _get("source", "component")(obj) or _get("reportingComponent")(obj),
    "type": _get("type"),
}
_EVENTS_V1_FIELDS = {
    **{
        f"regarding.{key}": _get("regarding", key)
        for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    },
    "reason": _get("reason"),
    "reportingController": _get("reportingController"),
    "type": _get("type"),
}

_V1 = "io.k8s.api.core.v1."
_DRA = "io.k8s.api.resource.v1."

RESOURCES: tuple[Resource, ...] = (
    Resource(
        group="",
        version="v1",
        kind="Namespace",
        plural="namespaces",
        definition=_V1 + "Namespace",
        namespaced=False,
        short_names=("ns",),
        status=True,
        subresources=("finalize",),
        label_names=True,
        prepare=rules_core.prepare_namespace,
        admit=rules_core.admit_namespace,
        fields={"status.phase": _get("status", "phase")},
    ),
    Resource(
        group="",
        version="v1",
        kind="Node",
        plural="nodes",
        definition=_V1 + "Node",
        namespaced=False,
        short_names=("no",),
        status=True,
        status_resets_metadata=False,
        returns_deleted=False,
        prepare=rules_core.prepare_node,
        prepare_status=rules_core.prepare_node_status,
        validate=rules_core.validate_node,
        fields={"spec.unschedulable": lambda obj: _get("spec", "unschedulable")(obj) or "false"},
    ),
    Resource(
        group="",
        version="v1",
        kind="Pod",
        plural="pods",
        definition=_V1 + "Pod",
        short_names=("po",),
        categories=("all",),
        status=True,
        subresources=("log", "binding", "eviction", "resize"),
        generation=True,
        status_resets_metadata=False,
        prepare=rules_core.prepare_pod,
        admit=rules_core.admit_pod,
        validate=rules_core.validate_pod,
        prepare_status=rules_core.prepare_pod_status,
        fields={
            "spec.nodeName": _get("spec", "nodeName"),
            "spec.restartPolicy": _get("spec", "restartPolicy"),
            "spec.schedulerName": _get("spec", "schedulerName"),
            "spec.serviceAccountName": _get("spec", "serviceAccountName"),
            "spec.hostNetwork": lambda obj: _get("spec", "hostNetwork")(obj) or "false",
            "status.phase": _get("status", "phase"),
            "status.podIP": _get("status", "podIP"),
            "status.nominatedNodeName": _get("status", "nominatedNodeName"),
        },
    ),
    Resource(
        group="",
        version="v1",
        kind="Event",
        plural="events",
        definition=_V1 + "Event",
        short_names=("ev",),
        returns_deleted=False,
        create_on_update=True,
        prepare=rules_core.prepare_event,
        fields=_EVENT_FIELDS,
        storage="events",
    ),
    Resource(
        group="events.k8s.io",
        version="v1",
        kind="Event",
        plural="events",
        definition="io.k8s.api.events.v1.Event",
        short_names=("ev",),
        returns_deleted=False,
        create_on_update=True,
        fields=_EVENTS_V1_FIELDS,
        storage="events",
    ),
    Resource(
        group="",
        version="v1",
        kind="ServiceAccount",
        plural="serviceaccounts",
        definition=_V1 + "ServiceAccount",
        short_names=("sa",),
        subresources=("token",),
    ),
    Resource(
        group="",
        version="v1",
        kind="ConfigMap",
        plural="configmaps",
        definition=_V1 + "ConfigMap",
        short_names=("cm",),
        returns_deleted=False,
        validate=rules_core.validate_configmap,
    ),
    Resource(
        group="batch",
        version="v1",
        kind="Job",
        plural="jobs",
        definition="io.k8s.api.batch.v1.Job",
        categories=("all",),
        status=True,
        generation=True,
        returns_deleted=False,
        prepare=rules_core.prepare_job,
        admit=rules_core.admit_job,
        validate=rules_core.validate_job,
        fields={"status.successful": lambda obj: _get("status", "succeeded")(obj) or "0"},
    ),
    Resource(
        group="coordination.k8s.io",
        version="v1",
        kind="Lease",
        plural="leases",
        definition="io.k8s.api.coordination.v1.Lease",
        returns_deleted=False,
        create_on_update=True,
    ),
    Resource(
        group="resource.k8s.io",
        version="v1",
        kind="DeviceClass",
        plural="deviceclasses",
        definition=_DRA + "DeviceClass",
        namespaced=False,
        generation=True,
        prepare=rules_claims.prepare_class,
        validate=rules_claims.validate_class,
    ),
    Resource(
        group="resource.k8s.io",
        version="v1",
        kind="ResourceClaim",
        plural="resourceclaims",
        definition=_DRA + "ResourceClaim",
        status=True,
        prepare=rules_claims.prepare_claim,
        admit=rules_claims.admit_claim,
        validate=rules_claims.validate_claim,
        prepare_status=rules_claims.prepare_claim_status,
        validate_status=rules_claims.validate_claim_status,
    ),
    Resource(
        group="resource.k8s.io",
        version="v1",
        kind="ResourceClaimTemplate",
        plural="resourceclaimtemplates",
        definition=_DRA + "ResourceClaimTemplate",
        prepare=rules_claims.prepare_template,
        validate=rules_claims.validate_template,
    ),
    Resource(
        group="resource.k8s.io",
        version="v1",
        kind="ResourceSlice",
        plural="resourceslices",
        definition=_DRA + "ResourceSlice",
        namespaced=False,
        generation=True,
        prepare=rules_slices.prepare_slice,
        validate=rules_slices.validate_slice,
        warn=rules_slices.slice_warnings,
        fields={"spec.nodeName": _get("spec", "nodeName"), "spec.driver": _get("spec", "driver")},
    ),
    Resource(
        group="resource.k8s.io",
        version="v1beta2",
        kind="DeviceTaintRule",
        plural="devicetaintrules",
        definition="io.k8s.api.resource.v1beta2.DeviceTaintRule",
        namespaced=False,
        status=True,
        generation=True,
        prepare=rules_slices.prepare_taint_rule,
        admit=rules_claims.admit_claim,
        validate=rules_slices.validate_taint_rule,
        validate_status=rules_slices.validate_taint_rule_status,
    ),
    Resource(
        group="",
        version="v1",
        kind="Secret",
        plural="secrets",
        definition=_V1 + "Secret",
        returns_deleted=False,
        prepare=rules_core.prepare_secret,
        fields={"type": _get("type")},
    ),
    Resource(
        group="",
        version="v1",
        kind="Service",
        plural="services",
        definition=_V1 + "Service",
        short_names=("svc",),
        categories=("all",),
        status=True,
        prepare=rules_core.prepare_service,
        validate=rules_core.validate_service,
    ),
    Resource(
        group="",
        version="v1",
        kind="ResourceQuota",
        plural="resourcequotas",
        definition=_V1 + "ResourceQuota",
        short_names=("quota",),
        status=True,
        validate=rules_apps.validate_quota,
    ),
    Resource(
        group="apps",
        version="v1",
        kind="DaemonSet",
        plural="daemonsets",
        definition="io.k8s.api.apps.v1.DaemonSet",
        short_names=("ds",),
        categories=("all",),
        status=True,
        generation=True,
        returns_deleted=False,
        prepare=rules_apps.prepare_daemon_set,
        admit=rules_apps.admit_daemon_set,
        validate=rules_apps.validate_daemon_set,
    ),
    Resource(
        group="networking.k8s.io",
        version="v1",
        kind="NetworkPolicy",
        plural="networkpolicies",
        definition="io.k8s.api.networking.v1.NetworkPolicy",
        short_names=("netpol",),
        generation=True,
        returns_deleted=False,
        prepare=rules_apps.prepare_network_policy,
        validate=rules_apps.validate_network_policy,
    ),
    Resource(
        group="policy",
        version="v1",
        kind="PodDisruptionBudget",
        plural="poddisruptionbudgets",
        definition="io.k8s.api.policy.v1.PodDisruptionBudget",
        short_names=("pdb",),
        status=True,
        generation=True,
        returns_deleted=False,
        validate=rules_apps.validate_disruption_budget,
    ),
    Resource(
        group="scheduling.k8s.io",
        version="v1",
        kind="PriorityClass",
        plural="priorityclasses",
        definition="io.k8s.api.scheduling.v1.PriorityClass",
        namespaced=False,
        short_names=("pc",),
        generation=True,
        returns_deleted=False,
        prepare=rules_apps.prepare_priority_class,
        validate=rules_apps.validate_priority_class,
    ),
    *(
        Resource(
            group="rbac.authorization.k8s.io",
            version="v1",
            kind=kind,
            plural=f"{kind.lower()}s",
            definition=f"io.k8s.api.rbac.v1.{kind}",
            namespaced=not kind.startswith("Cluster"),
            path_names=True,
            returns_deleted=False,
            validate=rules_access.validate_role,
        )
        for kind in ("Role", "ClusterRole")
    ),
    *(
        Resource(
            group="rbac.authorization.k8s.io",
            version="v1",
            kind=kind,
            plural=f"{kind.lower()}s",
            definition=f"io.k8s.api.rbac.v1.{kind}",
            namespaced=not kind.startswith("Cluster"),
            path_names=True,
            returns_deleted=False,
            prepare=rules_access.prepare_binding,
            validate=rules_access.validate_binding,
        )
        for kind in ("RoleBinding", "ClusterRoleBinding")
    ),
    Resource(
        group="admissionregistration.k8s.io",
        version="v1",
        kind="ValidatingAdmissionPolicy",
        plural="validatingadmissionpolicies",
        definition="io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
        namespaced=False,
        status=True,
        generation=True,
        returns_deleted=False,
        prepare=rules_policy.prepare_policy,
        validate=rules_policy.validate_policy,
    ),
    Resource(
        group="admissionregistration.k8s.io",
        version="v1",
        kind="ValidatingAdmissionPolicyBinding",
        plural="validatingadmissionpolicybindings",
        definition="io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
        namespaced=False,
        generation=True,
        returns_deleted=False,
        prepare=rules_policy.prepare_policy_binding,
        validate=rules_policy.validate_policy_binding,
    ),
    *(
        Resource(
            group=group,
            version="v1",
            kind=kind,
            plural=f"{kind.lower()}s",
            definition=f"io.k8s.api.{group.split('.')[0]}.v1.{kind}",
            namespaced=kind.startswith("Local"),
            verbs=_QUESTION,
        )
        for group, kinds in (
            (
                "authorization.k8s.io",
                (
                    "LocalSubjectAccessReview",
                    "SelfSubjectAccessReview",
                    "SelfSubjectRulesReview",
                    "SubjectAccessReview",
                ),
            ),
            ("authentication.k8s.io", ("SelfSubjectReview", "TokenReview")),
        )
        for kind in kinds
    ),
)

BY_PATH: dict[tuple[str, str, str], Resource] = {(r.group, r.version, r.plural): r for r in RESOURCES}
"""(group, version, plural) to resource."""
BY_KIND: dict[tuple[str, str], Resource] = {(r.group_version, r.kind): r for r in RESOURCES}
"""(apiVersion, kind) to resource."""
NAMESPACES = BY_PATH["", "v1", "namespaces"]
PODS = BY_PATH["", "v1", "pods"]
ACCOUNTS = BY_PATH["", "v1", "serviceaccounts"]
