"""What clients ask before they ask for objects: versions, groups, resources, and whether fields are validated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from driver.sim.apiserver.release import Release
    from driver.sim.apiserver.resource import Resource

    Object = dict[str, Any]

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_SUBRESOURCES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "status": ("", "", ("get", "patch", "update")),
    "log": ("", "", ("get",)),
    "binding": ("", "Binding", ("create",)),
    "eviction": ("policy", "Eviction", ("create",)),
    "resize": ("", "", ("get", "patch", "update")),
}
_ALL = {"pods", "services", "jobs", "daemonsets"}
"""What ``kubectl get all`` shows."""


def aggregated(resources: Iterable[Resource], *, core: bool) -> Object:
    """Aggregated discovery (apidiscovery.k8s.io/v2) of ``/api`` or ``/apis``."""
    groups: dict[str, dict[str, list[Object]]] = {}
    for resource in resources:
        if bool(resource.group) is not core:
            groups.setdefault(resource.group, {}).setdefault(resource.version, []).append(_discovered(resource))
    items = [
        {
            "metadata": {"name": group} if group else {},
            "versions": [{"version": version, "freshness": "Current", "resources": listed}
                         for version, listed in versions.items()],
        }
        for group, versions in groups.items()
    ]  # fmt: skip
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _subresources(resource: Resource) -> list[str]:
    return (["status"] if resource.status else []) + list(resource.subresources)


def _names(resource: Resource) -> Object:
    found: Object = {"verbs": list(resource.verbs)}
    if resource.short:
        found["shortNames"] = [resource.short]
    if resource.plural in _ALL:
        found["categories"] = ["all"]
    return found


def _discovered(resource: Resource) -> Object:
    def kind(group: str, version: str, name: str) -> Object:
        return {"group": group, "version": version, "kind": name}

    subresources = []
    for name in _subresources(resource):
        group, other, verbs = _SUBRESOURCES[name]
        response = kind(group or resource.group, "v1" if other else resource.version, other or resource.kind)
        subresources.append({"subresource": name, "responseKind": response, "verbs": list(verbs)})
    return {
        "resource": resource.plural,
        "responseKind": kind(resource.group, resource.version, resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.kind.lower(),
        "subresources": subresources,
        **_names(resource),
    }


def version(release: Release) -> Object:
    """What ``/version`` answers."""
    return {"major": "1", "minor": release.minor, "gitVersion": release.version, "platform": "linux/amd64"}


def document(resources: Sequence[Resource], path: str, release: Release) -> Object | None:
    """``/apis/<group>``, the resources of ``<root>``, ``/openapi/v3`` and ``/openapi/v3<root>``; None if it is not."""
    roots = list(dict.fromkeys(resource.root for resource in resources))
    if path in roots:
        return _resource_list([resource for resource in resources if resource.root == path])
    if path == "/openapi/v3":
        return {"paths": {root.strip("/"): {"serverRelativeURL": f"/openapi/v3{root}"} for root in roots}}
    if path.removeprefix("/openapi/v3") in roots:
        return _openapi([r for r in resources if r.root == path.removeprefix("/openapi/v3")], release)
    versions = [root.rpartition("/")[2] for root in roots if root.rpartition("/")[0] == path]
    if not versions:
        return None
    group = path.rpartition("/")[2]
    listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": listed, "preferredVersion": listed[0]}


def _resource_list(resources: Sequence[Resource]) -> Object:
    listed: list[Object] = []
    for resource in resources:
        scope = {"namespaced": resource.namespaced}
        names = {"name": resource.plural, "singularName": resource.kind.lower(), "kind": resource.kind}
        listed.append(names | scope | _names(resource))
        for name in _subresources(resource):
            group, kind, verbs = _SUBRESOURCES[name]
            names = {"name": f"{resource.plural}/{name}", "singularName": "", "kind": kind or resource.kind}
            where = {"group": group, "version": "v1"} if group else {}
            listed.append({**names, **scope, **where, "verbs": list(verbs)})
    version = resources[0].group_version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": listed}


def _openapi(resources: Sequence[Resource], release: Release) -> Object:
    """Just enough for kubectl to leave the validation of fields to the server: no schemas."""
    parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
    paths: Object = {}
    for resource in resources:
        kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        operation = {"parameters": parameters, "x-kubernetes-group-version-kind": kind}
        where = "/namespaces/{namespace}" if resource.namespaced else ""
        paths[f"{resource.root}{where}/{resource.plural}/{{name}}"] = {"patch": operation}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": release.version}, "paths": paths}
