"""What a new server has before anybody asks: system namespaces, default roles and their bindings, priority classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    Object = dict[str, Any]

_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "patch", "update"]
_AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"
_HEALTH = ["/livez", "/readyz", "/healthz", "/version", "/version/"]
_DISCOVERY = [*_HEALTH, "/openapi", "/openapi/*", "/api", "/api/*", "/apis", "/apis/*"]
_EVERYBODY = ("system:authenticated", "system:unauthenticated")


def objects() -> Iterator[Object]:
    """The objects, in the order in which they are to be created."""
    for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    for name, value in (("system-cluster-critical", 2000000000), ("system-node-critical", 2000001000)):
        head = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
        yield {**head, "metadata": {"name": name}, "value": value}
    for name, rules in _ROLES.items():
        yield _role(name, rules=rules)
    for role, of in (("view", "edit"), ("edit", "admin"), ("admin", "")):
        labels = {f"{_AGGREGATE}{of}": "true"} if of else {}
        selector = {"matchLabels": {f"{_AGGREGATE}{role}": "true"}}
        yield _role(role, labels, aggregationRule={"clusterRoleSelectors": [selector]})
        yield _role(f"system:aggregate-to-{role}", {f"{_AGGREGATE}{role}": "true"}, rules=_AGGREGATED[role])
    for name, groups in _BINDINGS.items():
        yield {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group} for group in groups],
        }


def _role(name: str, labels: dict[str, str] | None = None, **fields: Any) -> Object:
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    return {**head, "metadata": {"name": name, "labels": labels or {}}, **fields}


def _rule(verbs: list[str], groups: str, resources: str) -> Object:
    return {"verbs": verbs, "apiGroups": groups.split(","), "resources": resources.split(" ")}


_ROLES: dict[str, list[Object]] = {
    "cluster-admin": [_rule(["*"], "*", "*"), {"verbs": ["*"], "nonResourceURLs": ["*"]}],
    "system:discovery": [{"verbs": ["get"], "nonResourceURLs": _DISCOVERY}],
    "system:public-info-viewer": [{"verbs": ["get"], "nonResourceURLs": _HEALTH}],
    "system:basic-user": [
        _rule(["create"], "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
        _rule(["create"], "authentication.k8s.io", "selfsubjectreviews"),
    ],
}
_BINDINGS: dict[str, tuple[str, ...]] = {
    "cluster-admin": ("system:masters",),
    "system:discovery": _EVERYBODY[:1],
    "system:basic-user": _EVERYBODY[:1],
    "system:public-info-viewer": _EVERYBODY,
}

# The parts of Kubernetes 1.36's roles for users that are about kinds that this server has.
_AGGREGATED: dict[str, list[Object]] = {
    "view": [
        _rule(_READ, "", "pods serviceaccounts services services/status configmaps"),
        _rule(_READ, "", "resourcequotas pods/status resourcequotas/status namespaces/status pods/log"),
        _rule(_READ, "", "namespaces"),
        _rule(_READ, ",events.k8s.io", "events"),
        _rule(_READ, "apps", "daemonsets daemonsets/status"),
        _rule(_READ, "batch", "jobs jobs/status"),
        _rule(_READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
        _rule(_READ, "networking.k8s.io", "networkpolicies"),
        _rule(_READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
    ],
    "edit": [
        _rule(_READ, "", "secrets"),
        _rule(["impersonate"], "", "serviceaccounts"),
        _rule(_WRITE, "", "pods"),
        _rule(["create"], "", "pods/eviction"),
        _rule(_WRITE, "", "serviceaccounts services configmaps secrets"),
        _rule(_WRITE, ",events.k8s.io", "events"),
        _rule(_WRITE, "apps", "daemonsets"),
        _rule(_WRITE, "batch", "jobs"),
        _rule(_WRITE, "policy", "poddisruptionbudgets"),
        _rule(_WRITE, "networking.k8s.io", "networkpolicies"),
        _rule(_READ + _WRITE, "coordination.k8s.io", "leases"),
        _rule(_WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
    ],
    "admin": [
        _rule(_READ + _WRITE, "rbac.authorization.k8s.io", "roles rolebindings"),
    ],
}
