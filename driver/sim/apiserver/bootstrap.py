"""What a new server has before anybody asks: system namespaces, default roles and their bindings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    Object = dict[str, Any]

_HEALTH = ["/livez", "/readyz", "/healthz", "/version", "/version/"]
_DISCOVERY = [*_HEALTH, "/openapi", "/openapi/*", "/api", "/api/*", "/apis", "/apis/*"]
_EVERYBODY = ("system:authenticated", "system:unauthenticated")


def objects() -> Iterator[Object]:
    """The objects, in the order in which they are to be created."""
    for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    for name, rules in _ROLES.items():
        yield _role(name, rules=rules)
    # Nothing of its own: what it may is what others add to it, so that a test sees what that is.
    label = {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}
    yield _role("edit", aggregationRule={"clusterRoleSelectors": [{"matchLabels": label}]})
    for name, groups in _BINDINGS.items():
        yield {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group} for group in groups],
        }


def _role(name: str, **fields: Any) -> Object:
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, **fields}


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
